// Package buildah is the engine that runs in this process: steps work on layers
// of containers-storage, a RUN is a container of an OCI runtime (or a chroot),
// images end in the store that podman and buildah show.
//
// A step gets a read-write layer on top of its input's, works in it, and leaves
// it unmounted: that is the snapshot. Nothing is tarred or digested before a
// layer becomes part of an image.
//
// The package schedules nothing, caches no results, and knows neither
// Dockerfiles nor build files. It is Linux only.
package buildah
