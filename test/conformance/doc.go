// Package conformance holds Dockerfiles that zbuild and a real buildkitd both
// build, and compares what comes out: the files with their modes, owners, links,
// extended attributes, times and contents, the image's configuration, its
// history, its number of layers, or the error and the line that it is at.
//
// Each case is a txtar archive in testdata, named after what it is about. Its
// comment says so in words and may have these lines:
//
//	fails: REGEXP     neither builds it, both for this reason
//	targets: A B      what is built and compared, "default" without it
//	env: NAME=VALUE   for both programs; may be repeated
//
// Its files are the build context. Three are special:
//
//	zbuild.hcl   the targets, for both programs; without it there is one, "default"
//	setup.sh     makes what an archive cannot hold: modes, links, archives; it is
//	             not part of the context
//	again/       files that are put over the context for a second build, whose
//	             outcome is compared too; an empty file removes
//
// A directory with a Dockerfile can be a case as well, which both build or neither
// does: go test ./conformance -cases DIR compares those of DIR, -busybox-as gives
// busybox the names of base images that they want.
//
// In an archive's files REGISTRY stands for the registry's address, and SERVER for that
// of a web server which serves the case's directory.
//
// The same files of the same directory are given to both, and their times are
// old, distinct and whole seconds: whatever else has such a time in an image got it
// from there.
package conformance
