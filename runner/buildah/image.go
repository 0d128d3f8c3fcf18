//go:build linux

package buildah

// The store records an image first and what it consists of afterwards: whoever is
// killed in between leaves an image that is none. So what an image is to have is
// written down before, and one that is there already is looked at closely.

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/storage"
)

// imagesName is the directory of notes about images that are being made: of each,
// the names of its parts.
const imagesName = "images"

// listKeys are the names of the parts of a list of images, as libimage has them.
var listKeys = []string{storage.ImageDigestManifestBigDataNamePrefix, "instances.json", "artifacts.json"}

// beginImage notes that an image is being made and what it will have; done says
// that it has.
func (p *process) beginImage(id string, keys ...string) (done func(), err error) {
	f, err := os.CreateTemp(p.path(imagesName), id+"-")
	if err != nil {
		return nil, err
	}
	_, err = f.WriteString(strings.Join(keys, "\n"))
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(f.Name())
		return nil, err
	}
	return func() { _ = os.Remove(f.Name()) }, nil
}

// sweepImages removes the images that a dead process has left half made.
func (e *Engine) sweepImages(dir string) {
	notes, _ := os.ReadDir(filepath.Join(dir, imagesName))
	for _, note := range notes {
		id, _, _ := strings.Cut(note.Name(), "-")
		raw, err := os.ReadFile(filepath.Join(dir, imagesName, note.Name()))
		if err != nil || len(raw) == 0 {
			continue // it had not come to making it
		}
		if !e.store.Exists(id) || e.hasParts(id, strings.Split(string(raw), "\n")) {
			continue
		}
		if _, err := e.store.DeleteImage(id, true); err != nil && !errors.Is(err, storage.ErrImageUnknown) {
			e.log.Warn("an image that a killed build has left half made cannot be removed", "image", id, "error", err)
		}
	}
}

// hasParts reports whether an image is in the store and has the parts that are named.
func (e *Engine) hasParts(id string, keys []string) bool {
	img, err := e.store.Image(id)
	return err == nil && !slices.ContainsFunc(keys, func(k string) bool { return !slices.Contains(img.BigDataNames, k) })
}

// parts are what the store keeps of an image, as containers/image would have it.
func (d *draft) parts() []storage.ImageBigDataOption {
	config, sum := digest.FromBytes(d.config), digest.FromBytes(d.manifest)
	return []storage.ImageBigDataOption{
		{Key: config.String(), Data: d.config, Digest: config},
		{Key: storage.ImageDigestManifestBigDataNamePrefix + "-" + sum.String(), Data: d.manifest, Digest: sum},
		{Key: storage.ImageDigestBigDataKey, Data: d.manifest, Digest: sum},
	}
}

// stands reports whether the image is in the store, with all of its parts, and with the
// files of those layers at its top that are its own.
func (e *Engine) stands(d draft, own int) bool {
	img, err := e.store.Image(d.id())
	if err != nil || img.TopLayer != "" && !e.store.Exists(img.TopLayer) {
		return false
	}
	for _, l := range d.layers[len(d.layers)-own:] {
		if _, err := e.upperDir(l.ID); errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	return !slices.ContainsFunc(d.parts(), func(p storage.ImageBigDataOption) bool { return !e.hasPart(img, p) })
}

func (e *Engine) hasPart(img *storage.Image, part storage.ImageBigDataOption) bool {
	if img.BigDataDigests[part.Key] != part.Digest {
		return false
	}
	have, err := e.store.ImageBigData(img.ID, part.Key)
	return err == nil && bytes.Equal(have, part.Data)
}

// hasFiles reports whether a layer, and all that it lies on, are in the store with their
// files.
func (e *Engine) hasFiles(top string) bool {
	for id := top; id != ""; {
		l, err := e.store.Layer(id)
		if err != nil || !e.hasLayer(id) {
			return false
		}
		id = l.Parent
	}
	return true
}

// createImage records an image in the store. The same image may be there already,
// perhaps in another format, or not all of it.
func (e *Engine) createImage(top string, d draft) error {
	opt := &storage.ImageOptions{CreationDate: d.created, Digest: digest.FromBytes(d.manifest), BigData: d.parts()}
	keys := make([]string, len(opt.BigData))
	for i, part := range opt.BigData {
		keys[i] = part.Key
	}
	done, err := e.proc.beginImage(d.id(), keys...)
	if err != nil {
		return err
	}
	defer done()
	if _, err = e.store.CreateImage(d.id(), nil, top, "{}", opt); !errors.Is(err, storage.ErrDuplicateID) {
		return err
	}
	img, err := e.store.Image(d.id())
	if err != nil {
		return err
	}
	if !e.hasFiles(img.TopLayer) {
		// It is of no use to anybody, and its names are this one's.
		if _, err := e.store.DeleteImage(img.ID, true); err != nil {
			return fmt.Errorf("removing image %s, which has layers without files: %w", img.ID, err)
		}
		_, err = e.store.CreateImage(d.id(), img.Names, top, "{}", opt)
		return err
	}
	for _, part := range opt.BigData {
		if e.hasPart(img, part) {
			continue
		}
		if err := e.store.SetImageBigData(img.ID, part.Key, part.Data, manifest.Digest); err != nil {
			return err
		}
	}
	return nil
}
