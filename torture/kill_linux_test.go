package torture

import (
	"fmt"
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

// TestKill kills bakes at random moments. After each, names stand for the old
// images or the new ones; a start sweeps up what was left, and a bake then makes
// what a clean store would have.
func TestKill(t *testing.T) {
	rnd := random(t)
	n := times(5, 500)
	p := newProject(t, 3, 50)
	want := reference(t, p)
	s := newPlace(t)
	now := state{services: make([]int, len(p.services))}
	apply := func() {
		p.base(now.base)
		for i, name := range p.services {
			p.service(name, now.services[i])
		}
	}
	valid := make([]map[string]bool, len(p.services)) // what an image may be
	settle := func(how string) {
		t.Helper()
		prints := s.fingerprints()
		for i, name := range p.services {
			got := prints["localhost/"+name+":latest"]
			w := want[key(name, now.base, now.services[i])]
			if got != w {
				is := "nothing that was ever built"
				for k, fp := range want {
					if fp == got {
						is = k
					}
				}
				t.Fatalf("%s: %s is %s (%s), want %s (%s)\n%s", how, name, got, is, w, key(name, now.base, now.services[i]), s.describe("localhost/"+name+":latest"))
			}
			valid[i] = map[string]bool{w: true}
		}
	}
	apply()
	start := time.Now()
	s.zbuild(p.dir, "bake", "--progress", "plain")
	longest := time.Since(start)
	settle("the first bake")

	killed := 0
	for i := range n {
		// Something changes, or the cache is gone, so that there is work to kill.
		switch rnd.IntN(6) {
		case 0:
			now.base = rnd.IntN(versions)
		case 1:
			s.zbuild(p.dir, "cache", "prune", "--all")
		case 2:
			s.zbuild(p.dir, "cache", "prune", "--keep-size", "3MB")
		default:
			k := rnd.IntN(len(now.services))
			now.services[k] = (now.services[k] + 1) % versions
		}
		apply()
		for k, name := range p.services {
			valid[k][want[key(name, now.base, now.services[k])]] = true
		}
		args := []string{"bake", "--progress", "plain"}
		if rnd.IntN(4) == 0 {
			args = append(args, "--no-cache")
		}
		cmd, out := s.start(p.dir, args...)
		// Most bakes have less to do than the first.
		after := time.Duration(rnd.Float64() * rnd.Float64() * float64(longest))
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case err := <-done:
			if err != nil {
				t.Fatalf("bake %d failed by itself: %v\n%s", i, err, tail(out.Bytes()))
			}
		case <-time.After(after):
			must(t, cmd.Process.Kill())
			if err := <-done; err != nil {
				if killed++; killed%25 == 0 {
					t.Logf("%d of %d bakes killed", killed, i+1)
				}
			}
		}
		prints := s.fingerprints()
		for k, name := range p.services {
			if got := prints["localhost/"+name+":latest"]; !valid[k][got] {
				t.Errorf("killed %v into bake %d: %s is neither the old image nor the new one: %s", after, i, name, got)
			}
		}
		if rnd.IntN(2) == 0 {
			s.zbuild(p.dir, "cache", "du") // the next start, whatever it does
			s.clean()
		}
		s.zbuild(p.dir, "bake", "--progress", "plain")
		settle(fmt.Sprintf("after kill %d, %v into the bake", i, after))
		s.clean()
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d bakes, %d of them killed", n, killed)
}
