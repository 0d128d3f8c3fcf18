package config_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/zbuild/zbuild/config"
)

// load loads one text as zbuild.hcl, and fails the test if that takes long.
func load(t *testing.T, text string) (*config.Project, hcl.Diagnostics) {
	t.Helper()
	return loadAs(t, "zbuild.hcl", text)
}

func loadAs(t *testing.T, name, text string) (*config.Project, hcl.Diagnostics) {
	t.Helper()
	start := time.Now()
	p, diags := config.Load(context.Background(), config.Request{
		Dir: "/project", Files: []string{name}, LocalPlatform: "linux/amd64",
		ReadFile: func(string) ([]byte, error) { return []byte(text), nil },
	})
	if took := time.Since(start); took > time.Minute {
		t.Errorf("took %v", took)
	}
	return p, diags
}

func wantError(t *testing.T, diags hcl.Diagnostics, want string) {
	t.Helper()
	for _, d := range diags {
		if d.Severity == hcl.DiagError && strings.Contains(d.Summary+": "+d.Detail, want) {
			return
		}
	}
	t.Errorf("no error says %q:\n%v", want, diags)
}

func TestByteOrderMarkAndCRLF(t *testing.T) {
	text := "target \"default\" {\n  tags = [\"app:1\"]\n  dockerfile-inline = <<EOT\nFROM scratch\nEOT\n}\n"
	for name, text := range map[string]string{
		"mark": "\xef\xbb\xbf" + text,
		"crlf": strings.ReplaceAll(text, "\n", "\r\n"),
		"both": "\xef\xbb\xbf" + strings.ReplaceAll(text, "\n", "\r\n"),
	} {
		p, diags := load(t, text)
		if diags.HasErrors() || !slices.Equal(p.Targets["default"].Tags, []string{"app:1"}) {
			t.Errorf("%s: %v", name, diags)
		}
	}
	if _, diags := loadAs(t, "zbuild.json", "\xef\xbb\xbf{\"target\": {\"default\": {}}}"); diags.HasErrors() {
		t.Errorf("JSON: %v", diags)
	}
}

func TestHostileText(t *testing.T) {
	deep := func(n int, open, inner, closing string) string {
		return "x = " + strings.Repeat(open, n) + inner + strings.Repeat(closing, n) + "\ntarget \"default\" {}\n"
	}
	for name, c := range map[string]struct{ file, text, want string }{
		"not UTF-8":      {"zbuild.hcl", "target \"default\" {\n  tags = [\"a\xff\"]\n}\n", "is not UTF-8"},
		"UTF-16":         {"zbuild.hcl", "\xff\xfet\x00a\x00r\x00", "is not UTF-8"},
		"brackets":       {"zbuild.hcl", deep(100_000, "[", "", "]"), "nested too deeply"},
		"parentheses":    {"zbuild.hcl", deep(100_000, "(", "1", ")"), "nested too deeply"},
		"templates":      {"zbuild.hcl", deep(100_000, "\"${", "1", "}\""), "nested too deeply"},
		"open only":      {"zbuild.hcl", "x = " + strings.Repeat("{", 400_000), "nested too deeply"},
		"not":            {"zbuild.hcl", deep(1_000_000, "!", "true", ""), "too many operators"},
		"minus":          {"zbuild.hcl", deep(1_000_000, "-", "1", ""), "too many operators"},
		"sum":            {"zbuild.hcl", deep(500_000, "1+", "1", ""), "too many operators"},
		"conditional":    {"zbuild.hcl", deep(250_000, "true?1:", "1", ""), "too many operators"},
		"index":          {"zbuild.hcl", deep(1, "[1]", strings.Repeat("[0]", 300_000), ""), "too many operators"},
		"JSON brackets":  {"zbuild.json", strings.Repeat("[", 1_000_000), "nested too deeply"},
		"JSON objects":   {"zbuild.json", strings.Repeat(`{"a":`, 200_000), "nested too deeply"},
		"JSON operators": {"zbuild.json", `{"x": "${` + strings.Repeat("!", 500_000) + `true}"}`, "too many operators"},
		"too large":      {"zbuild.hcl", strings.Repeat("# comment\n", 900_000), "is larger than"},
		"matrices":       {"zbuild.hcl", matrices(13), "may have 12000 targets"},
		"targets":        {"zbuild.hcl", plainTargets(12_001), "may have 12000 targets"},
		"NUL":            {"zbuild.hcl", "target \"default\" {\n\x00\n}\n", "Invalid character"},
		"empty JSON":     {"zbuild.json", "", "Missing"},
	} {
		t.Run(name, func(t *testing.T) {
			_, diags := loadAs(t, c.file, c.text)
			wantError(t, diags, c.want)
		})
	}
}

func matrices(n int) string {
	text := &strings.Builder{}
	for i := range n {
		fmt.Fprintf(text, "target \"m%d\" {\n  matrix = { a = range(0, 1000) }\n  name = \"t%d-${a}\"\n}\n", i, i)
	}
	return text.String()
}

func plainTargets(n int) string {
	text := &strings.Builder{}
	for i := range n {
		fmt.Fprintf(text, "target \"t%d\" {}\n", i)
	}
	return text.String()
}

