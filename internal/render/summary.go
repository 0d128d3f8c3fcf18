package render

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/go-units"
	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/runner"
)

// relative shortens a path that lies in dir.
func relative(p, dir string) string {
	if rel, err := filepath.Rel(dir, p); dir != "" && err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return p
}

// Summary writes what a run has made: per target its image's ID, layers and
// size, its names and where it was pushed to.
func Summary(w io.Writer, result *runner.Result, style Style) error {
	var b bytes.Buffer
	rows := make([][]string, 0, len(result.Targets))
	for _, t := range result.Targets {
		rows = append(rows, row(t))
	}
	widths := columnWidths(rows)
	for i, t := range result.Targets {
		writeRow(&b, rows[i], widths, style)
		writeNames(&b, t, style)
	}
	if len(rows) > 0 {
		b.WriteByte('\n')
	}
	fmt.Fprintln(&b, totals(result, style))
	_, err := w.Write(b.Bytes())
	return err
}

// row is name, image ID, layers and size.
func row(t runner.TargetResult) []string {
	switch {
	case t.Image == nil && len(t.Outputs) > 0:
		return []string{t.Name, "not in the store"}
	case t.Image == nil:
		return []string{t.Name, "no image"}
	case t.Image.Index:
		return []string{t.Name, shortID(t.Image.ID), Count(len(t.Platforms), "platform"), units.HumanSize(float64(t.Image.Size))}
	default:
		return []string{t.Name, shortID(t.Image.ID), Count(t.Image.Layers, "layer"), units.HumanSize(float64(t.Image.Size))}
	}
}

func columnWidths(rows [][]string) []int {
	var widths []int
	for _, r := range rows {
		for i, cell := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len(cell))
		}
	}
	return widths
}

func writeRow(b *bytes.Buffer, cells []string, widths []int, style Style) {
	var line strings.Builder
	for i, cell := range cells {
		padded := fmt.Sprintf("%-*s", widths[i], cell)
		if i == 0 {
			padded = style.paint(bold, padded)
		} else {
			line.WriteString("  ")
		}
		line.WriteString(padded)
	}
	fmt.Fprintln(b, strings.TrimRight(line.String(), " "))
}

func writeNames(b *bytes.Buffer, t runner.TargetResult, style Style) {
	pushed := make(map[string]bool, len(t.Pushed))
	for _, name := range t.Pushed {
		pushed[name] = true
	}
	for _, name := range t.Tags {
		note := ""
		if pushed[name] {
			note = style.paint(faint, "  pushed")
			delete(pushed, name)
		}
		fmt.Fprintf(b, "  %s%s\n", name, note)
	}
	for _, name := range t.Pushed {
		if pushed[name] {
			fmt.Fprintf(b, "  %s%s\n", name, style.paint(faint, "  pushed, not kept here"))
		}
	}
	for _, o := range t.Outputs {
		if o.Dest != "" {
			fmt.Fprintf(b, "  %s%s\n", relative(o.Dest, style.Dir), style.paint(faint, "  "+o.Type))
		}
	}
}

func totals(r *runner.Result, style Style) string {
	line := fmt.Sprintf("Built %s in %s", Count(len(r.Targets), "target"), Duration(r.Duration))
	if all := r.Ran + r.Cached; all > 0 {
		line += fmt.Sprintf("; %d of %s cached", r.Cached, Count(all, "step"))
	}
	return style.paint(green, line+".")
}

// Count is a number of things, as a person says it; what is the singular.
func Count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// shortID is the form in which podman shows an image's ID.
func shortID(id digest.Digest) string {
	const digits = 12
	s := id.String()
	if _, encoded, ok := strings.Cut(s, ":"); ok {
		s = encoded
	}
	return s[:min(digits, len(s))]
}

// Duration is how long something took, as a person says it.
func Duration(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0fs", d.Seconds())
	default:
		return d.Round(time.Second).String()
	}
}
