package render

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/internal/event"
	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

// translator makes BuildKit's progress of events. A step or a task is a vertex.
type translator struct {
	style  Style
	labels *labels
	// open are the vertices that were started and are not done, known all of
	// them with the time of their start.
	open  map[digest.Digest]*client.Vertex
	known map[digest.Digest]*client.Vertex
	// midline are the vertices whose last output did not end its line.
	midline map[digest.Digest]bool
}

func newTranslator(style Style) *translator {
	return &translator{
		style:   style,
		labels:  newLabels(nil, style),
		open:    make(map[digest.Digest]*client.Vertex),
		known:   make(map[digest.Digest]*client.Vertex),
		midline: make(map[digest.Digest]bool),
	}
}

// add puts what an event says into a status.
func (t *translator) add(ss *client.SolveStatus, e event.Event) {
	switch e := e.(type) {
	case event.BuildStarted:
		t.labels = newLabels(e.Plan, t.style)
	case event.StepStarted:
		t.start(ss, t.step(e.Step), e.Time)
	case event.StepOutput:
		t.log(ss, e.Step.ID, e.Stream, e.Data, e.Time)
	case event.StepRetry:
		t.line(ss, e.Step.ID, fmt.Sprintf("retry %d of %d in %s: %v", e.Attempt, e.Of, e.Delay, cause(e.Err)), e.Time)
	case event.StepDone:
		t.stepDone(ss, e)
	case event.TaskStarted:
		t.start(ss, client.Vertex{Digest: task(e.ID), Name: foreign(e.Name)}, e.Time)
	case event.TaskDone:
		t.taskDone(ss, e)
	case event.Warning:
		t.warn(ss, e)
	}
}

// step is the vertex of a step that nothing has happened to yet.
func (t *translator) step(step *planner.Step) client.Vertex {
	v := client.Vertex{Digest: step.ID, Name: t.labels.name(step)}
	for _, in := range step.Inputs {
		if in.Step != nil {
			v.Inputs = append(v.Inputs, in.Step.ID)
		}
	}
	return v
}

// task is the digest that stands for a task.
func task(id string) digest.Digest { return digest.FromString("task " + id) }

func (t *translator) start(ss *client.SolveStatus, v client.Vertex, at time.Time) {
	v.Started = &at
	t.known[v.Digest] = &v
	t.open[v.Digest] = &v
	ss.Vertexes = append(ss.Vertexes, &v)
}

// done ends a vertex, which is started now if it was not.
func (t *translator) done(ss *client.SolveStatus, v client.Vertex, at time.Time, cached bool, err error) {
	if known, ok := t.known[v.Digest]; ok {
		v = *known
	} else {
		v.Started = &at
	}
	v.Completed = &at
	v.Cached = cached
	if err != nil {
		v.Error = foreignLines(cause(err).Error())
	}
	t.known[v.Digest] = &v
	delete(t.open, v.Digest)
	delete(t.midline, v.Digest)
	ss.Vertexes = append(ss.Vertexes, &v)
}

func (t *translator) stepDone(ss *client.SolveStatus, e event.StepDone) {
	err := e.Err
	if e.Canceled {
		if _, ok := t.known[e.Step.ID]; !ok {
			return // it never started: there is nothing to show
		}
		// The displays tell a canceled vertex by this text.
		err = context.Canceled
	}
	t.done(ss, t.step(e.Step), e.Time, e.Cached, err)
}

func (t *translator) taskDone(ss *client.SolveStatus, e event.TaskDone) {
	t.done(ss, client.Vertex{Digest: task(e.ID), Name: e.ID}, e.Time, false, e.Err)
	at := e.Time
	for _, note := range e.Notes {
		ss.Statuses = append(ss.Statuses, &client.VertexStatus{
			ID: foreign(note), Vertex: task(e.ID), Timestamp: at, Started: &at, Completed: &at,
		})
	}
}

func (t *translator) warn(ss *client.SolveStatus, e event.Warning) {
	if e.Step != nil {
		if _, ok := t.open[e.Step.ID]; ok {
			t.line(ss, e.Step.ID, "warning: "+foreignLines(e.Text), e.Time)
			return
		}
	}
	text := foreignLines(e.Text)
	if e.Step != nil {
		text = t.labels.name(e.Step) + ": " + text
	}
	t.done(ss, client.Vertex{Digest: digest.FromString("warning " + text), Name: "warning: " + text}, e.Time, false, nil)
}

// log adds output of a vertex as it came.
func (t *translator) log(ss *client.SolveStatus, v digest.Digest, stream int, data []byte, at time.Time) {
	if len(data) == 0 {
		return
	}
	t.midline[v] = data[len(data)-1] != '\n'
	ss.Logs = append(ss.Logs, &client.VertexLog{Vertex: v, Stream: stream, Data: data, Timestamp: at})
}

// line adds a line of our own to the output of a vertex.
func (t *translator) line(ss *client.SolveStatus, v digest.Digest, text string, at time.Time) {
	text += "\n"
	if t.midline[v] {
		text = "\n" + text
	}
	t.log(ss, v, 2, []byte(text), at)
}

// stop ends everything that is still open as canceled.
func (t *translator) stop(ss *client.SolveStatus, at time.Time) {
	open := make([]*client.Vertex, 0, len(t.open))
	for _, v := range t.open {
		open = append(open, v)
	}
	slices.SortFunc(open, func(a, b *client.Vertex) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	for _, v := range open {
		t.done(ss, *v, at, false, context.Canceled)
	}
}

// cause is what went wrong in a step, without the step's name, which is shown
// beside it.
func cause(err error) error {
	var step *runner.StepError
	if errors.As(err, &step) && step.Err != nil {
		return step.Err
	}
	return err
}

// foreignLines is foreign for a text of several lines.
func foreignLines(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, line := range lines {
		lines[i] = foreign(line)
	}
	return strings.Join(lines, "\n")
}