// TestBelowTheLimits shows that what is far beyond what people write still loads.
func TestBelowTheLimits(t *testing.T) {
	for name, text := range map[string]string{
		"depth":     "x = " + strings.Repeat("[", 400) + strings.Repeat("]", 400) + "\ntarget \"default\" {}\n",
		"operators": "x = " + strings.Repeat("1+", 19_000) + "1\ntarget \"default\" {}\n",
		"matrix":    "target \"default\" {\n  matrix = { a = range(0, 30), b = range(0, 20) }\n  name = \"t-${a}-${b}\"\n}\n",
		"chain":     chain(2_000),
		"inherits":  inheritDiamonds(40),
		"arguments": manyArguments(50_000),
		"groups":    groupDiamonds(40),
	} {
		t.Run(name, func(t *testing.T) {
			if _, diags := load(t, text); diags.HasErrors() {
				t.Error(diags)
			}
		})
	}
}

func manyArguments(n int) string {
	text := &strings.Builder{}
	text.WriteString("target \"default\" {\n  args = {\n")
	for i := range n {
		fmt.Fprintf(text, "    a%d = \"v\"\n", i)
	}
	text.WriteString("  }\n}\n")
	return text.String()
}

// chain is a chain of n variables.
func chain(n int) string {
	text := &strings.Builder{}
	for i := range n {
		fmt.Fprintf(text, "variable \"v%d\" {\n  default = v%d\n}\n", i, i+1)
	}
	fmt.Fprintf(text, "v%d = \"x\"\ntarget \"default\" {\n  tags = [v0]\n}\n", n)
	return text.String()
}

// inheritDiamonds has 2^n ways from the first target to the last.
func inheritDiamonds(n int) string {
	text := &strings.Builder{}
	text.WriteString("target \"default\" {\n  inherits = [\"l0\", \"r0\"]\n}\n")
	for i := range n {
		for _, side := range "lr" {
			fmt.Fprintf(text, "target \"%c%d\" {\n  inherits = [\"l%d\", \"r%d\"]\n  annotations = [\"%c=%d\"]\n  policy = [{ filename = \"x\" }]\n}\n", side, i, i+1, i+1, side, i)
		}
	}
	fmt.Fprintf(text, "target \"l%d\" {}\ntarget \"r%d\" {}\n", n, n)
	return text.String()
}

// groupDiamonds has 2^n ways from the first group to the target.
func groupDiamonds(n int) string {
	text := &strings.Builder{}
	text.WriteString("group \"default\" {\n  targets = [\"l0\", \"r0\"]\n}\n")
	for i := range n {
		for _, side := range "lr" {
			fmt.Fprintf(text, "group \"%c%d\" {\n  targets = [\"l%d\", \"r%d\"]\n}\n", side, i, i+1, i+1)
		}
	}
	fmt.Fprintf(text, "target \"l%d\" {}\ntarget \"r%d\" {}\n", n, n)
	return text.String()
}

// TestFilesThatAreNone loads what is no ordinary file, from a real directory.
func TestFilesThatAreNone(t *testing.T) {
	dir := realTempDir(t)
	if err := os.Mkdir(filepath.Join(dir, "directory.hcl"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo.hcl"), 0o644); err != nil {
		t.Fatal(err)
	}
	huge, err := os.Create(filepath.Join(dir, "huge.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	if err := huge.Truncate(100 << 20); err != nil { // sparse: costs no disk
		t.Fatal(err)
	}
	if err := huge.Close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"directory.hcl": "directory.hcl: is a directory",
		"fifo.hcl":      "fifo.hcl: is not a regular file",
		"/dev/zero":     "/dev/zero: is not a regular file",
		"huge.hcl":      "huge.hcl: is larger than 8 MiB",
		"missing.hcl":   "missing.hcl: there is no such file",
	} {
		p, diags := config.Load(context.Background(), config.Request{Dir: dir, Files: []string{name}})
		wantError(t, diags, want)
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, name)
		}
		if !slices.Contains(p.Files, path) {
			t.Errorf("%s is not among the files %v", path, p.Files)
		}
	}
	// Where a file is looked for, a directory in its place is a mistake too.
	if err := os.Mkdir(filepath.Join(dir, "zbuild.hcl"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, diags := config.Load(context.Background(), config.Request{Dir: dir})
	wantError(t, diags, "zbuild.hcl: is a directory")
}

func TestStdin(t *testing.T) {
	p, diags := config.Load(context.Background(), config.Request{
		Dir: "/project", Files: []string{"-"}, Stdin: strings.NewReader("target \"default\" {\n  tags = [\"a\"]\n}\n"), LocalPlatform: "linux/amd64",
	})
	if diags.HasErrors() || !slices.Equal(p.Targets["default"].Tags, []string{"a"}) {
		t.Errorf("%v", diags)
	}
	_, diags = config.Load(context.Background(), config.Request{Dir: "/project", Files: []string{"-"}, Stdin: endless{}})
	wantError(t, diags, "is larger than")
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '\n'
	}
	return len(p), nil
}

