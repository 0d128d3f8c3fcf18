package render

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

const (
	// aroundLines is how many lines of a Dockerfile are shown before and after
	// the one that failed.
	aroundLines = 2
	// instructionLines is how many lines are shown of a long instruction.
	instructionLines = 16
	// outputLines is how many lines are shown of a failed step's last output.
	outputLines = 20
)

// Failures writes why a build failed: for each root cause its place, the
// instruction, the end of its output and the targets that it affects.
func Failures(w io.Writer, plan *planner.Plan, failures []error, style Style) error {
	l := newLabels(plan, style)
	var b bytes.Buffer
	for i, err := range failures {
		if i > 0 {
			b.WriteByte('\n')
		}
		var step *runner.StepError
		if errors.As(err, &step) && step.Step != nil {
			writeStepFailure(&b, plan, l, step, style)
			continue
		}
		fmt.Fprintf(&b, "%s %s\n", style.paint(red+bold, "ERROR:"), indentRest(foreignLines(err.Error()), "  "))
	}
	if len(failures) > 1 {
		fmt.Fprintf(&b, "\n%s\n", style.paint(red+bold, fmt.Sprintf("%d failures.", len(failures))))
	}
	if slices.ContainsFunc(failures, lacksRoom) {
		fmt.Fprintf(&b, "\n%s %s\n", style.paint(bold, "Hint:"), roomAdvice)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// roomAdvice is for those whose disk is full.
const roomAdvice = `a file system is full, or a quota is used up: 'df -h' and 'df -i' say which.
  Where images and the cache lie, 'zbuild cache prune' makes room ('zbuild cache du' says how much), and so does
  'podman image prune'; everywhere else remove what is not needed. What was built until now is kept.`

// lacksRoom reports whether a failure is one of a disk that is full. Programs in
// containers and some libraries say so in words only.
func lacksRoom(err error) bool {
	text := err.Error()
	var step *runner.StepError
	if errors.As(err, &step) {
		text += "\n" + strings.Join(step.Output, "\n")
	}
	text = strings.ToLower(text)
	return strings.Contains(text, "no space left on device") || strings.Contains(text, "disk quota exceeded")
}

func writeStepFailure(b *bytes.Buffer, plan *planner.Plan, l *labels, e *runner.StepError, style Style) {
	fmt.Fprintf(b, "%s %s\n", style.paint(red+bold, "FAILED"), style.paint(bold, l.name(e.Step)))
	if output := e.Output[max(0, len(e.Output)-outputLines):]; len(output) > 0 {
		b.WriteString("\nLast output:\n")
		for _, line := range output {
			fmt.Fprintf(b, "  %s\n", foreign(line))
		}
	}
	if at := e.Step.Location; at != nil && plan != nil {
		if src, ok := plan.Sources[at.Filename]; ok {
			fmt.Fprintf(b, "\n%s:%d:\n", style.path(at.Filename), at.Start.Line)
			excerpt(b, src, *at, style)
		}
	}
	b.WriteByte('\n')
	if targets := l.affected(e.Step); len(targets) > 0 {
		fmt.Fprintf(b, "Affected: %s\n", affectedText(targets))
	}
	fmt.Fprintf(b, "%s %s\n", style.paint(red+bold, "ERROR:"), indentRest(foreignLines(cause(e).Error()), "  "))
}

// affectedText names targets, the first of them if there are many.
func affectedText(targets []string) string {
	const most = 10
	if len(targets) <= most {
		return strings.Join(targets, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(targets[:most], ", "), len(targets)-most)
}

// excerpt writes the lines around a range, those of the range marked.
func excerpt(b *bytes.Buffer, src []byte, at hcl.Range, style Style) {
	first, last := at.Start.Line, at.End.Line
	if at.End.Column <= 1 && last > first {
		last-- // the range ends with the line before
	}
	last = max(first, last)
	lines := lineRange(src, first-aroundLines, last+aroundLines)
	width := len(fmt.Sprint(lines.first + len(lines.text) - 1))
	for i, text := range lines.text {
		n := lines.first + i
		if n >= first+instructionLines && n <= last {
			if n == first+instructionLines {
				fmt.Fprintf(b, "  %*s | %s\n", width, "", style.paint(red, fmt.Sprintf(">>> … %d more lines", last-n+1)))
			}
			continue
		}
		mark, paint := "   ", faint
		if n >= first && n <= last {
			mark, paint = ">>>", red
		}
		line := fmt.Sprintf("%*d | %s %s", width, n, mark, foreign(text))
		fmt.Fprintf(b, "  %s\n", style.paint(paint, strings.TrimRight(line, " \t")))
	}
}

type numbered struct {
	first int // number of the first line, from 1
	text  []string
}

// lineRange are the lines of src with the numbers first to last, as far as there
// are such.
func lineRange(src []byte, first, last int) numbered {
	first = max(1, first)
	out := numbered{first: first}
	for n := 1; len(src) > 0 && n <= last; n++ {
		line, rest, _ := bytes.Cut(src, []byte{'\n'})
		if n >= first {
			out.text = append(out.text, string(bytes.TrimSuffix(line, []byte{'\r'})))
		}
		src = rest
	}
	return out
}

// indentRest indents all lines but the first.
func indentRest(text, indent string) string {
	return strings.ReplaceAll(text, "\n", "\n"+indent)
}
