package watch

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestNoise(t *testing.T) {
	var n noise
	now := time.Unix(1_000_000, 0)
	// hear has a change come after a pause, and is done with it at once.
	hear := func(pause time.Duration, concern bool) bool {
		now = now.Add(pause)
		return n.heard(concern, now, now)
	}
	sustained := func() bool {
		for range noiseRun {
			if hear(emptyGap+1, false) {
				return true
			}
		}
		return false
	}
	if hear(0, false) || sustained() {
		t.Error("a few changes are no noise")
	}
	if hear(emptyGap, false) {
		t.Error("there may be more to be read")
	}
	if !hear(emptyGap+1, false) {
		t.Error("many are noise")
	}
	now = now.Add(restTime)
	n.rested(now)
	if hear(0, false) {
		t.Error("what came meanwhile is read first")
	}
	if !hear(emptyGap+1, false) {
		t.Error("then there is time to rest again")
	}
	if hear(emptyGap+1, true) || sustained() {
		t.Error("after a change that concerns somebody it begins anew")
	}
	if hear(noiseGap+1, false) || sustained() {
		t.Error("after a pause it begins anew")
	}
}

// ear counts how often it is asked about files that do not matter.
type ear struct {
	lexical

	asked *atomic.Int64
}

func (f ear) Match(path string) bool {
	if strings.HasSuffix(path, ".log") {
		f.asked.Add(1)
	}
	return f.lexical.Match(path)
}

// A log that is written all the time beside what matters is not listened to all the
// time, and drowns nothing.
func TestNoisyFiles(t *testing.T) {
	for _, files := range []int{1, 7} {
		t.Run(fmt.Sprintf("%d files", files), func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int64
			s := watching(t, Options{Quiet: 30 * time.Millisecond}, func(set *Set) {
				set.Trees[0].Filter = ear{asked: &asked}
			})
			logs := make([]*os.File, files)
			for i := range logs {
				f, err := os.Create(s.path(fmt.Sprintf("src/%d.log", i)))
				s.check(err)
				t.Cleanup(func() { s.check(f.Close()) })
				logs[i] = f
			}
			begun := time.Now()
			writes := 0
			for ; time.Since(begun) < time.Second; writes++ {
				_, err := logs[writes%files].WriteString("x\n")
				s.check(err)
				time.Sleep(300 * time.Microsecond)
			}
			rests := int64(time.Since(begun) / restTime)
			t.Logf("asked %d times about %d writes", asked.Load(), writes)
			if most := 100 + 5*rests; files == 1 && asked.Load() > most {
				t.Errorf("asked more than %d times", most)
			}
			s.write("src/a/b/file", "22")
			if b := s.collect("src/a/b/file"); b.Rescan {
				t.Error("changes were lost")
			}
		})
	}
}
