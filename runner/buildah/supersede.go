//go:build linux

package buildah

// Removing an image that another has taken the place of. It is removed as podman
// removes one, but only if nobody can have a use for it.

import (
	"context"
	"errors"
	"fmt"
	"slices"

	cmanifests "go.podman.io/common/libimage/manifests"
	"go.podman.io/storage"

	"github.com/zbuild/zbuild/runner"
)

// Drop removes an image and the layers that only it has. One that has a name stays.
// The error is a runner.ErrInUse if a container was made of the image, or a list of
// images has it.
func (e *Engine) Drop(_ context.Context, image *runner.Image) error {
	id := image.ID.Encoded()
	img, err := e.store.Image(id)
	if errors.Is(err, storage.ErrImageUnknown) || err == nil && len(img.Names) > 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking at image %s: %w", id, err)
	}
	listed, err := e.listed(image)
	if err != nil {
		return err
	}
	if listed {
		return fmt.Errorf("image %s: a list of images has it: %w", id, runner.ErrInUse)
	}
	// The store forgets the image first: who is killed after that, or cannot remove a
	// layer, leaves some that nobody knows any more. Those stay in the journal.
	layers, err := e.store.DeleteImage(id, false)
	for _, l := range layers {
		err = errors.Join(err, e.proc.begin(l))
	}
	if err == nil {
		_, err = e.store.DeleteImage(id, true)
	}
	used := errors.Is(err, storage.ErrImageUsedByContainer)
	if err != nil && !used && !errors.Is(err, storage.ErrImageUnknown) {
		return fmt.Errorf("removing image %s: %w", id, err)
	}
	for _, l := range layers {
		e.proc.end(l)
	}
	if used {
		return fmt.Errorf("image %s: a container was made of it: %w", id, runner.ErrInUse)
	}
	return nil
}

// listed reports whether a list of images has an image.
func (e *Engine) listed(image *runner.Image) (bool, error) {
	images, err := e.store.Images()
	if err != nil {
		return false, err
	}
	for i := range images {
		if !slices.Contains(images[i].BigDataNames, listKeys[1]) {
			continue
		}
		_, list, err := cmanifests.LoadFromImage(e.store, images[i].ID)
		if errors.Is(err, storage.ErrImageUnknown) {
			continue // gone meanwhile
		}
		if err != nil {
			return false, fmt.Errorf("reading the list of images %s: %w", images[i].ID, err)
		}
		if slices.Contains(list.Instances(), image.Digest) {
			return true, nil
		}
	}
	return false, nil
}
