// Package registry is a registry in this process, and the base images that are
// made for it on the spot: no registry on the internet is needed, or reached.
package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Registry serves images on the loopback interface, over plain HTTP, to everybody.
type Registry struct {
	server *http.Server
	addr   string
	done   chan error
}

// Start starts a registry without any image. Close ends it.
func Start(ctx context.Context) (*Registry, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Registry{
		addr: listener.Addr().String(),
		done: make(chan error, 1),
		server: &http.Server{
			Handler:           registry.New(registry.Logger(log.New(io.Discard, "", 0))),
			ReadHeaderTimeout: time.Minute,
		},
	}
	go func() { r.done <- r.server.Serve(listener) }()
	return r, nil
}

// Addr is the registry's host and port.
func (r *Registry) Addr() string { return r.addr }

// Close ends the registry; its images are gone.
func (r *Registry) Close() error {
	err := r.server.Close()
	if served := <-r.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// Push puts an image into the registry under a name like library/busybox:1.36.
func (r *Registry) Push(ctx context.Context, repoTag string, img v1.Image) error {
	ref, err := r.reference(repoTag)
	if err != nil {
		return err
	}
	return remote.Write(ref, img, remote.WithContext(ctx))
}

// PushIndex is Push for an image of several platforms.
func (r *Registry) PushIndex(ctx context.Context, repoTag string, index v1.ImageIndex) error {
	ref, err := r.reference(repoTag)
	if err != nil {
		return err
	}
	return remote.WriteIndex(ref, index, remote.WithContext(ctx))
}

// Pull returns the image of that name. Its layers are read from the registry when
// they are asked for.
func (r *Registry) Pull(ctx context.Context, repoTag string) (v1.Image, error) {
	ref, err := r.reference(repoTag)
	if err != nil {
		return nil, err
	}
	return remote.Image(ref, remote.WithContext(ctx))
}

func (r *Registry) reference(repoTag string) (name.Reference, error) {
	ref, err := name.ParseReference(r.addr+"/"+repoTag, name.Insecure)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", repoTag, err)
	}
	return ref, nil
}

// Conf is a registries.conf by which containers-image takes this registry in place
// of docker.io.
func (r *Registry) Conf() string {
	return fmt.Sprintf(`unqualified-search-registries = ["docker.io"]
short-name-mode = "permissive"

[[registry]]
location = "docker.io"
[[registry.mirror]]
location = %[1]q
insecure = true

[[registry]]
location = %[1]q
insecure = true
`, r.addr)
}
