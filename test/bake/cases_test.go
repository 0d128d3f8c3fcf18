package bake

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/shlex"
	"golang.org/x/tools/txtar"
)

// TestCases evaluates every archive of testdata with both. The archive's comment
// says how: a line "run: [NAME=VALUE]... [ARG]..." is one evaluation, with --print
// added unless it lists; "refuse: ..." is one that both have to refuse, so that a
// case cannot turn into another one unnoticed; "differ WHY: ..." is one that only
// bake refuses, for a reason that differences has. A file called stdin is standard
// input, everything else is there.
func TestCases(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	count := 0
	for _, path := range archives {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := evaluations(t, string(archive.Comment), true)
		count += len(lines)
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			dir := filepath.Join(root, "project")
			stdin := unpack(t, root, dir, archive)
			for _, l := range lines {
				e := &evaluation{dir: dir, args: l.args, env: l.env, stdin: stdin}
				compare(t, l, e.bake(t), e.zbuild(t))
			}
		})
	}
	t.Logf("%d evaluations of %d archives", count, len(archives))
}

// line is one evaluation of an archive's comment.
type line struct {
	text      string
	args, env []string
	refuse    bool
	differ    string
	list      bool
}

// evaluations are the lines of a comment; printing adds --print to those that do
// not list.
func evaluations(t *testing.T, comment string, printing bool) []line {
	t.Helper()
	var lines []line
	for text := range strings.Lines(comment) {
		text = strings.TrimSpace(text)
		kind, rest, ok := strings.Cut(text, ":")
		kind, why, _ := strings.Cut(kind, " ")
		if strings.HasPrefix(text, "#") || !ok || !slices.Contains([]string{"run", "refuse", "differ"}, kind) {
			continue
		}
		if kind == "differ" && differences[why] == "" {
			t.Fatalf("%s: there is no difference called %q", text, why)
		}
		fields, err := shlex.Split(rest)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		l := line{text: text, refuse: kind != "run", differ: why}
		for len(fields) > 0 && strings.Contains(fields[0], "=") && !strings.HasPrefix(fields[0], "-") {
			l.env, fields = append(l.env, fields[0]), fields[1:]
		}
		l.list = slices.ContainsFunc(fields, func(f string) bool { return strings.HasPrefix(f, "--list") })
		l.args = fields
		if printing && !l.list {
			l.args = append([]string{"--print"}, fields...)
		}
		lines = append(lines, l)
	}
	if len(lines) == 0 {
		t.Fatal("the archive has no line that begins with run: or refuse:")
	}
	return lines
}

// unpack writes the archive's files and gives its standard input.
func unpack(t *testing.T, root, dir string, archive *txtar.Archive) (stdin string) {
	t.Helper()
	for _, d := range []string{dir, filepath.Join(root, "home")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range archive.Files {
		if f.Name == "stdin" {
			stdin = string(f.Data)
			continue
		}
		name := filepath.Join(dir, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		// What a text editor does not show is written out.
		data := strings.NewReplacer("<BOM>", "\ufeff", "<CR>", "\r", "<LATIN1>", "\xe9").Replace(string(f.Data))
		if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return stdin
}

func compare(t *testing.T, l line, want, got outcome) {
	t.Helper()
	if want.ok == l.refuse {
		t.Errorf("%s\nis not what the case is about: bake said\n%s%s", l.text, want.stdout, want.stderr)
		return
	}
	if l.differ != "" && !got.ok {
		t.Errorf("%s\nzbuild refuses it, too:\n%s", l.text, got.stderr)
	}
	if want.ok != (got.ok && l.differ == "") {
		t.Errorf("%s\nbake accepts: %t, zbuild accepts: %t\nbake:\n%s%s\nzbuild:\n%s%s",
			l.text, want.ok, got.ok, want.stdout, want.stderr, got.stdout, got.stderr)
		return
	}
	if !want.ok {
		return
	}
	if l.list {
		// A list of nothing is null for bake, sometimes; it is a list here.
		if string(want.stdout) == "null\n" {
			want.stdout = []byte("[]\n")
		}
		if diff := cmp.Diff(string(want.stdout), string(got.stdout)); diff != "" {
			t.Errorf("%s\n-bake +zbuild\n%s", l.text, diff)
		}
		return
	}
	bake, err := decode(want.stdout)
	if err != nil {
		t.Fatalf("%s: bake: %v", l.text, err)
	}
	zbuild, err := decode(got.stdout)
	if err != nil {
		t.Errorf("%s: zbuild: %v", l.text, err)
		return
	}
	if diff := cmp.Diff(bake, zbuild); diff != "" {
		t.Errorf("%s\n-bake +zbuild\n%s\n%s", l.text, diff, got.stderr)
	}
}
