package render

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
)

const (
	// maxDiagnostics is how many diagnostics are shown; nobody reads more.
	maxDiagnostics = 100
	// subjectLines is how many lines are shown of what a diagnostic is about.
	subjectLines = 6
	// sourceColumns is how much is shown of a long source line.
	sourceColumns = 160
)

// Diagnostics writes diagnostics: what is wrong, where (file:line:column), the
// source with the place underlined, and what to do. Sources holds the files'
// text by the names that the ranges give them.
//
// The values of expressions are not shown, as hcl's own writer does: they may
// come from the environment, and be secret or without end.
func Diagnostics(w io.Writer, sources map[string][]byte, diags hcl.Diagnostics, style Style) error {
	var b bytes.Buffer
	for _, d := range diags[:min(len(diags), maxDiagnostics)] {
		writeDiagnostic(&b, sources, d, style)
	}
	if more := len(diags) - maxDiagnostics; more > 0 {
		fmt.Fprintf(&b, "And %d more.\n", more)
	}
	_, err := w.Write(b.Bytes())
	return err
}

func writeDiagnostic(b *bytes.Buffer, sources map[string][]byte, d *hcl.Diagnostic, style Style) {
	word, color := "Error:", red
	if d.Severity == hcl.DiagWarning {
		word, color = "Warning:", yellow
	}
	fmt.Fprintf(b, "%s %s\n", style.paint(color+bold, word), style.paint(bold, foreignLines(d.Summary)))
	if at := d.Subject; at != nil {
		place := style.path(at.Filename)
		if at.Start.Line > 0 {
			place += fmt.Sprintf(":%d:%d", at.Start.Line, max(1, at.Start.Column))
		}
		fmt.Fprintf(b, "  on %s\n", place)
		if src, ok := sources[at.Filename]; ok && at.Start.Line > 0 {
			underlined(b, src, *at, color, style)
		}
	}
	if d.Detail != "" {
		for line := range strings.SplitSeq(foreignLines(d.Detail), "\n") {
			wrap(b, line, "  ", style.Width)
		}
	}
	b.WriteByte('\n')
}

// underlined writes the lines of a range, with marks under the part of the first
// line that the range covers.
func underlined(b *bytes.Buffer, src []byte, at hcl.Range, color string, style Style) {
	last := at.End.Line
	if at.End.Column <= 1 && last > at.Start.Line {
		last--
	}
	last = max(at.Start.Line, last)
	lines := lineRange(src, at.Start.Line, min(last, at.Start.Line+subjectLines-1))
	width := len(fmt.Sprint(at.Start.Line + len(lines.text)))
	for i, text := range lines.text {
		start, end := 1, 1
		if i == 0 {
			if start, end = at.Start.Column, at.End.Column; at.End.Line > at.Start.Line {
				end = utf8.RuneCountInString(text) + 1
			}
		}
		text, pad, marks := window(text, start, end)
		fmt.Fprintf(b, "  %s %s\n", style.paint(faint, fmt.Sprintf("%*d |", width, lines.first+i)), text)
		if i == 0 {
			fmt.Fprintf(b, "  %s %s%s\n", style.paint(faint, fmt.Sprintf("%*s |", width, "")), pad, style.paint(color, marks))
		}
	}
	if more := last - lines.first - len(lines.text) + 1; more > 0 && len(lines.text) == subjectLines {
		fmt.Fprintf(b, "  %s … %d more lines\n", style.paint(faint, fmt.Sprintf("%*s |", width, "")), more)
	}
}

// window is the part of a line that is shown of it: all, unless it is very long.
// pad and marks are what stands below it to mark the columns from start up to
// end, which count from 1.
func window(line string, start, end int) (text, pad, marks string) {
	const before = 60 // columns shown to the left of what is marked
	runes := []rune(line)
	start = min(max(start-1, 0), len(runes))
	end = min(max(end-1, start), len(runes))
	if cut := start - before; len(runes) > sourceColumns && cut > 0 {
		runes = append([]rune{'…'}, runes[cut:]...)
		start, end = start-cut+1, end-cut+1
	}
	if len(runes) > sourceColumns {
		runes = append(runes[:sourceColumns:sourceColumns], '…')
		end = min(end, len(runes))
	}
	for _, r := range runes[:start] {
		switch {
		case r == '\t':
			pad += "\t"
		case foreign(string(r)) != "":
			pad += " "
		}
	}
	return foreign(string(runes)), pad, strings.Repeat("^", max(1, end-start))
}

// wrap writes a line of prose, broken at width if that is not 0. Lines that are
// indented are laid out already.
func wrap(b *bytes.Buffer, line, indent string, width int) {
	if width <= 0 || strings.HasPrefix(line, " ") || utf8.RuneCountInString(line)+len(indent) <= width {
		b.WriteString(strings.TrimRight(indent+line, " ") + "\n")
		return
	}
	column := 0
	for _, word := range strings.Fields(line) {
		n := utf8.RuneCountInString(word)
		switch {
		case column == 0:
			b.WriteString(indent)
			column = len(indent)
		case column+1+n > width:
			b.WriteString("\n" + indent)
			column = len(indent)
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += n
	}
	b.WriteByte('\n')
}
