package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/zbuild/zbuild/internal/event"
	"github.com/zbuild/zbuild/internal/render"
	"github.com/zbuild/zbuild/internal/session"
)

// watchView shows what happens while a project is watched: to a person, to the
// terminal's notifications and to an editor.
type watchView struct {
	a     *app
	c     *watchCmd
	mode  render.Mode
	after *after
	keys  bool // the last line of the terminal says which keys there are

	events *eventWriter // nil without --events
	closer io.Closer

	mu       sync.Mutex
	progress *render.Progress // of the build that runs
	times    map[string]time.Time
	last     *session.Generation // that was built
	status   bool                // the last line is the status
}

func newWatchView(a *app, c *watchCmd, mode render.Mode) (*watchView, error) {
	p, err := render.NewProgress(a.stderr, mode, a.style)
	if err != nil {
		return nil, usage(err)
	}
	v := &watchView{a: a, c: c, mode: p.Mode()}
	if err := p.Close(); err != nil {
		return nil, err
	}
	switch c.Events {
	case "":
	case "-":
		v.events = newEventWriter(a.stdout)
	default:
		f, err := c.openEvents(a)
		if err != nil {
			return nil, err
		}
		v.events, v.closer = newEventWriter(f), f
	}
	return v, nil
}

func (v *watchView) close() {
	if v.closer != nil {
		_ = v.closer.Close() // every line has been written
	}
}

// Emit hands on what happens in a build.
func (v *watchView) Emit(e event.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.events != nil {
		v.events.build(e)
	}
	if d, ok := e.(event.TaskDone); ok && v.times != nil {
		if name, ok := strings.CutPrefix(d.ID, "name:"); ok {
			v.times[name] = d.Time
		}
	}
	if v.progress != nil {
		v.progress.Emit(e)
		return
	}
	if w, ok := e.(event.Warning); ok {
		v.clear()
		fmt.Fprintf(v.a.stderr, "warning: %s\n", w.Text)
	}
}

// observe shows a notice.
func (v *watchView) observe(n session.Notice) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.events != nil {
		v.events.notice(n)
	}
	v.clear()
	switch n := n.(type) {
	case session.Started:
		v.started(n)
	case session.Finished:
		v.finished(n)
	case session.Unchanged:
		v.unchanged(n)
	case session.Synced:
		v.say(n.Time, "%s copied into the containers of %s", list(n.Files), n.Target)
	case session.Broken:
		v.broken(n)
	case session.Waiting:
		v.waiting(n)
	case session.Degraded:
		v.say(time.Now(), "looking for changes every %s: %s", n.Poll, n.Reason)
		if n.Advice != "" {
			fmt.Fprintf(v.a.stderr, "  %s\n", n.Advice)
		}
	}
}

// say writes a line with the time.
func (v *watchView) say(at time.Time, format string, args ...any) {
	fmt.Fprintf(v.a.stderr, "[%s] %s\n", at.Format("15:04:05"), fmt.Sprintf(format, args...))
}

func (v *watchView) started(n session.Started) {
	v.times = make(map[string]time.Time)
	p, err := render.NewProgress(v.a.stderr, v.mode, v.a.style)
	if err == nil {
		v.progress = p
	}
	if v.quiet() {
		return
	}
	switch {
	case n.First:
	case n.Rebuild:
		v.say(n.Time, "building everything")
	case len(n.Changed) > 0:
		v.say(n.Time, "%s changed", list(n.Changed))
	case n.Rescan:
		v.say(n.Time, "changes were lost, so everything was looked at")
	case n.Retry:
		v.say(n.Time, "trying again")
	default:
		v.say(n.Time, "going on")
	}
	if !n.First {
		line := "  affected: " + list(n.Affected)
		if len(n.Unaffected) > 0 {
			line += "; not affected: " + list(n.Unaffected)
		}
		fmt.Fprintln(v.a.stderr, line)
	}
}

func (v *watchView) quiet() bool { return v.mode == render.ModeQuiet || v.mode == render.ModeNone }

// stopProgress ends the display of the build that ran.
func (v *watchView) stopProgress() {
	p := v.progress
	v.progress = nil
	if p != nil {
		_ = p.Close() // what it could not show is lost already
	}
}

