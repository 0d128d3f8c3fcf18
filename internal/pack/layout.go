package pack

// OCI layouts in directories that are somebody's: there may be other images in them,
// and others who write to them at the same time. Nothing that is there is ever written
// over, and what appears appears whole, its blobs before it.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/gofrs/flock"
	"github.com/moby/buildkit/client/ociindex"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/zbuild/zbuild/internal/ctxio"
)

// WriteLayout adds the bundle to an OCI layout in a directory, which need not
// exist. Blobs come first, the index last; others in the layout stay.
func (b *Bundle) WriteLayout(ctx context.Context, dir string, names []string) error {
	var all []ociindex.NameOrTag
	for _, n := range names {
		all = append(all, ociindex.Name(n))
	}
	return b.writeLayout(ctx, dir, all)
}

func (b *Bundle) writeLayout(ctx context.Context, dir string, names []ociindex.NameOrTag) error {
	for _, blob := range b.Blobs {
		if err := copyBlob(ctx, dir, blob); err != nil {
			return err
		}
	}
	for _, m := range append(b.Manifests[:len(b.Manifests):len(b.Manifests)], b.Root) {
		if err := copyBlob(ctx, dir, dataBlob(m.Descriptor.MediaType, m.Data)); err != nil {
			return err
		}
	}
	root := b.Archived()
	root.Annotations = maps.Clone(root.Annotations)
	return putIndex(ctx, dir, root, names)
}

// copyBlob writes a blob, unless it is there. The library that knows layouts would
// write it below a name of its own first, where it stays if this process is killed,
// and nobody could tell whether somebody still writes to it.
func copyBlob(ctx context.Context, dir string, blob Blob) error {
	name := filepath.Join(dir, ocispecs.ImageBlobsDir, blob.Digest.Algorithm().String(), blob.Digest.Encoded())
	if info, err := os.Stat(name); err == nil && info.Size() == blob.Size {
		return nil
	}
	in, err := blob.Open(ctx)
	if err != nil {
		return err
	}
	defer in.Close()
	const mode = 0o444 // it never changes
	err = writeWhole(name, mode, func(f *os.File) error {
		sum := blob.Digest.Verifier()
		n, err := io.Copy(io.MultiWriter(f, sum), ctxio.NewReader(ctx, in))
		if err != nil {
			return err
		}
		if n != blob.Size || !sum.Verified() {
			return fmt.Errorf("what was read, %d bytes, is not what it was when its digest was made, %d bytes", n, blob.Size)
		}
		return f.Sync() // before the index, which speaks of it
	})
	if err != nil {
		return fmt.Errorf("writing %s: %w", blob.Digest, err)
	}
	return nil
}

// indexTemp is the directory in a layout that its next index is made in.
const indexTemp = "." + ocispecs.ImageIndexFile + ".zbuild"

// putIndex adds a root to the index of a layout.
func putIndex(ctx context.Context, dir string, root ocispecs.Descriptor, names []ociindex.NameOrTag) (err error) {
	unlock, err := lockIndex(ctx, filepath.Join(dir, ocispecs.ImageIndexFile+".lock"))
	if err != nil {
		return fmt.Errorf("locking the index of %s: %w", dir, err)
	}
	defer unlock()
	// The library writes over the index that it finds. So that is a copy.
	tmp := filepath.Join(dir, indexTemp)
	if err := os.RemoveAll(tmp); err != nil { // of one who died
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	was, err := os.ReadFile(filepath.Join(dir, ocispecs.ImageIndexFile))
	if err == nil {
		err = os.WriteFile(filepath.Join(tmp, ocispecs.ImageIndexFile), was, 0o644) // everybody may read it
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := ociindex.NewStoreIndex(tmp).Put(root, names...); err != nil {
		return fmt.Errorf("adding to the index of %s: %w", dir, err)
	}
	for _, name := range []string{ocispecs.ImageLayoutFile, ocispecs.ImageIndexFile} {
		if err := os.Rename(filepath.Join(tmp, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// lockIndex takes the lock of an index, which is BuildKit's as well. Whoever had it
// removes the file: a lock counts if the file is still the one that has the name.
func lockIndex(ctx context.Context, name string) (unlock func(), err error) {
	const often = 20 * time.Millisecond
	for {
		lock := flock.New(name)
		if _, err := lock.TryLockContext(ctx, often); err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return nil, err
		}
		held, err := lock.Stat()
		named, err2 := os.Stat(name)
		if err == nil && err2 == nil && os.SameFile(held, named) {
			return func() { _ = os.Remove(name); _ = lock.Unlock() }, nil
		}
		_ = lock.Unlock()
		if err := errors.Join(err, err2); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

// readIndex reads the index of a layout.
func readIndex(dir string) (*ocispecs.Index, error) {
	name := filepath.Join(dir, ocispecs.ImageIndexFile)
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var index ocispecs.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &index, nil
}

// tagged finds what a layout has under a tag or name; nil if it has none. It needs no
// lock, and so no right to write: there is always a whole index.
func tagged(dir, tag string) (*ocispecs.Descriptor, error) {
	index, err := readIndex(dir)
	if err != nil {
		return nil, err
	}
	for _, kind := range []string{images.AnnotationImageName, ocispecs.AnnotationRefName} {
		for i := range index.Manifests {
			if index.Manifests[i].Annotations[kind] == tag {
				return &index.Manifests[i], nil
			}
		}
	}
	return nil, nil // there is none
}
