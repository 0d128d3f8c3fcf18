// Package scaffold writes the first build file of a project: for the Dockerfiles
// that are there, or with what another build file says. It only reads, and it
// never looks at anything but Dockerfiles.
package scaffold

import (
	"bytes"
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Dockerfile is a Dockerfile that was found.
type Dockerfile struct {
	// Path is relative to the directory that was looked through, with slashes.
	Path string
	// Stages are those that are worth a target: the last one, which has an empty
	// name, and those with a name that no other stage builds on.
	Stages []string
	// Err says why it could not be parsed; then there are no stages.
	Err error
}

const (
	maxLevels = 4
	maxSize   = 1 << 20
)

// Find looks for Dockerfiles in a directory and, a few levels down, in those
// below. Directories of dependencies are left out.
func Find(dir string) ([]Dockerfile, error) {
	var found []Dockerfile
	err := filepath.WalkDir(dir, func(p string, entry fs.DirEntry, err error) error {
		if err != nil {
			if p == dir {
				return err
			}
			return nil // what cannot be read has nothing for us
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		switch {
		case entry.IsDir() && rel != "." && (strings.HasPrefix(entry.Name(), ".") ||
			entry.Name() == "node_modules" || entry.Name() == "vendor" || strings.Count(rel, "/") >= maxLevels):
			return filepath.SkipDir
		case entry.Type().IsRegular() && isDockerfile(entry.Name()):
			d := Dockerfile{Path: rel}
			d.Stages, d.Err = stages(p)
			found = append(found, d)
		}
		return nil
	})
	slices.SortFunc(found, func(a, b Dockerfile) int {
		return cmp.Or(cmp.Compare(strings.Count(a.Path, "/"), strings.Count(b.Path, "/")), cmp.Compare(a.Path, b.Path))
	})
	return found, err
}

func isDockerfile(name string) bool {
	if strings.HasSuffix(name, ".dockerignore") || strings.HasSuffix(name, "~") {
		return false
	}
	for _, base := range []string{"Dockerfile", "Containerfile"} {
		if name == base || strings.HasPrefix(name, base+".") || strings.HasSuffix(name, "."+base) {
			return true
		}
	}
	return false
}

// stages are the stages of a Dockerfile that are worth a target.
func stages(file string) ([]string, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxSize {
		return nil, fmt.Errorf("is larger than %d MiB", maxSize>>20)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	tree, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	// Without a linter, "# check=" before an instruction is a nil dereference.
	all, _, err := instructions.Parse(tree.AST, linter.New(&linter.Config{}))
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, s := range all {
		used[strings.ToLower(s.BaseName)] = true
		for _, c := range s.Commands {
			if c, ok := c.(*instructions.CopyCommand); ok {
				used[strings.ToLower(c.From)] = true
			}
			if c, ok := c.(*instructions.RunCommand); ok {
				for _, m := range instructions.GetMounts(c) {
					used[strings.ToLower(m.From)] = true
				}
			}
		}
	}
	var names []string
	for i, s := range all {
		last := i == len(all)-1
		switch {
		case last:
			names = append([]string{""}, names...)
		case s.Name != "" && !used[strings.ToLower(s.Name)]:
			names = append(names, s.Name)
		}
	}
	return names, nil
}

// onTheSide are stages that are targets, but no part of a release.
var onTheSide = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?i)(^|[-_])(test|tests|lint|check|dev|debug|ci|bench)([-_]|$)`)
})

// target is a target to be written.
type target struct {
	name, context, dockerfile, stage string
}

// beginning is what every build file begins with, up to the targets of the default group.
const beginning = `# The images of this project: 'zbuild' builds the group "default", 'zbuild list'
# shows what else there is. Paths are relative to this file.

# A variable's value is that of --var, else of the environment variable of that
# name, else the default.
variable "REGISTRY" {
  default     = "localhost"
  description = "Where the images are pushed to with --push"
}

variable "VERSION" {
  default     = "dev"
  description = "The tag of the images"
}

# What is built if no target is named.
group "default" {
`

// common is what all of its targets inherit.
const common = `
# What all targets have in common: they inherit it.
target "_common" {
  labels = {
    "org.opencontainers.image.version" = VERSION
  }

  # A directory that RUN steps keep from one build to the next:
  # cache-mount "cache" {
  #   target = "/root/.cache"
  # }

  # Build for more than this machine's platform:
  # platforms = ["linux/amd64", "linux/arm64"]
}
`

// Write gives the text of a zbuild.hcl for Dockerfiles, with the project's name
// for images where a Dockerfile has no directory of its own.
func Write(project string, files []Dockerfile) []byte {
	var release, rest []target
	names := map[string]bool{}
	for _, f := range files {
		for _, stage := range f.Stages {
			t := target{context: path.Dir(f.Path), dockerfile: path.Base(f.Path), stage: stage}
			t.name = unique(names, nameOf(project, f.Path, stage))
			if stage != "" && onTheSide().MatchString(stage) {
				rest = append(rest, t)
			} else {
				release = append(release, t)
			}
		}
	}
	var b strings.Builder
	b.WriteString(beginning)
	fmt.Fprintf(&b, "  targets = [%s]\n}\n", quotedNames(release))
	b.WriteString(common)
	for _, t := range slices.Concat(release, rest) {
		fmt.Fprintf(&b, "\ntarget %q {\n  inherits = [\"_common\"]\n", t.name)
		if t.context != "." {
			fmt.Fprintf(&b, "  context = %s\n", quoted(t.context))
		}
		if t.dockerfile != "Dockerfile" {
			fmt.Fprintf(&b, "  dockerfile = %s\n", quoted(t.dockerfile))
		}
		if t.stage != "" {
			fmt.Fprintf(&b, "  target = %s\n", quoted(t.stage))
		}
		if slices.Contains(rest, t) {
			b.WriteString("  # Only the steps are run: there is no image.\n  output = [\"type=cacheonly\"]\n}\n")
			continue
		}
		fmt.Fprintf(&b, "  tags = [\"${REGISTRY}/%s:${VERSION}\"]\n}\n", strings.ToLower(t.name))
	}
	return hclwrite.Format([]byte(b.String()))
}

// quoted is a string as HCL writes it.
func quoted(s string) string {
	s = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "${", "$${", "%{", "%%{", "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(s)
	return `"` + s + `"`
}

func quotedNames(targets []target) string {
	var names []string
	for _, t := range targets {
		names = append(names, quoted(t.name))
	}
	return strings.Join(names, ", ")
}

var notInNames = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`[^a-zA-Z0-9_-]+`) })

// nameOf is a name for the target of a Dockerfile's stage: api/Dockerfile is api,
// web.Dockerfile is web, api/Dockerfile.dev is api-dev, and a stage test of it is
// api-dev-test.
func nameOf(project, file, stage string) string {
	name := project
	dir := path.Dir(file)
	if dir != "." {
		name = path.Base(dir)
	}
	base := path.Base(file)
	for _, kind := range []string{"Dockerfile", "Containerfile"} {
		rest, ok := strings.CutPrefix(base, kind+".")
		if !ok {
			rest, ok = strings.CutSuffix(base, "."+kind)
		}
		switch {
		case !ok:
		case dir == ".":
			name = rest
		case rest != name:
			name += "-" + rest
		}
	}
	if stage != "" {
		name += "-" + stage
	}
	name = strings.Trim(notInNames().ReplaceAllString(name, "-"), "-_")
	return cmp.Or(name, "app")
}

func unique(names map[string]bool, name string) string {
	candidate := name
	for i := 2; names[candidate] || candidate == "default"; i++ {
		candidate = fmt.Sprintf("%s-%d", name, i)
	}
	names[candidate] = true
	return candidate
}
