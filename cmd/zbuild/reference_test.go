package main

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/zbuild/zbuild/config"
)

var update = flag.Bool("update", false, "rewrite what tests compare with")

// TestReference keeps docs/reference.md and docs/zbuild.schema.json what the
// tables and the command line say; -update writes them.
func TestReference(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("# Reference\n\nMade by `make golden` from the tables that evaluation works by and from the command line's own model.\n\n")
	if err := config.WriteReference(&b); err != nil {
		t.Fatal(err)
	}
	writeCommands(t, &b)
	b.WriteString("\n## Exit codes\n\nSee [exit-codes.md](exit-codes.md). Variables that zbuild reads besides: [environment.md](environment.md).\n")
	current(t, "reference.md", b.Bytes())
	schema, err := config.Schema()
	if err != nil {
		t.Fatal(err)
	}
	current(t, "zbuild.schema.json", schema)
}

// TestEnvironmentIsDocumented keeps docs/environment.md complete: it has every
// variable that the code names.
func TestEnvironmentIsDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "environment.md"))
	if err != nil {
		t.Fatal(err)
	}
	// Arguments of Dockerfiles, names that bake's language has, parts of names.
	others := []string{"BUILDKIT_CACHE_MOUNT_NS", "BUILDKIT_INLINE_CACHE", "BUILDKIT_MULTI_PLATFORM", "BUILDKIT_SCAN_", "BUILDKIT_SYNTAX", "BAKE_CMD_CONTEXT", "BAKE_LOCAL_PLATFORM", "BUILDX_BAKE_"}
	name := regexp.MustCompile(`"((?:BAKE|BUILDAH|BUILDKIT|BUILDX|EXPERIMENTAL|ZBUILD)_[A-Z_]+)`)
	found := 0
	for _, room := range []string{"cmd", "config", "internal", "planner", "runner"} {
		err := filepath.WalkDir(filepath.Join("..", "..", room), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range name.FindAllSubmatch(text, -1) {
				found++
				variable := string(m[1])
				if !slices.Contains(others, variable) && !bytes.Contains(page, []byte(variable)) && !strings.HasPrefix(variable, "ZBUILD_TEST_") {
					t.Errorf("%s: docs/environment.md has no %s", path, variable)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 20 {
		t.Errorf("only %d variables were found", found)
	}
}

func current(t *testing.T, name string, want []byte) {
	t.Helper()
	path := filepath.Join("..", "..", "docs", name)
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("docs/%s is out of date: 'make golden' writes it (%v)", name, err)
	}
}

// writeCommands documents the commands, their flags, and the environment
// variables that stand for flags.
func writeCommands(t *testing.T, b *bytes.Buffer) {
	t.Helper()
	var c cli
	parser, err := newParser(&c, &bytes.Buffer{}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	b.WriteString("\n## Commands\n")
	env := map[string]string{}
	section := func(title, help string, flags []*kong.Flag) {
		fmt.Fprintf(b, "\n### `%s`\n\n%s\n\n", title, help)
		if len(flags) == 0 {
			return
		}
		b.WriteString("| Flag | |\n|---|---|\n")
		for _, f := range flags {
			if f.Hidden || f.Name == "help" {
				continue
			}
			name := "--" + f.Name
			if !f.IsBool() {
				name += "=" + f.FormatPlaceHolder()
			}
			if f.Short != 0 {
				name = "-" + string(f.Short) + ", " + name
			}
			fmt.Fprintf(b, "| `%s` | %s |\n", strings.ReplaceAll(name, "|", `\|`), strings.ReplaceAll(f.Help, "|", `\|`))
			for _, e := range f.Envs {
				env[e] = "--" + f.Name
			}
		}
	}
	section("zbuild", "Flags of all commands.", parser.Model.Flags)
	var visit func(path string, n *kong.Node)
	visit = func(path string, n *kong.Node) {
		if n.Hidden {
			return
		}
		path += " " + n.Name
		section(path, n.Help, n.Flags)
		for _, child := range n.Children {
			visit(path, child)
		}
	}
	for _, n := range parser.Model.Children {
		visit("zbuild", n)
	}
	b.WriteString("\n## Environment variables that stand for flags\n\n| Variable | Flag |\n|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(env)) {
		fmt.Fprintf(b, "| `%s` | `%s` |\n", name, env[name])
	}
}
