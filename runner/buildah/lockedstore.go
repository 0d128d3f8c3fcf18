//go:build linux

package buildah

// The store's library panics when it cannot open one of its lock files, with other
// locks held that it then never gives back: whoever wants one of those waits for ever.
// That a disk is read-only all of a sudden, after it could not be written to, is
// nobody's mistake in a program, though. So it is said like any other error, and the
// process ends.
//
// Guarded are the methods that somebody calls, here or in the libraries that get the
// store from here: TestStoreIsGuarded finds those that are not.

import (
	"fmt"
	"io"
	"runtime"

	digest "github.com/opencontainers/go-digest"
	"go.podman.io/storage"
	graphdriver "go.podman.io/storage/drivers"
)

// lockedStore is a store that ends the process when it cannot lock itself.
type lockedStore struct {
	storage.Store
	// fatal ends the process. It does not return.
	fatal func(error)
}

// ended is called when a method ends, however it does.
func (s lockedStore) ended() {
	p := recover()
	if p == nil {
		return
	}
	err, ok := p.(error)
	if _, bug := p.(runtime.Error); bug || !ok || s.fatal == nil {
		panic(p)
	}
	fix := writable(err, s.GraphRoot())
	if fix == "" {
		fix = "'zbuild doctor' says more"
	}
	s.fatal(&UnusableError{What: fmt.Sprintf("the store at %s cannot be locked any more", s.GraphRoot()), Fix: fix + "; the next start cleans up", Err: err})
	panic(p)
}

// CreateLayer is for storage.Store.
func (s lockedStore) CreateLayer(id, parent string, names []string, mountLabel string, writeable bool, options *storage.LayerOptions) (*storage.Layer, error) {
	defer s.ended()
	return s.Store.CreateLayer(id, parent, names, mountLabel, writeable, options)
}

// PutLayer is for storage.Store.
func (s lockedStore) PutLayer(id, parent string, names []string, mountLabel string, writeable bool, options *storage.LayerOptions, diff io.Reader) (*storage.Layer, int64, error) {
	defer s.ended()
	return s.Store.PutLayer(id, parent, names, mountLabel, writeable, options, diff)
}

// CreateImage is for storage.Store.
func (s lockedStore) CreateImage(id string, names []string, layer, metadata string, options *storage.ImageOptions) (*storage.Image, error) {
	defer s.ended()
	return s.Store.CreateImage(id, names, layer, metadata, options)
}

// GraphDriver is for storage.Store.
func (s lockedStore) GraphDriver() (graphdriver.Driver, error) {
	defer s.ended()
	return s.Store.GraphDriver()
}

// SetMetadata is for storage.Store.
func (s lockedStore) SetMetadata(id, metadata string) error {
	defer s.ended()
	return s.Store.SetMetadata(id, metadata)
}

// Exists is for storage.Store.
func (s lockedStore) Exists(id string) bool {
	defer s.ended()
	return s.Store.Exists(id)
}

// DeleteLayer is for storage.Store.
func (s lockedStore) DeleteLayer(id string) error {
	defer s.ended()
	return s.Store.DeleteLayer(id)
}

// DeleteImage is for storage.Store.
func (s lockedStore) DeleteImage(id string, commit bool) ([]string, error) {
	defer s.ended()
	return s.Store.DeleteImage(id, commit)
}

// Unmount is for storage.Store.
func (s lockedStore) Unmount(id string, force bool) (bool, error) {
	defer s.ended()
	return s.Store.Unmount(id, force)
}

// Mount is for storage.Store.
func (s lockedStore) Mount(id, mountLabel string) (string, error) {
	defer s.ended()
	return s.Store.Mount(id, mountLabel)
}

// DiffSize is for storage.Store.
func (s lockedStore) DiffSize(from, to string) (int64, error) {
	defer s.ended()
	return s.Store.DiffSize(from, to)
}

// Diff is for storage.Store.
func (s lockedStore) Diff(from, to string, options *storage.DiffOptions) (io.ReadCloser, error) {
	defer s.ended()
	return s.Store.Diff(from, to, options)
}

// ApplyDiff is for storage.Store.
func (s lockedStore) ApplyDiff(to string, diff io.Reader) (int64, error) {
	defer s.ended()
	return s.Store.ApplyDiff(to, diff)
}

