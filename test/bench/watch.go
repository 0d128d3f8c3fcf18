package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/template"
	"time"

	"golang.org/x/sys/unix"
)

// watchReport is what the page about watching says.
type watchReport struct {
	Machine machine
	Runs    map[string]watchRun // by workload
}

// watchRun is what was measured of one workload. All figures are seconds, an edit
// each.
type watchRun struct {
	Title, Date, Commit string
	// Watch is from the write of a file until its target's tag points to the new
	// image. Of that, Notice is the time before the first step that runs, Steps what
	// the steps took, and Image is from the end of the last one. Bake is what `docker
	// buildx bake` needs that is started in that moment.
	Watch, Notice, Steps, Image, Bake []float64
	// Idle is the CPU time that watching took in IdleFor without a change.
	Idle, IdleFor float64
	// Memory is the resident memory after the edits, Peak the most that there was at any
	// time, the first build included, in MB.
	Memory, Peak float64
}

//go:embed watch.md.tmpl
var watchPage string

func (o *options) runWatch(ctx context.Context) error {
	name := filepath.Join(o.docs, "performance", "watch.json")
	report := watchReport{Runs: map[string]watchRun{}}
	if text, err := os.ReadFile(name); err == nil {
		if err := json.Unmarshal(text, &report); err != nil {
			return err
		}
	}
	if !o.render {
		if err := o.measureWatch(ctx, &report, name); err != nil {
			return err
		}
	}
	page, err := template.New("page").Funcs(template.FuncMap{
		"ms": func(q float64, s []float64) string { return fmt.Sprintf("%.0f", 1000*quantile(q, s)) },
		"ratio": func(r watchRun) string {
			return fmt.Sprintf("%.2f", quantile(0.5, r.Watch)/quantile(0.5, r.Bake))
		},
	}).Parse(watchPage)
	if err != nil {
		return err
	}
	var b strings.Builder
	if err := page.Execute(&b, report); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.docs, "watch-performance.md"), []byte(b.String()), 0o644)
}

// quantile is the value that a share q of all values does not exceed.
func quantile(q float64, values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(values))
	return v[max(0, int(math.Ceil(q*float64(len(v))))-1)]
}

func (o *options) measureWatch(ctx context.Context, report *watchReport, name string) (err error) {
	b, tearDown, err := o.setUp(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tearDown()) }()
	report.Machine = thisMachine()
	for _, w := range []*workload{w1(), w4()} {
		if !o.wants(w.name) {
			continue
		}
		r, err := b.watch(ctx, w, o.edits)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		r.Title, r.Date, r.Commit = w.title, time.Now().UTC().Format(time.DateOnly), output(ctx, "git", "describe", "--always", "--dirty")
		report.Runs[w.name] = r
		if err := keep(name, report); err != nil {
			return err
		}
	}
	return nil
}

// watch times edits of a workload. Each tool has a project of its own, so that none
// works on the other's edit.
func (b *bench) watch(ctx context.Context, w *workload, edits int) (r watchRun, err error) {
	z, peer := b.tools[0].(*zbuild), b.tools[1].(*buildkit) // setUp made them
	dirs := map[tool]string{z: filepath.Join(b.dir, w.name+"-watch"), peer: filepath.Join(b.dir, w.name+"-bake")}
	for t, dir := range dirs {
		if err := w.write(dir, b.registry); err != nil {
			return r, err
		}
		defer os.RemoveAll(dir)
		if err := t.reset(ctx); err != nil {
			return r, err
		}
	}
	if err := peer.build(ctx, dirs[peer], w); err != nil {
		return r, err
	}
	v, err := z.startWatch(ctx, dirs[z], w)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, v.stop()) }()
	// The first edit of each warms up what only the first one needs.
	for n := range edits + 1 {
		unix.Sync()
		t, err := v.edit(ctx, n)
		if err != nil {
			return r, err
		}
		b.edits++
		if err := w.edit(dirs[peer], b.edits); err != nil {
			return r, err
		}
		unix.Sync()
		start := time.Now()
		if err := peer.build(ctx, dirs[peer], w); err != nil {
			return r, err
		}
		bake := time.Since(start).Seconds()
		if n > 0 {
			r.Watch, r.Bake = append(r.Watch, t.total.Seconds()), append(r.Bake, bake)
			r.Notice, r.Steps, r.Image = append(r.Notice, t.notice.Seconds()), append(r.Steps, t.steps.Seconds()), append(r.Image, t.image.Seconds())
		}
		slog.Info("edit", "workload", w.name, "n", n, "watch", t.total, "notice", t.notice, "steps", t.steps, "image", t.image, "bake", fmt.Sprintf("%.3f", bake))
	}
	if r.Memory, r.Peak, err = v.memory(); err != nil {
		return r, err
	}
	r.IdleFor = 30
	before, err := v.cpu()
	if err != nil {
		return r, err
	}
	time.Sleep(time.Duration(r.IdleFor) * time.Second)
	after, err := v.cpu()
	r.Idle = after - before
	return r, err
}

