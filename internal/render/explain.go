package render

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

// Explain writes why steps of a plan ran and were not taken from the cache.
func Explain(w io.Writer, plan *planner.Plan, explanations []runner.Explanation, style Style) error {
	var b bytes.Buffer
	if len(explanations) == 0 {
		fmt.Fprintln(&b, "No step ran.")
	} else {
		fmt.Fprintln(&b, "Why steps ran:")
	}
	names := newLabels(plan, style)
	for _, e := range explanations {
		fmt.Fprintln(&b, style.paint(bold, names.name(e.Step)))
		if e.Reason != runner.ReasonChanged {
			fmt.Fprintf(&b, "  %s\n", e.Reason)
		}
		for _, c := range e.Changes {
			fmt.Fprintf(&b, "  %s\n", change(c))
		}
	}
	if len(explanations) > 0 {
		b.WriteByte('\n')
	}
	_, err := w.Write(b.Bytes())
	return err
}

func change(c runner.Change) string {
	what := Line(c.What)
	switch {
	case c.Unknown:
		return what + " may have changed: what it was before is gone from the store, so the two cannot be compared"
	case c.Old != "" && c.New != "":
		return what + " changed: " + Line(c.Old) + " → " + Line(c.New)
	case c.New != "":
		return what + " is new"
	case c.Old != "":
		return what + " is gone"
	case len(c.Files) == 0:
		return what + " changed"
	}
	files := make([]string, len(c.Files))
	for i, f := range c.Files {
		files[i] = Line(f)
	}
	text := what + " changed: " + strings.Join(files, ", ")
	if c.More > 0 {
		text += fmt.Sprintf(" and %d more", c.More)
	}
	return text
}
