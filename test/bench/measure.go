package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// The moments of a workload that are timed.
const (
	cold      = "cold"            // base images local, nothing else
	unchanged = "nothing changed" // right after another build
	oneFile   = "one file"        // after an edit
)

// samples are the seconds that a tool's runs took, a value a round.
type samples map[string]map[string][]float64 // moment -> tool -> seconds

// A section is what one run of the benchmark found out about one workload.
type section struct {
	Name    string
	Title   string
	Seconds samples
	// Alone are the seconds that the programs of the big RUNs take by themselves.
	Alone []float64 `json:",omitempty"`
	// Left says, by tool, why it has no figures here.
	Left map[string]string `json:",omitempty"`
}

// A bench times tools on workloads. All tools take turns within a round, so that
// what else the machine does falls on all of them and ratios can be taken between
// runs of the same minute.
type bench struct {
	dir      string // for projects
	old      *aside
	registry string
	// fillProgram is what workloads make many files with.
	fillProgram string
	tools       []tool
	rounds      int
	// budget is what one timed build may take; a tool that needs longer is left
	// out from there on.
	budget time.Duration
	edits  int
}

var errBudget = errors.New("took longer than a build may take here")

// measure times a workload. before, if there is one, brings a tool's fresh store
// to the state that "cold" is to mean.
func (b *bench) measure(ctx context.Context, w *workload, left map[string]string, before func(context.Context, tool) error) (_ *section, err error) {
	dir := filepath.Join(b.dir, w.name)
	if err := w.write(dir, b.registry); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.old.put(dir)) }()
	s := &section{Name: w.name, Title: w.title, Seconds: samples{}, Left: left}
	for round := range b.rounds {
		if w.programs != "" {
			seconds, err := b.alone(ctx, w)
			if err != nil {
				return nil, err
			}
			s.Alone = append(s.Alone, seconds)
		}
		for i := range b.tools {
			// Who goes first goes last the next time.
			t := b.tools[(i+round)%len(b.tools)]
			if _, out := left[t.name()]; out {
				continue
			}
			if l, ok := t.(*loading); ok && left[l.buildkit.name()] != "" {
				left[t.name()] = left[l.buildkit.name()] // which is a part of it
				continue
			}
			err := b.round(ctx, t, dir, w, s.Seconds, before)
			switch {
			case err != nil && ctx.Err() != nil && round > 0:
				s.cut(round) // the rounds that were whole count
				return s, nil
			case errors.Is(err, errBudget):
				left[t.name()] = fmt.Sprintf("a build of %s took longer than %v", w.name, b.budget)
			case err != nil:
				return nil, fmt.Errorf("%s, %s: %w", w.name, t.name(), err)
			}
		}
	}
	return s, nil
}

// cut leaves so many rounds of each tool.
func (s *section) cut(rounds int) {
	s.Alone = s.Alone[:min(rounds, len(s.Alone))]
	for _, by := range s.Seconds {
		for name, seconds := range by {
			by[name] = seconds[:min(rounds, len(seconds))]
		}
	}
}

// rounds is how often everything was measured.
func (s *section) rounds() int {
	n := 0
	for _, seconds := range s.Seconds[cold] {
		n = max(n, len(seconds))
	}
	return n
}

// alone times the programs of a workload without any builder. What they write goes
// through an overlay, as it does for all builders: each write costs more there.
func (b *bench) alone(ctx context.Context, w *workload) (seconds float64, err error) {
	dir, err := os.MkdirTemp(b.dir, "alone-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, b.old.put(dir)) }()
	place := func(name string) string { return filepath.Join(dir, name) }
	// Away from inodes that were just freed, which ext4 would look at again and again.
	if err := exec.CommandContext(ctx, "chattr", "+T", dir).Run(); err != nil {
		slog.Warn("not ext4: what was removed before may cost time", "error", err)
	}
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(place(name), 0o755); err != nil {
			return 0, err
		}
	}
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", place("lower"), place("upper"), place("work"))
	if err := unix.Mount("overlay", place("merged"), "overlay", 0, layers); err != nil {
		return 0, fmt.Errorf("mounting an overlay: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(place("merged"), 0)) }()
	unix.Sync()
	start := time.Now()
	err = command{dir: place("merged"), argv: []string{"busybox", "sh", "-c", w.programs, "sh", place("merged"), b.fillProgram}}.run(ctx)
	return time.Since(start).Seconds(), err
}

func (b *bench) round(ctx context.Context, t tool, dir string, w *workload, into samples, before func(context.Context, tool) error) error {
	if err := t.reset(ctx); err != nil {
		return fmt.Errorf("reset: %w", err)
	}
	if before != nil {
		if err := before(ctx, t); err != nil {
			return err
		}
	}
	moments := []string{cold, unchanged}
	if w.edited != "" {
		moments = append(moments, oneFile)
	}
	for _, moment := range moments {
		if moment == oneFile {
			b.edits++
			if err := w.edit(dir, b.edits); err != nil {
				return err
			}
		}
		seconds, err := b.time(ctx, t, dir, w)
		if err != nil {
			return err
		}
		slog.Info("timed", "workload", w.name, "moment", moment, "tool", t.name(), "seconds", fmt.Sprintf("%.3f", seconds))
		if into[moment] == nil {
			into[moment] = map[string][]float64{}
		}
		into[moment][t.name()] = append(into[moment][t.name()], seconds)
	}
	return nil
}

func (b *bench) time(ctx context.Context, t tool, dir string, w *workload) (float64, error) {
	// What others left to be written is not this build's to pay for.
	unix.Sync()
	bounded, cancel := context.WithTimeoutCause(ctx, b.budget, errBudget)
	defer cancel()
	start := time.Now()
	err := t.build(bounded, dir, w)
	return time.Since(start).Seconds(), err
}

// typical is what the issue of a moment is reported by: the best of cold runs,
// whose disturbances only ever add, and the median of the others.
func typical(moment string, seconds []float64) float64 {
	if moment == cold {
		return slices.Min(seconds)
	}
	return median(seconds)
}

// ratio compares two tools round by round.
func ratio(moment string, a, b []float64) float64 {
	if moment == cold {
		return slices.Min(a) / slices.Min(b)
	}
	n := min(len(a), len(b))
	each := make([]float64, n)
	for i := range n {
		each[i] = a[i] / b[i]
	}
	return median(each)
}

func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	if len(v)%2 == 1 {
		return v[len(v)/2]
	}
	return (v[len(v)/2-1] + v[len(v)/2]) / 2
}
