package render

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/hcl/v2"

	"github.com/zbuild/zbuild/runner"
)

func TestFailures(t *testing.T) {
	plan := project()
	long := make([]string, 30)
	for i := range long {
		long[i] = fmt.Sprintf("line %d \x1b[31mred\x1b[0m\x07", i+1)
	}
	failures := []error{
		&runner.StepError{Step: plan.Steps[1], Output: long, Err: &runner.ExitError{Code: 137, Signal: "SIGKILL"}},
		fmt.Errorf("wrapped: %w", &runner.StepError{Step: plan.Steps[4], Err: &runner.ExitError{Code: 2}}),
		errors.New("cannot push localhost:5000/api:1\nthe registry says 401"),
	}
	for name, style := range map[string]Style{
		"failures.txt":       {Dir: "/src"},
		"failures-color.txt": {Dir: "/elsewhere", Color: true},
	} {
		var out bytes.Buffer
		if err := Failures(&out, plan, failures, style); err != nil {
			t.Fatal(err)
		}
		golden(t, name, out.Bytes())
	}
}

// TestFailuresOfFullDisks: whoever's disk is full is told what makes room, whoever
// says so.
func TestFailuresOfFullDisks(t *testing.T) {
	plan := project()
	full := &fs.PathError{Op: "write", Path: "/x", Err: syscall.ENOSPC}
	for what, c := range map[string]struct {
		err  error
		want bool
	}{
		"a copy":       {&runner.StepError{Step: plan.Steps[1], Err: full}, true},
		"a program":    {&runner.StepError{Step: plan.Steps[1], Output: []string{"sh: write error: No space left on device"}, Err: &runner.ExitError{Code: 1}}, true},
		"a quota":      {fmt.Errorf("exporting api: %w", syscall.EDQUOT), true},
		"another":      {&runner.StepError{Step: plan.Steps[1], Err: &runner.ExitError{Code: 1}}, false},
		"another file": {fs.ErrNotExist, false},
	} {
		var out bytes.Buffer
		if err := Failures(&out, plan, []error{c.err}, Style{}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(out.String(), "zbuild cache prune"); got != c.want {
			t.Errorf("%s: advice %v, want %v:\n%s", what, got, c.want, out.String())
		}
	}
}

func TestExcerpt(t *testing.T) {
	src := []byte("a\r\nb\nc\nd\ne")
	at := func(first, firstCol, last, lastCol int) hcl.Range {
		return hcl.Range{Start: hcl.Pos{Line: first, Column: firstCol}, End: hcl.Pos{Line: last, Column: lastCol}}
	}
	for _, c := range []struct {
		name string
		at   hcl.Range
		want string
	}{
		{"first", at(1, 1, 1, 2), "  1 | >>> a\n  2 |     b\n  3 |     c\n"},
		{"last", at(5, 1, 5, 2), "  3 |     c\n  4 |     d\n  5 | >>> e\n"},
		{"ends where the next begins", at(2, 1, 3, 1), "  1 |     a\n  2 | >>> b\n  3 |     c\n  4 |     d\n"},
		{"outside", at(9, 1, 9, 1), ""},
		{"nowhere", at(0, 0, 0, 0), "  1 |     a\n  2 |     b\n"},
	} {
		var b bytes.Buffer
		excerpt(&b, src, c.at, Style{})
		if got := b.String(); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
	var b bytes.Buffer
	excerpt(&b, bytes.Repeat([]byte("RUN x\n"), 100), at(10, 1, 90, 5), Style{})
	golden(t, "excerpt-long.txt", b.Bytes())
}

func TestDiagnostics(t *testing.T) {
	src := "target \"api\" {\n  contxt = \".\"\n}\n"
	at := &hcl.Range{Filename: "/src/zbuild.hcl", Start: hcl.Pos{Line: 2, Column: 3, Byte: 17}, End: hcl.Pos{Line: 2, Column: 9, Byte: 23}}
	diags := hcl.Diagnostics{{Severity: hcl.DiagError, Summary: "No such attribute", Detail: `There is no "contxt". Did you mean "context"?`, Subject: at}}
	for range 150 {
		diags = append(diags, &hcl.Diagnostic{Severity: hcl.DiagWarning, Summary: "Again"})
	}
	var out bytes.Buffer
	if err := Diagnostics(&out, map[string][]byte{"/src/zbuild.hcl": []byte(src)}, diags, Style{Dir: "/src"}); err != nil {
		t.Fatal(err)
	}
	const want = `Error: No such attribute
  on zbuild.hcl:2:3
  2 |   contxt = "."
    |   ^^^^^^
  There is no "contxt". Did you mean "context"?

`
	if got := out.String(); !strings.HasPrefix(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if !strings.HasSuffix(out.String(), "And 51 more.\n") || strings.Count(out.String(), "Again") != 99 {
		t.Errorf("not bounded: %d bytes", out.Len())
	}
	if at.Filename != "/src/zbuild.hcl" {
		t.Error("the diagnostic was changed")
	}
}

func TestDiagnosticPlaces(t *testing.T) {
	long := "x = \"" + strings.Repeat("y", 10000) + "\""
	src := "a {\n\tb = é1 \n}\n" + long + "\n" + strings.Repeat("line\n", 20)
	at := func(line, column, endLine, endColumn int) *hcl.Range {
		return &hcl.Range{Filename: "f.hcl", Start: hcl.Pos{Line: line, Column: column}, End: hcl.Pos{Line: endLine, Column: endColumn}}
	}
	var out bytes.Buffer
	for _, d := range []*hcl.Diagnostic{
		{Summary: "tab and accent", Subject: at(2, 6, 2, 8)},
		{Summary: "a block", Subject: at(1, 1, 3, 2)},
		{Summary: "the end of a very long line", Subject: at(4, 9000, 4, 9004)},
		{Summary: "all of a very long line", Subject: at(4, 1, 5, 1)},
		{Summary: "many lines", Subject: at(5, 1, 20, 1), Detail: "First line.\n  indented\n" + strings.Repeat("word ", 30)},
		{Summary: "behind the end", Subject: at(99, 1, 99, 2)},
		{Summary: "behind the end of the line", Subject: at(1, 50, 1, 60)},
		{Summary: "no place in the file", Subject: at(0, 0, 0, 0)},
		{Summary: "no such file", Subject: &hcl.Range{Filename: "other", Start: hcl.Pos{Line: 3}}},
		{Severity: hcl.DiagWarning, Summary: "no file \x1b[31mat all"},
	} {
		if d.Severity == hcl.DiagInvalid {
			d.Severity = hcl.DiagError
		}
		if err := Diagnostics(&out, map[string][]byte{"f.hcl": []byte(src)}, hcl.Diagnostics{d}, Style{Width: 60}); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "diagnostics.txt", out.Bytes())
}
