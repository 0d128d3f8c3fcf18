package config_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/zbuild/zbuild/config"
)

var update = flag.Bool("update", false, "write the golden files")

// goldens are the files of a scenario that hold what comes out.
var goldens = []string{"diagnostics", "print", "targets"}

// scenario is a txtar archive: the build files, what to load of them in the
// comment ("targets: a b", "set: ...", one key per line), and what comes of it
// in the files "diagnostics", "print" (as bake prints it) and, where the scenario
// has it, "targets" (the resolved targets).
type scenario struct {
	path    string
	archive *txtar.Archive
	dir     string
	request config.Request
}

func loadScenario(t *testing.T, path string) *scenario {
	t.Helper()
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	root := realTempDir(t)
	s := &scenario{path: path, archive: archive, dir: root}
	for _, f := range archive.Files {
		if slices.Contains(goldens, f.Name) {
			continue
		}
		writeFile(t, filepath.Join(root, f.Name), string(f.Data))
	}
	env := map[string]string{}
	s.request = config.Request{
		Dir: root, LocalPlatform: "linux/amd64", Vars: map[string]string{},
		LookupEnv: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
	}
	for line := range strings.Lines(string(archive.Comment)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		switch key {
		case "dir":
			s.request.Dir = filepath.Join(root, value)
		case "mkdir":
			if err := os.MkdirAll(filepath.Join(root, value), 0o755); err != nil {
				t.Fatal(err)
			}
		case "symlink":
			link, target, _ := strings.Cut(value, " ")
			if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
				t.Fatal(err)
			}
		case "files":
			s.request.Files = strings.Fields(value)
		case "targets":
			s.request.Targets = strings.Fields(value)
		case "set":
			s.request.Overrides = append(s.request.Overrides, value)
		case "allow":
			s.request.Allow = append(s.request.Allow, strings.ReplaceAll(value, "$ROOT", root))
		case "var":
			name, v, _ := strings.Cut(value, "=")
			s.request.Vars[name] = v
		case "var-file":
			s.request.VarFiles = append(s.request.VarFiles, value)
		case "env-file":
			s.request.EnvFiles = append(s.request.EnvFiles, value)
		case "env":
			name, v, _ := strings.Cut(value, "=")
			env[name] = v
			s.request.Environ = append(s.request.Environ, value)
		case "version":
			s.request.Version = value
		case "evaluate-only":
			s.request.EvaluateOnly = value == "true"
		default:
			t.Fatalf("%s: unknown key %q", path, key)
		}
	}
	return s
}

// golden compares what came out with the archive's file of that name, or puts it
// there with -update. Paths of the temporary directory are called $ROOT.
func (s *scenario) golden(t *testing.T, name, got string) {
	t.Helper()
	got = strings.ReplaceAll(got, s.dir, "$ROOT")
	for i, f := range s.archive.Files {
		if f.Name != name {
			continue
		}
		if *update {
			s.archive.Files[i].Data = []byte(got)
		} else if diff := cmp.Diff(string(f.Data), got); diff != "" {
			t.Errorf("%s of %s (-want +got):\n%s", name, s.path, diff)
		}
		return
	}
	if got == "" {
		return
	}
	if !*update {
		t.Errorf("%s of %s: want nothing, got:\n%s", name, s.path, got)
	}
	s.archive.Files = append(s.archive.Files, txtar.File{Name: name, Data: []byte(got)})
}

// render is the text of diagnostics, with the directory called $ROOT before lines
// are broken.
func render(t *testing.T, root string, p *config.Project, diags hcl.Diagnostics) string {
	t.Helper()
	for i, d := range diags {
		clone := *d
		clone.Detail = strings.ReplaceAll(d.Detail, root, "$ROOT")
		diags[i] = &clone
	}
	files := map[string]*hcl.File{}
	for name, text := range p.Sources {
		files[name] = &hcl.File{Bytes: text}
	}
	out := &bytes.Buffer{}
	if err := hcl.NewDiagnosticTextWriter(out, files, 100, false).WriteDiagnostics(diags); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// dump shows the resolved targets, ranges only as text.
func dump(t *testing.T, p *config.Project) string {
	t.Helper()
	type shown struct {
		*config.Target
		Range  string
		Ranges map[string]string
	}
	targets := map[string]shown{}
	for name, target := range p.Targets {
		s := shown{Target: target, Range: target.Range.String(), Ranges: map[string]string{}}
		for key, at := range target.Ranges {
			s.Ranges[key] = at.String()
		}
		targets[name] = s
	}
	var settings *config.Settings
	if p.Settings != (config.Settings{}) {
		settings = &p.Settings
	}
	text, err := json.MarshalIndent(struct {
		Dir       string
		Requested []string
		Watch     *config.Watch    `json:",omitempty"`
		Settings  *config.Settings `json:",omitempty"`
		Targets   map[string]shown
	}{p.Dir, p.Requested, p.Watch, settings, targets}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text) + "\n"
}

func realTempDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestScenarios(t *testing.T) {
	paths, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			s := loadScenario(t, path)
			var first string
			// hclparser goes through maps: what is reported must not show it.
			for i := range 5 {
				p, diags := config.Load(context.Background(), s.request)
				text := render(t, s.dir, p, diags)
				if i == 0 {
					first = text
				} else if text != first {
					t.Fatalf("the diagnostics change from run to run:\n%s\n---\n%s", first, text)
				}
				if i > 0 {
					continue
				}
				s.golden(t, "diagnostics", text)
				out := &bytes.Buffer{}
				if diags.HasErrors() {
					if err := p.Print(out); err == nil || len(p.Targets) > 0 {
						t.Error("a project with errors has targets")
					}
				} else if err := p.Print(out); err != nil {
					t.Fatal(err)
				}
				s.golden(t, "print", out.String())
				if slices.ContainsFunc(s.archive.Files, func(f txtar.File) bool { return f.Name == "targets" }) {
					s.golden(t, "targets", dump(t, p))
				}
			}
			if *update {
				if err := os.WriteFile(path, txtar.Format(s.archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestListedInSpiteOfErrors shows which names are known of projects with mistakes.
func TestListedInSpiteOfErrors(t *testing.T) {
	for _, c := range []struct{ file, text, want string }{
		{"zbuild.hcl", "target \"a\" { contxt = 1 }\ntarget \"_b\" {}\ngroup \"g\" { targets = [\"a\", \"x\"] }\n", "a g"},
		{"zbuild.hcl", "target \"a\" {}\ntarget \"b\" {\n  tags = [\"x\n}\ntarget \"c\" {}\n", "a b"},
		{"zbuild.hcl", "target \"a\" { matrix = UNKNOWN }\ntarget \"b\" {}\n", "a b"},
		{"compose.yaml", "services:\n  web.x: {build: .}\n  db: {image: x}\n  api: {build: [5]}\n", "api web_x"},
		{"compose.yaml", "services:\n  web: {build: .\n", ""},
		{"zbuild.json", "{\"target\": {\"a\": {}", ""},
	} {
		p, diags := loadAs(t, c.file, c.text)
		if !diags.HasErrors() || len(p.Targets) > 0 {
			t.Errorf("%s: there are no errors, or there are targets", c.text)
		}
		var names []string
		for _, l := range p.Listed {
			names = append(names, l.Name)
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("%s: %q are listed, want %q", c.text, got, c.want)
		}
	}
}
