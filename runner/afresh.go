package runner

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"

	"github.com/moby/buildkit/solver/pb"

	"github.com/zbuild/zbuild/planner"
)

// CacheMountName is the name of a cache that a RUN mounts: mounts of the same name share
// one.
func CacheMountName(s *planner.Step, m *pb.Mount) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%q", m.CacheOpt.ID)
	if m.Input >= 0 {
		in := s.Inputs[m.Input]
		fmt.Fprintf(sum, "%q%d%q", in.Step.ID, in.Index, m.Selector)
	}
	return hex.EncodeToString(sum.Sum(nil))[:32]
}

// afresh are the cache mounts that a build begins with anew: those of steps that take
// nothing of what is kept. As with BuildKit they are empty for all steps of the build,
// from the first on that has one of them. A cache that lies on something, as one with an
// owner or a mode does, is emptied whatever it lies on.
type afresh struct {
	names   map[string]bool
	emptied sync.Map // of func() error, by the directory
}

func newAfresh(steps []*planner.Step) *afresh {
	a := &afresh{names: make(map[string]bool)}
	based := make(map[string]bool) // by the mounts' IDs
	eachCacheMount(steps, func(s *planner.Step, m *pb.Mount) {
		if s.NoCache {
			a.names[CacheMountName(s, m)] = true
			based[m.CacheOpt.ID] = based[m.CacheOpt.ID] || m.Input >= 0
		}
	})
	eachCacheMount(steps, func(s *planner.Step, m *pb.Mount) {
		if m.Input >= 0 && based[m.CacheOpt.ID] {
			a.names[CacheMountName(s, m)] = true
		}
	})
	return a
}

func eachCacheMount(steps []*planner.Step, do func(*planner.Step, *pb.Mount)) {
	for _, s := range steps {
		for _, m := range s.Op.GetExec().GetMounts() {
			if m.MountType == pb.MountType_CACHE {
				do(s, m)
			}
		}
	}
}

// empty has a directory of a cache mount emptied, by the first who asks; the others wait.
func (a *afresh) empty(name, dir string, empty func() error) error {
	if !a.names[name] {
		return nil
	}
	once, _ := a.emptied.LoadOrStore(dir, sync.OnceValue(empty))
	return once.(func() error)()
}
