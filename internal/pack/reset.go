package pack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/gofrs/flock"
	"github.com/moby/buildkit/client/ociindex"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// cacheLock is the file in a local cache that is locked by who writes to it, together with
// others, and by who removes blobs from it, alone. BuildKit has the same.
const cacheLock = "cache.lock"

// WriteTagged is WriteLayout, with a tag instead of names.
func (b *Bundle) WriteTagged(ctx context.Context, dir, tag string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	lock := flock.New(filepath.Join(dir, cacheLock))
	const pause = 100 * time.Millisecond
	if _, err := lock.TryRLockContext(ctx, pause); err != nil {
		return fmt.Errorf("locking %s: %w", lock.Path(), err)
	}
	defer lock.Close() //nolint:errcheck // it is only read
	return b.writeLayout(ctx, dir, []ociindex.NameOrTag{ociindex.Tag(tag)})
}

// Reset removes the blobs of a local cache that nothing in its index refers to. If
// somebody is writing to it, it does nothing and says so.
func Reset(ctx context.Context, dir string) (busy bool, err error) {
	lock := flock.New(filepath.Join(dir, cacheLock))
	locked, err := lock.TryLock()
	if err != nil || !locked {
		return err == nil, err
	}
	defer lock.Close() //nolint:errcheck // it is only read
	store, err := local.NewStore(dir)
	if err != nil {
		return false, err
	}
	index, err := readIndex(dir)
	if err != nil {
		return false, err
	}
	var mu sync.Mutex
	kept := make(map[digest.Digest]bool)
	children := images.ChildrenHandler(store)
	err = images.Dispatch(ctx, images.HandlerFunc(func(ctx context.Context, desc ocispecs.Descriptor) ([]ocispecs.Descriptor, error) {
		mu.Lock()
		kept[desc.Digest] = true
		mu.Unlock()
		return children(ctx, desc)
	}), nil, index.Manifests...)
	if err != nil {
		return false, err
	}
	var gone []digest.Digest
	err = store.Walk(ctx, func(info content.Info) error {
		if !kept[info.Digest] {
			gone = append(gone, info.Digest)
		}
		return nil
	})
	for _, d := range gone {
		if err == nil {
			err = store.Delete(ctx, d)
		}
	}
	return false, err
}