// PrepareStagedLayer is for storage.Store.
func (s lockedStore) PrepareStagedLayer(options *graphdriver.ApplyDiffWithDifferOpts, differ graphdriver.Differ) (*graphdriver.DriverWithDifferOutput, error) {
	defer s.ended()
	return s.Store.PrepareStagedLayer(options, differ)
}

// ApplyStagedLayer is for storage.Store.
func (s lockedStore) ApplyStagedLayer(args storage.ApplyStagedLayerOptions) (*storage.Layer, error) {
	defer s.ended()
	return s.Store.ApplyStagedLayer(args)
}

// CleanupStagedLayer is for storage.Store.
func (s lockedStore) CleanupStagedLayer(diffOutput *graphdriver.DriverWithDifferOutput) error {
	defer s.ended()
	return s.Store.CleanupStagedLayer(diffOutput)
}

// LayersByCompressedDigest is for storage.Store.
func (s lockedStore) LayersByCompressedDigest(d digest.Digest) ([]storage.Layer, error) {
	defer s.ended()
	return s.Store.LayersByCompressedDigest(d)
}

// LayersByUncompressedDigest is for storage.Store.
func (s lockedStore) LayersByUncompressedDigest(d digest.Digest) ([]storage.Layer, error) {
	defer s.ended()
	return s.Store.LayersByUncompressedDigest(d)
}

// LayersByTOCDigest is for storage.Store.
func (s lockedStore) LayersByTOCDigest(d digest.Digest) ([]storage.Layer, error) {
	defer s.ended()
	return s.Store.LayersByTOCDigest(d)
}

// Layers is for storage.Store.
func (s lockedStore) Layers() ([]storage.Layer, error) {
	defer s.ended()
	return s.Store.Layers()
}

// Images is for storage.Store.
func (s lockedStore) Images() ([]storage.Image, error) {
	defer s.ended()
	return s.Store.Images()
}

// Containers is for storage.Store.
func (s lockedStore) Containers() ([]storage.Container, error) {
	defer s.ended()
	return s.Store.Containers()
}

// AddNames is for storage.Store.
func (s lockedStore) AddNames(id string, names []string) error {
	defer s.ended()
	return s.Store.AddNames(id, names)
}

// ListImageBigData is for storage.Store.
func (s lockedStore) ListImageBigData(id string) ([]string, error) {
	defer s.ended()
	return s.Store.ListImageBigData(id)
}

// ImageBigData is for storage.Store.
func (s lockedStore) ImageBigData(id, key string) ([]byte, error) {
	defer s.ended()
	return s.Store.ImageBigData(id, key)
}

// ImageBigDataSize is for storage.Store.
func (s lockedStore) ImageBigDataSize(id, key string) (int64, error) {
	defer s.ended()
	return s.Store.ImageBigDataSize(id, key)
}

// SetImageBigData is for storage.Store.
func (s lockedStore) SetImageBigData(id, key string, data []byte, digestManifest func([]byte) (digest.Digest, error)) error {
	defer s.ended()
	return s.Store.SetImageBigData(id, key, data, digestManifest)
}

// ImageDirectory is for storage.Store.
func (s lockedStore) ImageDirectory(id string) (string, error) {
	defer s.ended()
	return s.Store.ImageDirectory(id)
}

// Layer is for storage.Store.
func (s lockedStore) Layer(id string) (*storage.Layer, error) {
	defer s.ended()
	return s.Store.Layer(id)
}

// Image is for storage.Store.
func (s lockedStore) Image(id string) (*storage.Image, error) {
	defer s.ended()
	return s.Store.Image(id)
}

// ImagesByDigest is for storage.Store.
func (s lockedStore) ImagesByDigest(d digest.Digest) ([]*storage.Image, error) {
	defer s.ended()
	return s.Store.ImagesByDigest(d)
}

// Shutdown is for storage.Store.
func (s lockedStore) Shutdown(force bool) ([]string, error) {
	defer s.ended()
	return s.Store.Shutdown(force)
}

// LookupAdditionalLayer is for storage.Store.
func (s lockedStore) LookupAdditionalLayer(tocDigest digest.Digest, imageref string) (storage.AdditionalLayer, error) {
	defer s.ended()
	return s.Store.LookupAdditionalLayer(tocDigest, imageref)
}