// TestLookUp checks which files are taken, and that those that are missing are
// noted: creating one of them changes the project.
// TestLookUpElsewhere checks that a build file that is not read where it lies is named.
func TestLookUpElsewhere(t *testing.T) {
	root := realTempDir(t)
	writeFile(t, filepath.Join(root, "zbuild.hcl"), "target \"default\" {}\n")
	dir := filepath.Join(root, "repo", "a")
	writeFile(t, filepath.Join(root, "repo", ".git", "x"), "")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	_, diags := config.Load(context.Background(), config.Request{Dir: dir, LocalPlatform: "linux/amd64"})
	if want := "--file " + filepath.Join(root, "zbuild.hcl"); !strings.Contains(diags.Error(), want) {
		t.Errorf("want %q in: %v", want, diags)
	}
}

func TestLookUp(t *testing.T) {
	const text = "target \"default\" {\n  context = \"src\"\n}\n"
	for _, c := range []struct {
		name  string
		files []string
		want  []string // sources
		dir   string   // of the project
		src   string   // the context
	}{
		{"here", []string{"repo/.git/x", "repo/a/zbuild.hcl"}, []string{"zbuild.hcl"}, "repo/a", "repo/a/src"},
		{"parent", []string{"repo/.git/x", "repo/zbuild.hcl", "repo/a/x"}, []string{"../zbuild.hcl"}, "repo", "repo/src"},
		{"before bake's", []string{"repo/.git/x", "repo/zbuild.hcl", "repo/a/docker-bake.hcl"}, []string{"../zbuild.hcl"}, "repo", "repo/src"},
		{"not above the repository", []string{"repo/.git/x", "zbuild.hcl", "repo/a/docker-bake.hcl"}, []string{"docker-bake.hcl"}, "repo/a", "repo/a/src"},
		{"not without a repository", []string{"repo/zbuild.hcl", "repo/a/docker-bake.hcl"}, []string{"docker-bake.hcl"}, "repo/a", "repo/a/src"},
		{"override", []string{"repo/a/zbuild.override.hcl", "repo/a/zbuild.hcl"}, []string{"zbuild.hcl", "zbuild.override.hcl"}, "repo/a", "repo/a/src"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := realTempDir(t)
			for _, f := range c.files {
				writeFile(t, filepath.Join(root, f), text)
			}
			dir := filepath.Join(root, "repo", "a")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			p, diags := config.Load(context.Background(), config.Request{Dir: dir, LocalPlatform: "linux/amd64"})
			if len(diags) > 0 {
				t.Fatal(diags)
			}
			var sources []string
			for name := range p.Sources {
				sources = append(sources, name)
			}
			slices.Sort(sources)
			if !slices.Equal(sources, c.want) {
				t.Errorf("read %v, want %v", sources, c.want)
			}
			if p.Dir != filepath.Join(root, c.dir) {
				t.Errorf("the project is in %s", p.Dir)
			}
			if got := p.Targets["default"].Context.Value; got != filepath.Join(root, c.src) {
				t.Errorf("the context is %s", got)
			}
			if !slices.Contains(p.Files, filepath.Join(dir, "zbuild.override.json")) {
				t.Errorf("the misses are not among the files %v", p.Files)
			}
		})
	}
}

// TestSecretValues loads a project with secrets that have values, and looks for
// them in everything that comes out.
func TestSecretValues(t *testing.T) {
	dir := realTempDir(t)
	writeFile(t, filepath.Join(dir, "token"), "hunter2-from-file")
	writeFile(t, filepath.Join(dir, "zbuild.hcl"),
		"target \"default\" {\n  secret = [\"id=a,src=token\", \"id=b,env=B\", \"id=c,env=UNSET\", \"id=B\"]\n}\n")
	read := 0
	p, diags := config.Load(context.Background(), config.Request{
		Dir: dir, LocalPlatform: "linux/amd64",
		ReadFile: func(path string) ([]byte, error) {
			if filepath.Base(path) == "token" {
				read++
			}
			return os.ReadFile(path)
		},
		LookupEnv: func(name string) (string, bool) { return "hunter2-from-env", name == "B" },
	})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	out := &bytes.Buffer{}
	if err := p.Print(out); err != nil {
		t.Fatal(err)
	}
	if all := fmt.Sprintf("%+v %+v %s", p, p.Targets["default"], out); strings.Contains(all, "hunter2") || read > 0 {
		t.Error("a secret's value was read and shows")
	}
	want := map[string]config.Secret{
		"a": {ID: "a", Path: filepath.Join(dir, "token")},
		"b": {ID: "b", Env: "B"},
		"c": {ID: "c", Env: "UNSET"},
		"B": {ID: "B", Env: "B"},
	}
	for id, secret := range want {
		if got := p.Targets["default"].Secrets[id]; got != secret {
			t.Errorf("secret %s is %+v, want %+v", id, got, secret)
		}
	}
}

func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, diags := config.Load(ctx, config.Request{Dir: "/project", Files: []string{"x.hcl"}, ReadFile: func(string) ([]byte, error) { return nil, nil }})
	wantError(t, diags, "interrupted")
}
