package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/zbuild/zbuild/test/buildkitd"
	"github.com/zbuild/zbuild/test/registry"
)

// setUp starts what the tools need and gives each a place of its own. tearDown
// ends and removes all of it.
func (o *options) setUp(ctx context.Context) (_ *bench, tearDown func() error, err error) {
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		return nil, nil, err
	}
	work, err := os.MkdirTemp(o.work, "zbuild-bench-")
	if err != nil {
		return nil, nil, err
	}
	undo := undoing{func() error { return os.RemoveAll(work) }}
	defer func() {
		if err != nil {
			err = errors.Join(err, undo.all())
		}
	}()
	run := filepath.Join("/run", filepath.Base(work))
	reg, err := registry.Start(ctx)
	if err != nil {
		return nil, nil, err
	}
	undo = append(undo, reg.Close)
	if err := pushBase(ctx, reg, filepath.Join(bin, "fill")); err != nil {
		return nil, nil, err
	}
	daemon, err := buildkitd.Start(ctx, buildkitd.Options{Bin: bin, Root: filepath.Join(work, "buildkitd")})
	if err != nil {
		return nil, nil, err
	}
	undo = append(undo, daemon.Stop)

	archives, filled := filepath.Join(work, "archives"), filepath.Join(work, "filled")
	if err := errors.Join(os.Mkdir(archives, 0o700), os.Mkdir(filled, 0o700)); err != nil {
		return nil, nil, err
	}
	old := &aside{dir: filepath.Join(work, "aside")}
	newStore := func(name string) *store {
		return &store{
			dir: filepath.Join(work, name), run: filepath.Join(run, name), registry: reg.Addr(), old: old,
			filler: filepath.Join(bin, "zbuild"), filled: filled,
		}
	}
	peer := &buildkit{daemon: daemon, dir: work, registry: reg.Addr(), old: old}
	undo = append(undo, func() error { return os.RemoveAll(run) })
	stores := map[string]*store{}
	for _, name := range []string{"zbuild", "loaded", "buildah"} {
		stores[name] = newStore(name)
		undo = append(undo, stores[name].remove)
	}
	return &bench{
		dir: work, old: old, registry: reg.Addr(), rounds: o.rounds, budget: o.budget,
		fillProgram: filepath.Join(bin, "fill"),
		tools: []tool{
			&zbuild{program: filepath.Join(bin, "zbuild"), store: stores["zbuild"]},
			peer,
			&loading{buildkit: peer, store: stores["loaded"], archives: archives},
			&buildah{program: filepath.Join(bin, "buildah"), store: stores["buildah"]},
		},
	}, undo.all, nil
}

// undoing is what takes back what was set up.
type undoing []func() error

// all undoes everything, the last first.
func (u undoing) all() error {
	var errs []error
	for _, undo := range slices.Backward(u) {
		errs = append(errs, undo())
	}
	return errors.Join(errs...)
}

// pushBase makes the base image of all workloads: busybox, and the program fill.
func pushBase(ctx context.Context, reg *registry.Registry, fill string) error {
	base, err := registry.Busybox(ctx)
	if err != nil {
		return err
	}
	program, err := os.ReadFile(fill)
	if err != nil {
		return fmt.Errorf("%w: `make bench` builds it", err)
	}
	layer, err := registry.Layer([]registry.File{{
		Header:  tar.Header{Typeflag: tar.TypeReg, Name: "usr/bin/fill", Mode: 0o755},
		Content: program,
	}})
	if err != nil {
		return err
	}
	if base, err = mutate.AppendLayers(base, layer); err != nil {
		return err
	}
	return reg.Push(ctx, "busybox:latest", base)
}
