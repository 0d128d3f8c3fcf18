package runner

import (
	"testing"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/internal/stepcache"
	"github.com/zbuild/zbuild/planner"
)

// TestForeignRecord has caches that know of fewer results, or of more, than a step has:
// whoever takes the second one would look for it in vain.
func TestForeignRecord(t *testing.T) {
	key := digest.FromString("key")
	step := &planner.Step{Op: &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Mounts: []*pb.Mount{
		{Dest: "/", Output: 0}, {Dest: "/out", Output: 1}, {Dest: "/in", Output: -1},
	}}}}}
	cache := NewDirCache(t.TempDir())
	for n, want := range map[int]bool{0: false, 1: false, 2: true, 3: false} {
		r := &run{
			opt:    Options{Cache: cache},
			remote: map[digest.Digest]remoteRecord{key: {Found: stepcache.Found{Layers: make([]stepcache.FoundLayer, n)}}},
		}
		if _, ok := r.recorded(&node{step: step, id: key}); ok != want {
			t.Errorf("a record of %d results is taken: %v", n, ok)
		}
		if n == 2 {
			continue
		}
		if err := cache.Put(key, Entry{Snapshots: make([]Snapshot, n), SameAs: key}); err != nil {
			t.Fatal(err)
		}
		if r.take(t.Context(), &node{step: step}, key) {
			t.Errorf("an entry of %d results is taken", n)
		}
	}
}
