package torture

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// state is a version of everything that can be edited.
type state struct {
	base     int
	services []int
}

const versions = 2

// reference bakes every version in clean stores and gives what images have to be:
// by service, version of the base, version of the service.
func reference(t *testing.T, p *project) map[string]string {
	t.Helper()
	want := make(map[string]string)
	for base := range versions {
		for version := range versions {
			p.base(base)
			for _, s := range p.services {
				p.service(s, version)
			}
			clean := newPlace(t)
			clean.zbuild(p.dir, "bake", "--progress", "plain")
			clean.clean()
			prints := clean.fingerprints()
			for _, s := range p.services {
				want[key(s, base, version)] = prints["localhost/"+s+":latest"]
			}
			unmountBelow(clean.dir)
		}
	}
	return want
}

func key(service string, base, version int) string {
	return fmt.Sprintf("%s %d %d", service, base, version)
}

// perStore is how many bakes one store sees. Looking at all of it after each of them takes
// ever longer, for what was built before stays.
const perStore = 25

// TestKill kills bakes at random moments. After each, names stand for the old
// images or the new ones; a start sweeps up what was left, and a bake then makes
// what a clean store would have.
func TestKill(t *testing.T) {
	rnd := random(t)
	n := times(5, 500)
	killed := 0
	for first := 0; first < n && !t.Failed(); first += perStore {
		last := min(first+perStore, n)
		t.Run(fmt.Sprintf("%d-%d", first+1, last), func(t *testing.T) {
			x := newVictim(t, rnd)
			for i := first; i < last && !t.Failed(); i++ {
				x.once(i + 1)
			}
			killed += x.killed
		})
	}
	t.Logf("%d bakes, %d of them killed", n, killed)
}

// victim is a store whose bakes are killed.
type victim struct {
	*testing.T
	rnd     *rand.Rand
	project *project
	place   *place
	now     state
	want    map[string]string
	valid   []map[string]bool // by service, what its image may be
	longest time.Duration     // that a bake takes
	killed  int
}

func newVictim(t *testing.T, rnd *rand.Rand) *victim {
	t.Helper()
	x := &victim{T: t, rnd: rnd, project: newProject(t, 3, 50)}
	x.want = reference(t, x.project)
	x.place = newPlace(t)
	x.now.services = make([]int, len(x.project.services))
	x.valid = make([]map[string]bool, len(x.project.services))
	x.write()
	start := time.Now()
	x.place.zbuild(x.project.dir, "bake", "--progress", "plain")
	x.longest = time.Since(start)
	x.settle("the first bake")
	return x
}

// write writes the version of everything that is to be built now.
func (x *victim) write() {
	x.project.base(x.now.base)
	for i, name := range x.project.services {
		x.project.service(name, x.now.services[i])
	}
}

// wanted is what the image of a service has to be after a bake.
func (x *victim) wanted(i int) string {
	return x.want[key(x.project.services[i], x.now.base, x.now.services[i])]
}

// settle fails the test if images are not those of what was baked last.
func (x *victim) settle(how string) {
	x.Helper()
	prints := x.place.fingerprints()
	for i, name := range x.project.services {
		got, w := prints["localhost/"+name+":latest"], x.wanted(i)
		if got != w {
			is := "nothing that was ever built"
			for k, fp := range x.want {
				if fp == got {
					is = k
				}
			}
			x.Fatalf("%s: %s is %s (%s), want %s (%s)\n%s", how, name, got, is, w,
				key(name, x.now.base, x.now.services[i]), x.place.describe("localhost/"+name+":latest"))
		}
		x.valid[i] = map[string]bool{w: true}
	}
}

// change makes work: something is edited, or the cache is gone.
func (x *victim) change() {
	x.Helper()
	switch x.rnd.IntN(6) {
	case 0:
		x.now.base = x.rnd.IntN(versions)
	case 1:
		x.place.zbuild(x.project.dir, "cache", "prune", "--all")
	case 2:
		x.place.zbuild(x.project.dir, "cache", "prune", "--keep-size", "3MB")
	default:
		k := x.rnd.IntN(len(x.now.services))
		x.now.services[k] = (x.now.services[k] + 1) % versions
	}
	x.write()
	for i := range x.valid {
		x.valid[i][x.wanted(i)] = true
	}
}

// kill begins a bake, kills it, and says after how long.
func (x *victim) kill(i int) time.Duration {
	x.Helper()
	args := []string{"bake", "--progress", "plain"}
	if x.rnd.IntN(4) == 0 {
		args = append(args, "--no-cache")
	}
	cmd, out := x.place.start(x.project.dir, args...)
	// Most bakes have less to do than the first.
	after := time.Duration(x.rnd.Float64() * x.rnd.Float64() * float64(x.longest))
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			x.Fatalf("bake %d failed by itself: %v\n%s", i, err, tail(out.Bytes()))
		}
	case <-time.After(after):
		must(x.T, cmd.Process.Kill())
		if err := <-done; err != nil {
			x.killed++
		}
	}
	return after
}

// once has a bake killed, looks at what it has left, and bakes again.
func (x *victim) once(i int) {
	x.Helper()
	x.change()
	after := x.kill(i)
	prints := x.place.fingerprints()
	for k, name := range x.project.services {
		if got := prints["localhost/"+name+":latest"]; !x.valid[k][got] {
			x.Errorf("killed %v into bake %d: %s is neither the old image nor the new one: %s", after, i, name, got)
		}
	}
	if x.rnd.IntN(2) == 0 {
		x.place.zbuild(x.project.dir, "cache", "du") // the next start, whatever it does
		x.place.clean()
	}
	x.place.zbuild(x.project.dir, "bake", "--progress", "plain")
	x.settle(fmt.Sprintf("after kill %d, %v into the bake", i, after))
	x.place.clean()
}
