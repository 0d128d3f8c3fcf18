package render

import (
	"bytes"
	"fmt"
	"io"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/exporter"
	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

// Preview writes what a run of a plan would do: the steps that would run, and what of
// each target would leave.
func Preview(w io.Writer, plan *planner.Plan, preview *runner.Preview, style Style) error {
	var b bytes.Buffer
	names := newLabels(plan, style)
	list := func(what string, steps []*planner.Step) {
		if len(steps) == 0 {
			return
		}
		fmt.Fprintln(&b, what)
		for _, s := range steps {
			fmt.Fprintf(&b, "  %s\n", names.name(s))
		}
	}
	list("Would run:", preview.Run)
	list("Would take from caches of cache-from:", preview.Fetched)
	fmt.Fprintln(&b, "Would leave:")
	for _, t := range plan.Targets {
		if t.Requested {
			writeOutputs(&b, t.Config, style)
		}
	}
	total := len(preview.Run) + len(preview.Fetched) + preview.Cached
	fmt.Fprintf(&b, "\n%s\n", style.paint(green, fmt.Sprintf("Nothing was built; %d of %s would run.", len(preview.Run), Count(total, "step"))))
	_, err := w.Write(b.Bytes())
	return err
}

// writeOutputs writes where a target's results would go.
func writeOutputs(b *bytes.Buffer, t *config.Target, style Style) {
	outputs := t.Outputs
	if len(outputs) == 0 {
		outputs = []config.Output{{Type: exporter.Image}}
	}
	for _, o := range outputs {
		fmt.Fprintf(b, "  %s  %s\n", style.paint(bold, t.Name), outcome(o, style))
		spec, err := exporter.Parse(o.Type, o.Attrs)
		if err != nil || !spec.ToStore(o.Dest) && !spec.Push {
			continue
		}
		for _, name := range t.Tags {
			note := ""
			switch {
			case spec.Push && spec.ByDigest:
				note = style.paint(faint, "  pushed by its digest")
			case spec.Push:
				note = style.paint(faint, "  pushed")
			}
			fmt.Fprintf(b, "    %s%s\n", name, note)
		}
	}
}

// outcome says what an output is.
func outcome(o config.Output, style Style) string {
	switch {
	case o.Type == exporter.CacheOnly:
		return "nothing but the cache"
	case o.Dest == "-":
		return o.Type + " on standard output"
	case o.Dest != "":
		return o.Type + " " + relative(o.Dest, style.Dir)
	case o.Type == exporter.Registry:
		return "image in a registry"
	default:
		return "image"
	}
}
