package main

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/zbuild/zbuild/internal/event"
	"github.com/zbuild/zbuild/internal/session"
	"github.com/zbuild/zbuild/runner"
)

// eventWriter writes JSON lines. Their form is part of the interface:
// docs/watch.md.
type eventWriter struct{ out *json.Encoder }

func newEventWriter(w io.Writer) *eventWriter {
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	return &eventWriter{out: out}
}

// watchEvent is one line.
type watchEvent struct {
	Type       string    `json:"type"`
	Time       time.Time `json:"time"`
	Generation int       `json:"generation,omitempty"`
	Changed    []string  `json:"changed,omitempty"`
	Affected   []string  `json:"affected,omitempty"`
	Unaffected []string  `json:"unaffected,omitempty"`

	OK       *bool         `json:"ok,omitempty"`
	Canceled bool          `json:"canceled,omitempty"`
	Seconds  float64       `json:"seconds,omitempty"`
	Targets  []targetEvent `json:"targets,omitempty"`
	Ran      int           `json:"ran,omitempty"`
	Cached   int           `json:"cached,omitempty"`
	Errors   []errorEvent  `json:"errors,omitempty"`

	Step   string   `json:"step,omitempty"`
	Text   string   `json:"text,omitempty"`
	Target string   `json:"target,omitempty"`
	Failed []string `json:"failed,omitempty"`
	Advice string   `json:"advice,omitempty"`
}

// targetEvent is a target's image.
type targetEvent struct {
	Name   string   `json:"name"`
	Image  string   `json:"image,omitempty"`
	Digest string   `json:"digest,omitempty"`
	Tags   []string `json:"tags,omitempty"`
}

// errorEvent is what went wrong, and where it is written.
type errorEvent struct {
	Message string `json:"message"`
	Detail  string `json:"detail,omitempty"`
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
}

func (w *eventWriter) write(e watchEvent) {
	_ = w.out.Encode(e) // whoever reads has gone; the builds go on
}

// build writes what happens in a build, without what steps print.
func (w *eventWriter) build(e event.Event) {
	switch e := e.(type) {
	case event.StepStarted:
		w.write(watchEvent{Type: "step-started", Time: e.Time, Step: e.Step.Name})
	case event.StepDone:
		kind := "step-done"
		if e.Cached {
			kind = "step-cached"
		}
		ok := e.Err == nil && !e.Canceled
		w.write(watchEvent{Type: kind, Time: e.Time, Step: e.Step.Name, OK: &ok, Canceled: e.Canceled})
	case event.Warning:
		w.write(watchEvent{Type: "warning", Time: e.Time, Text: e.Text})
	}
}

func started(kind string, n session.Started) watchEvent {
	return watchEvent{
		Type: kind, Time: n.Time, Generation: n.Number, Changed: n.Changed, Affected: n.Affected, Unaffected: n.Unaffected,
	}
}

// notice writes what happens around builds.
func (w *eventWriter) notice(n session.Notice) {
	switch n := n.(type) {
	case session.Started:
		w.write(started("started", n))
	case session.Finished:
		w.write(finished(n))
	case session.Unchanged:
		e := started("unchanged", n.Started)
		e.Seconds = n.Duration.Seconds()
		w.write(e)
	case session.Synced:
		w.write(watchEvent{Type: "synced", Time: n.Time, Target: n.Target, Changed: n.Files})
	case session.Broken:
		e := watchEvent{Type: "broken", Time: n.Time, Changed: n.Changed}
		if n.Generation != nil {
			e.Errors = errorEvents(n.Generation.Diagnostics)
		}
		if n.Err != nil {
			e.Errors = append(e.Errors, errorEvent{Message: n.Err.Error()})
		}
		w.write(e)
	case session.Waiting:
		kind := "waiting"
		if n.Paused {
			kind = "paused"
		}
		w.write(watchEvent{Type: kind, Time: n.Time, Failed: n.Failed})
	case session.Degraded:
		w.write(watchEvent{Type: "polling", Time: time.Now(), Text: n.Reason, Advice: n.Advice, Seconds: n.Poll.Seconds()})
	}
}

func finished(n session.Finished) watchEvent {
	e := started("finished", n.Started)
	g := n.Generation
	ok := g.Err == nil && !n.Canceled
	e.Time, e.OK, e.Canceled, e.Seconds = n.Started.Time.Add(n.Duration), &ok, n.Canceled, n.Duration.Seconds()
	if g.Result == nil {
		if g.Err != nil && !n.Canceled {
			e.Errors = append(e.Errors, errorEvent{Message: g.Err.Error()})
		}
		return e
	}
	e.Ran, e.Cached = g.Result.Ran, g.Result.Cached
	for _, t := range g.Result.Targets {
		if t.Image != nil {
			e.Targets = append(e.Targets, targetEvent{Name: t.Name, Image: t.Image.ID.String(), Digest: t.Image.Digest.String(), Tags: t.Tags})
		}
	}
	for _, err := range g.Result.Failures {
		e.Errors = append(e.Errors, failureEvent(err))
	}
	return e
}

func failureEvent(err error) errorEvent {
	e := errorEvent{Message: err.Error()}
	var step *runner.StepError
	if errors.As(err, &step) {
		e.Detail = strings.Join(step.Output, "\n")
		if at := step.Step.Location; at != nil {
			e.File, e.Line, e.Column = at.Filename, at.Start.Line, at.Start.Column
		}
	}
	return e
}

func errorEvents(diags hcl.Diagnostics) []errorEvent {
	var out []errorEvent
	for _, d := range diags {
		if d.Severity != hcl.DiagError {
			continue
		}
		e := errorEvent{Message: d.Summary, Detail: d.Detail}
		if d.Subject != nil {
			e.File, e.Line, e.Column = d.Subject.Filename, d.Subject.Start.Line, d.Subject.Start.Column
		}
		out = append(out, e)
	}
	return out
}