// watching is a zbuild that watches a project.
type watching struct {
	cmd    *exec.Cmd
	dir    string
	w      *workload
	tags   string // the file that has the names of all images
	events chan watchEvent
}

// watchEvent is what is of interest here of a line of --events.
type watchEvent struct {
	Type    string
	Time    time.Time
	OK      *bool
	Changed []string
}

func (z *zbuild) startWatch(ctx context.Context, dir string, w *workload) (*watching, error) {
	v := &watching{
		dir: dir, w: w, events: make(chan watchEvent, 10_000),
		tags: filepath.Join(z.dir, "root", "overlay-images", "images.json"),
	}
	v.cmd = exec.Command(z.program, "watch", "--progress", "none", "--events", "-")
	v.cmd.Dir, v.cmd.Env, v.cmd.Stderr = dir, append(os.Environ(), z.env()...), os.Stderr
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := v.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(v.events)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var e watchEvent
			if json.Unmarshal(lines.Bytes(), &e) == nil {
				v.events <- e
			}
		}
	}()
	if _, err := v.until(ctx, "waiting"); err != nil {
		return nil, errors.Join(err, v.stop())
	}
	return v, nil
}

// ran is when steps ran: from the first one's start to the last one's end, and for how
// long there was one.
type ran struct {
	first, last time.Time
	busy        time.Duration
}

// until reads events up to one of a type.
func (v *watching) until(ctx context.Context, kind string) (r ran, err error) {
	var begun time.Time
	running := 0
	for {
		select {
		case <-ctx.Done():
			return r, context.Cause(ctx)
		case e, ok := <-v.events:
			switch {
			case !ok:
				return r, errors.New("zbuild has ended")
			case e.Type == "step-started":
				if running++; running == 1 {
					begun = e.Time
				}
				if r.first.IsZero() {
					r.first = e.Time
				}
			case e.Type == "step-done" || e.Type == "step-cached":
				if running--; running == 0 {
					r.busy += e.Time.Sub(begun)
				}
				r.last = e.Time
			case e.Type == "finished" && e.OK != nil && !*e.OK:
				return r, errors.New("a build has failed")
			}
			if e.Type == kind {
				return r, nil
			}
		}
	}
}

// edit is what becomes of one edit: see watchRun.
type edit struct{ total, notice, steps, image time.Duration }

// edit changes the file, and waits until the tags in the store are others.
func (v *watching) edit(ctx context.Context, n int) (t edit, err error) {
	before, err := os.ReadFile(v.tags)
	if err != nil {
		return t, err
	}
	tag := v.edited()
	was := imageOf(before, tag)
	start := time.Now()
	if err := v.w.edit(v.dir, 1_000_000+n); err != nil {
		return t, err
	}
	for {
		if now, err := os.ReadFile(v.tags); err == nil {
			if is := imageOf(now, tag); is != "" && is != was {
				t.total = time.Since(start)
				break
			}
		}
		if time.Since(start) > time.Minute {
			return t, errors.New("no new image within a minute")
		}
		time.Sleep(time.Millisecond)
	}
	steps, err := v.until(ctx, "waiting")
	t.notice, t.steps, t.image = steps.first.Sub(start), steps.busy, start.Add(t.total).Sub(steps.last)
	return t, err
}

// edited is the tag of the target that has the edited file.
func (v *watching) edited() string {
	for _, t := range v.w.targets {
		if s := t.args["SERVICE"]; s != "" && strings.Contains(v.w.edited, "/"+s+"/") {
			return t.tag
		}
	}
	return v.w.targets[0].tag
}

// imageOf is the image that has a name, by the store's list.
func imageOf(list []byte, tag string) string {
	var images []struct {
		ID    string
		Names []string
	}
	if json.Unmarshal(list, &images) != nil {
		return "" // it is just being written
	}
	for _, i := range images {
		if slices.Contains(i.Names, tag) {
			return i.ID
		}
	}
	return ""
}

// cpu is the CPU time that the process has taken, in seconds.
func (v *watching) cpu() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", v.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks float64
	for _, f := range fields[11:13] {
		var n float64
		if _, err := fmt.Sscan(f, &n); err != nil {
			return 0, err
		}
		ticks += n
	}
	return ticks / 100, nil
}

// memory is the resident memory of the process, as it is and at its height, in MB.
func (v *watching) memory() (now, peak float64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.cmd.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	field := func(name string) float64 {
		_, rest, _ := strings.Cut(string(text), name+":")
		var kb float64
		if _, e := fmt.Sscan(rest, &kb); e != nil {
			err = e
		}
		return kb / 1024
	}
	now, peak = field("VmRSS"), field("VmHWM")
	return now, peak, err
}

func (v *watching) stop() error {
	_ = v.cmd.Process.Signal(syscall.SIGTERM)
	go func() {
		for range v.events { // so that it is not held up by what nobody reads
		}
	}()
	err := v.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 130 {
		return nil
	}
	return err
}
