//go:build linux

package buildah

// The store records an image first and what it consists of afterwards: whoever is
// killed in between leaves an image that is none. So what an image is to have is
// written down before, and one that is there already is looked at closely.

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

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

// createImage records an image in the store, as containers/image would. The same
// image may be there already, perhaps in another format, or not all of it.
func (e *Engine) createImage(top string, config, raw []byte, created time.Time) (string, error) {
	id := digest.FromBytes(config).Encoded()
	d := digest.FromBytes(raw)
	opt := &storage.ImageOptions{CreationDate: created, Digest: d, BigData: []storage.ImageBigDataOption{
		{Key: digest.FromBytes(config).String(), Data: config, Digest: digest.FromBytes(config)},
		{Key: storage.ImageDigestManifestBigDataNamePrefix + "-" + d.String(), Data: raw, Digest: d},
		{Key: storage.ImageDigestBigDataKey, Data: raw, Digest: d},
	}}
	keys := make([]string, len(opt.BigData))
	for i, part := range opt.BigData {
		keys[i] = part.Key
	}
	done, err := e.proc.beginImage(id, keys...)
	if err != nil {
		return id, err
	}
	defer done()
	if _, err = e.store.CreateImage(id, nil, top, "{}", opt); !errors.Is(err, storage.ErrDuplicateID) {
		return id, err
	}
	img, err := e.store.Image(id)
	if err != nil {
		return id, err
	}
	for _, part := range opt.BigData {
		have, err := e.store.ImageBigData(id, part.Key)
		if err == nil && bytes.Equal(have, part.Data) && img.BigDataDigests[part.Key] == part.Digest {
			continue
		}
		if err := e.store.SetImageBigData(id, part.Key, part.Data, manifest.Digest); err != nil {
			return id, err
		}
	}
	return id, nil
}