func (v *watchView) finished(n session.Finished) {
	v.stopProgress()
	g := n.Generation
	if n.Canceled {
		if !v.quiet() {
			v.say(n.Started.Time.Add(n.Duration), "stopped")
		}
		return
	}
	v.last = g
	if len(g.Diagnostics) > 0 && n.Started.First {
		_ = render.Diagnostics(v.a.stderr, g.Sources(), g.Diagnostics, v.a.style)
	}
	built := g.Result
	if g.Err != nil {
		built = succeeded(g.Result)
	}
	if built != nil && !v.quiet() {
		times := make(map[string]time.Duration)
		for name, at := range v.times {
			times[name] = at.Sub(n.Started.Time)
		}
		_ = render.Built(v.a.stdout, built, times, n.Duration, v.a.outStyle)
	}
	if g.Err != nil {
		fmt.Fprintln(v.a.stderr)
		_ = render.Failures(v.a.stderr, g.Plan, failures(g), v.a.style)
		v.notify("failed: " + list(n.Started.Affected))
		return
	}
	v.notify("built: " + list(n.Started.Affected))
	v.after.start(v.c.Exec, n)
}

func (v *watchView) unchanged(n session.Unchanged) {
	if v.quiet() {
		return
	}
	what := list(n.Started.Changed)
	switch {
	case n.Started.Retry && what == "":
		v.say(n.Started.Time, "nothing has failed")
	case what == "":
		v.say(n.Started.Time, "nothing to build: all is as it was")
	default:
		v.say(n.Started.Time, "%s: the content is as it was, nothing to build", what)
	}
}

func (v *watchView) broken(n session.Broken) {
	if len(n.Changed) > 0 && !v.quiet() {
		v.say(n.Time, "%s changed", list(n.Changed))
	}
	if n.Err != nil {
		fmt.Fprintf(v.a.stderr, "zbuild: %v\n", n.Err)
	}
	if n.Generation != nil {
		_ = render.Diagnostics(v.a.stderr, n.Generation.Sources(), n.Generation.Diagnostics, v.a.style)
	}
	if n.LastGood {
		v.say(n.Time, "until that is mended, the project is watched as it was")
	}
	v.notify("the project cannot be loaded")
}

func (v *watchView) waiting(n session.Waiting) {
	if v.quiet() {
		return
	}
	var parts []string
	switch {
	case n.Paused:
		parts = append(parts, "paused")
	case n.Polling:
		parts = append(parts, "watching "+render.Count(n.Targets, "target")+" by polling")
	default:
		parts = append(parts, "watching "+render.Count(n.Targets, "target"))
	}
	if len(n.Failed) > 0 {
		parts = append(parts, "failed: "+list(n.Failed))
	}
	if n.Broken {
		parts = append(parts, "the project has errors")
	}
	if !v.keys {
		v.say(n.Time, "%s", strings.Join(parts, "; "))
		return
	}
	line := strings.Join(parts, "; ") + " · r rebuild all · ⏎ rebuild failed · p pause · e explain · q quit"
	if runes := []rune(line); v.a.style.Width > 1 && len(runes) >= v.a.style.Width {
		line = string(runes[:v.a.style.Width-1])
	}
	fmt.Fprint(v.a.stderr, line)
	v.status = true
}

// clear removes the status line.
func (v *watchView) clear() {
	if v.status {
		fmt.Fprint(v.a.stderr, "\r\x1b[K")
		v.status = false
	}
}

// end leaves the terminal as a prompt wants it.
func (v *watchView) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.clear()
	v.stopProgress()
}

// notify tells the terminal that something has ended.
func (v *watchView) notify(text string) {
	if _, ok := terminal(v.a.stderr); !ok {
		return
	}
	switch v.c.Notify {
	case "bell":
		fmt.Fprint(v.a.stderr, "\a")
	case "osc9":
		fmt.Fprintf(v.a.stderr, "\x1b]9;zbuild: %s\a", render.Line(text))
	}
}

// key handles a key of the terminal.
func (v *watchView) key(key rune, commands chan<- session.Command, done <-chan struct{}, quit func()) {
	send := func(c session.Command) {
		select {
		case commands <- c:
		case <-done:
		}
	}
	switch key {
	case 'r', 'R':
		send(session.RebuildAll)
	case '\r', '\n':
		send(session.RebuildFailed)
	case 'p', 'P':
		send(session.TogglePause)
	case 'e', 'E':
		v.explain()
	case 'q', 'Q':
		quit()
	}
}

// explain says why the steps of the last build ran.
func (v *watchView) explain() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.progress != nil {
		return // it would be garbled
	}
	v.clear()
	if v.last == nil || v.last.Result == nil {
		v.say(time.Now(), "nothing has been built yet")
		return
	}
	_ = render.Explain(v.a.stdout, v.last.Plan, v.last.Result.Explanations, v.a.outStyle)
}
