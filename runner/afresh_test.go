package runner

import (
	"errors"
	"testing"

	"github.com/moby/buildkit/solver/pb"

	"github.com/zbuild/zbuild/planner"
)

// TestAfresh empties the cache mounts of steps that take nothing from the cache, each
// directory once, and no others. Those that lie on something go by their ID alone.
func TestAfresh(t *testing.T) {
	mounting := func(id string, noCache bool) *planner.Step {
		m := &pb.Mount{Input: int64(pb.Empty), MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: id}}
		return &planner.Step{NoCache: noCache, Op: &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Mounts: []*pb.Mount{{Dest: "/"}, m}}}}}
	}
	name := func(s *planner.Step) string { return CacheMountName(s, s.Op.GetExec().Mounts[1]) }
	base := planner.Input{Step: &planner.Step{ID: "base"}}
	basedOn := func(index int, noCache bool) *planner.Step {
		s := mounting("a", noCache)
		s.Inputs = []planner.Input{base, base}
		s.Inputs[1].Index = index
		s.Op.GetExec().Mounts[1].Input = 1
		return s
	}
	anew, shares, keeps := mounting("a", true), mounting("a", false), mounting("b", false)
	copies := &planner.Step{NoCache: true, Op: &pb.Op{Op: &pb.Op_File{File: &pb.FileOp{}}}}
	a := newAfresh([]*planner.Step{keeps, shares, anew, copies})
	failed := errors.New("no")
	for _, c := range []struct {
		step *planner.Step
		dir  string
		want bool
	}{{keeps, "b", false}, {shares, "a", true}, {anew, "a", false}, {anew, "a-1", true}} {
		did := false
		err := a.empty(name(c.step), c.dir, func() error { did = true; return failed })
		if did != c.want || (err != nil) != (c.step != keeps) {
			t.Errorf("%s: emptied %t, want %t; %v", c.dir, did, c.want, err)
		}
	}
	if other := basedOn(0, false); newAfresh([]*planner.Step{anew, other}).names[name(other)] {
		t.Error("one that lies on something is emptied for one that does not")
	}
	other := basedOn(1, false)
	if b := newAfresh([]*planner.Step{other, basedOn(0, true), shares}); !b.names[name(other)] || b.names[name(shares)] {
		t.Errorf("of those that lie on something %v are emptied", b.names)
	}
}
