package config_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/zbuild/zbuild/config"
)

// FuzzLoad checks that no text makes Load panic, that the same text gives the
// same diagnostics and the same output, and that each diagnostic points into
// something that was read.
func FuzzLoad(f *testing.F) {
	paths, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil || len(paths) == 0 {
		f.Fatal("no seeds")
	}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			if ext := filepath.Ext(file.Name); ext == ".hcl" || ext == ".json" {
				f.Add(file.Data, !strings.HasPrefix(filepath.Base(file.Name), "zbuild"), ext == ".json", "*.push=true")
			}
		}
	}
	example, err := os.ReadFile("../zbuild.hcl.example")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example, false, false, "api.tags+=x:1")
	f.Fuzz(func(t *testing.T, text []byte, bake, json bool, override string) {
		if len(text) > 1<<14 {
			return
		}
		name := "zbuild"
		if bake {
			name = "docker-bake"
		}
		if json {
			name += ".json"
		} else {
			name += ".hcl"
		}
		request := config.Request{
			Dir: "/project", Files: []string{name}, LocalPlatform: "linux/amd64", Targets: []string{"*"},
			ReadFile: func(string) ([]byte, error) { return text, nil },
		}
		if override != "" {
			request.Overrides = []string{override}
		}
		loadTwice(t, request, text)
	})
}

// FuzzVarFile checks the same of files of values, and that what is quoted in one is
// not in what is shown of it.
func FuzzVarFile(f *testing.F) {
	f.Add([]byte("S = \"hunter2\"\nL = [\"hunter2\", 1]\nO = { a = true }\n"), false)
	f.Add([]byte(`{"S": "hunter2", "L": ["hunter2"], "O": {"a": "hunter2"}, "X": 1}`), true)
	f.Add([]byte("S = \"hunter2\nL = <<END\nhunter2\nEND\nblock {}\nX = upper(\"hunter2\")\n"), false)
	project := []byte(`
variable "S" { default = 1 }
variable "L" { type = list(string) }
variable "O" { type = object({ a = string, b = optional(number) }) }
target "default" { args = { S = S, L = join(",", L) } }
`)
	f.Fuzz(func(t *testing.T, text []byte, json bool) {
		if len(text) > 1<<14 {
			return
		}
		name := "values.tfvars"
		if json {
			name = "values.json"
		}
		request := config.Request{
			Dir: "/project", Files: []string{"zbuild.hcl"}, VarFiles: []string{name}, LocalPlatform: "linux/amd64",
			ReadFile: func(path string) ([]byte, error) {
				if filepath.Base(path) == name {
					return text, nil
				}
				return project, nil
			},
		}
		loadTwice(t, request, text)
		p, _ := config.Load(context.Background(), request)
		if shown := p.Sources[name]; bytes.Count(text, []byte(`"`)) == 2 && bytes.Contains(text, []byte(`= "hunter2"`)) && bytes.Contains(shown, []byte("hunter2")) {
			t.Errorf("what is quoted is shown:\n%s", shown)
		}
	})
}

// FuzzCompose checks the same of Compose files.
func FuzzCompose(f *testing.F) {
	paths, err := filepath.Glob("../test/bake/testdata/*compose*.txtar")
	if err != nil || len(paths) == 0 {
		f.Fatal("no seeds")
	}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			if ext := filepath.Ext(file.Name); ext == ".yaml" || ext == ".yml" {
				f.Add(file.Data, "*.push=true")
			}
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, override string) {
		if len(text) > 1<<14 {
			return
		}
		request := config.Request{
			Dir: t.TempDir(), Files: []string{"compose.yaml"}, LocalPlatform: "linux/amd64", Targets: []string{"*"},
			Environ:  []string{"A=1"},
			ReadFile: func(string) ([]byte, error) { return text, nil },
		}
		if override != "" {
			request.Overrides = []string{override}
		}
		loadTwice(t, request, text)
	})
}

// loadTwice loads and prints the text, twice: the second time has to come to the
// same.
func loadTwice(t *testing.T, request config.Request, text []byte) {
	t.Helper()
	var first string
	for i := range 2 {
		p, diags := config.Load(context.Background(), request)
		out := &bytes.Buffer{}
		for _, d := range diags {
			if d.Subject != nil {
				source, ok := p.Sources[d.Subject.Filename]
				if !ok || d.Subject.Start.Byte > len(source) || d.Subject.Start.Byte > d.Subject.End.Byte {
					t.Errorf("%s points nowhere: %v", d.Summary, d.Subject)
				}
			}
			out.WriteString(d.Error() + "\n")
		}
		if !diags.HasErrors() {
			if err := p.Print(out); err != nil {
				t.Error(err)
			}
		}
		switch {
		case i == 0:
			first = out.String()
		case out.String() != first && !random(text):
			t.Errorf("two runs differ:\n%s\n---\n%s", first, out)
		}
	}
}

// random reports whether the text may ask for a value that is never the same.
func random(text []byte) bool {
	for _, name := range []string{"uuidv4", "timestamp", "bcrypt"} {
		if bytes.Contains(text, []byte(name)) {
			return true
		}
	}
	return false
}
