package runner

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

func states(units []*unit) (s []unitState) {
	for _, u := range units {
		s = append(s, u.state)
	}
	return s
}

func TestScheduleOrder(t *testing.T) {
	var mu sync.Mutex
	var ran []string
	mk := func(name string, weight int, needs ...*unit) *unit {
		return &unit{name: name, weight: weight, needs: needs, do: func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			ran = append(ran, name)
			return nil
		}}
	}
	leaf := mk("leaf", 1)
	a := mk("a", 1)
	b := mk("b", 10, a)
	c := mk("c", 10, b)
	units := []*unit{leaf, a, b, c}
	schedule(t.Context(), units, 1, false)
	// With one job the chain that takes longest goes first.
	if want := []string{"a", "b", "c", "leaf"}; !slices.Equal(ran, want) {
		t.Errorf("ran %v, want %v", ran, want)
	}
}

func TestScheduleFailure(t *testing.T) {
	boom := errors.New("boom")
	build := func() []*unit {
		bad := &unit{name: "bad", weight: 100, do: func(context.Context) error { return boom }}
		after := &unit{name: "after", needs: []*unit{bad}, do: func(context.Context) error { return nil }}
		other := &unit{name: "other", do: func(context.Context) error { return nil }}
		return []*unit{bad, after, other}
	}
	units := build()
	schedule(t.Context(), units, 1, false)
	if want := []unitState{unitFailed, unitSkipped, unitSkipped}; !slices.Equal(states(units), want) {
		t.Errorf("states %v, want %v", states(units), want)
	}
	units = build()
	schedule(t.Context(), units, 1, true)
	if want := []unitState{unitFailed, unitSkipped, unitDone}; !slices.Equal(states(units), want) {
		t.Errorf("keep going: states %v, want %v", states(units), want)
	}
}

func TestScheduleStopsWhatRuns(t *testing.T) {
	started := make(chan struct{})
	slow := &unit{name: "slow", do: func(ctx context.Context) error {
		close(started)
		<-ctx.Done()
		return context.Cause(ctx)
	}}
	bad := &unit{name: "bad", do: func(context.Context) error { <-started; return errors.New("boom") }}
	units := []*unit{slow, bad}
	schedule(t.Context(), units, 2, false)
	if want := []unitState{unitCanceled, unitFailed}; !slices.Equal(states(units), want) {
		t.Errorf("states %v, want %v", states(units), want)
	}
}

// TestScheduleRandom runs random graphs: every unit runs once, after all that it
// needs, and never more than jobs at a time.
func TestScheduleRandom(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		jobs := 1 + rng.IntN(4)
		var running, most atomic.Int32
		var done sync.Map
		var units []*unit
		for i := range 1 + rng.IntN(60) {
			u := &unit{name: fmt.Sprint(i), weight: rng.IntN(10)}
			for _, n := range units {
				if rng.IntN(8) == 0 {
					u.needs = append(u.needs, n)
				}
			}
			u.do = func(context.Context) error {
				most.Store(max(most.Load(), running.Add(1)))
				defer running.Add(-1)
				for _, n := range u.needs {
					if _, ok := done.Load(n); !ok {
						return fmt.Errorf("%s ran before %s", u.name, n.name)
					}
				}
				if _, twice := done.LoadOrStore(u, true); twice {
					return fmt.Errorf("%s ran twice", u.name)
				}
				return nil
			}
			units = append(units, u)
		}
		schedule(t.Context(), units, jobs, false)
		for _, u := range units {
			if u.state != unitDone {
				t.Errorf("seed %d: %s: state %d, %v", seed, u.name, u.state, u.err)
			}
		}
		if int(most.Load()) > jobs {
			t.Errorf("seed %d: %d units ran at once, %d were allowed", seed, most.Load(), jobs)
		}
	}
}

// A unit that only waits gives its slot to others, and gets one back.
func TestScheduleIdle(t *testing.T) {
	open := make(chan struct{})
	var waits *unit
	waits = &unit{name: "waits", weight: 100, do: func(ctx context.Context) error {
		return waits.idle(func() error {
			select {
			case <-open:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	}}
	opens := &unit{name: "opens", do: func(context.Context) error { close(open); return nil }}
	after := &unit{name: "after", needs: []*unit{waits}, do: func(context.Context) error { return nil }}
	units := []*unit{waits, opens, after}
	schedule(t.Context(), units, 1, false)
	if want := []unitState{unitDone, unitDone, unitDone}; !slices.Equal(states(units), want) {
		t.Errorf("states %v, want %v", states(units), want)
	}

	// One that waits is stopped like any other.
	boom := errors.New("boom")
	fails := &unit{name: "fails", do: func(context.Context) error { return boom }}
	later := &unit{name: "later", needs: []*unit{fails}, do: func(context.Context) error { return nil }}
	units = []*unit{{name: "waits", weight: 100}, fails, later}
	waits = units[0]
	waits.do = func(ctx context.Context) error {
		return waits.idle(func() error { <-ctx.Done(); return context.Cause(ctx) })
	}
	schedule(t.Context(), units, 1, false)
	if want := []unitState{unitCanceled, unitFailed, unitSkipped}; !slices.Equal(states(units), want) {
		t.Errorf("states %v, want %v", states(units), want)
	}
}
