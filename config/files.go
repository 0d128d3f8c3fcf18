package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/buildx/util/urlutil"
	"github.com/hashicorp/hcl/v2"
	"go.yaml.in/yaml/v4"

	"github.com/zbuild/zbuild/internal/beneath"
	"github.com/zbuild/zbuild/internal/vcs"
)

// maxFileSize is the largest build file that is read, in bytes. The HCL lexer
// needs about a hundred times a file's size in the worst case.
const maxFileSize = 8 << 20

// The names that are looked for, in the order in which they are merged.
var (
	ourNames  = []string{"zbuild.hcl", "zbuild.json", "zbuild.override.hcl", "zbuild.override.json"}
	bakeNames = []string{
		"compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml",
		"docker-bake.json", "docker-bake.hcl", "docker-bake.override.json", "docker-bake.override.hcl",
	}
)

// stdinName is what ranges call the file "-".
const stdinName = "<stdin>"

// source is one build file.
type source struct {
	// name is how the user would write the file's path; ranges carry it.
	name string
	// path is absolute; empty for standard input.
	path string
	// base is the absolute directory that the file's relative paths start from.
	base string
	// named is that directory as the file was named by, where bake shows paths by that.
	named string
	// ours is set for a file in zbuild's dialect: it may use zbuild's additions,
	// may hold nothing unknown, and its paths are relative to it.
	ours bool
	// included is set for a file that another one includes. That it lies somewhere
	// is no leave to read what lies there.
	included bool
	text     []byte
	// file is what HCL or JSON was parsed to; nil if that was not possible, and
	// for a Compose file. torn is then what could be parsed of it, or nil.
	file, torn *hcl.File
	// compose is set for a Compose file; document is what yaml makes of it.
	compose  bool
	document *yaml.Node
}

// isOurs reports whether a file of that name is in zbuild's dialect.
func isOurs(name string) bool {
	name = filepath.Base(name)
	ext := filepath.Ext(name)
	if strings.HasPrefix(name, "zbuild.hcl.") { // an example, a copy
		return true
	}
	return (ext == ".hcl" || ext == ".json") &&
		(strings.HasPrefix(name, "zbuild.") || strings.HasSuffix(name, ".zbuild"+ext))
}

// find reads the build files.
func (l *loader) find(ctx context.Context) {
	address := l.remoteArguments()
	l.fileRelative = l.relativePaths()
	files := l.req.Files
	if len(files) == 0 {
		files = l.filesFromEnv()
	}
	switch {
	case l.diags.HasErrors():
		return
	case address != "":
		l.findRemote(ctx, address, files)
		return
	case len(files) == 0:
		l.lookUp()
		return
	}
	for _, name := range files {
		l.readNamed(ctx, name)
	}
	if len(l.sources) > 0 && l.sources[0].ours {
		l.project.Dir = l.sources[0].base
	}
}

// filesFromEnv are the files that bake's BUILDX_BAKE_FILE names. To bake these are
// names of files as they are: none starts with cwd://, whose colon is a separator.
func (l *loader) filesFromEnv() []string {
	const variable = "BUILDX_BAKE_FILE"
	value, separator := l.env(variable), l.env("BUILDX_BAKE_PATH_SEPARATOR")
	if separator == "" {
		separator = string(os.PathListSeparator)
	}
	if strings.Contains(value, cwdPrefix) {
		l.errorf(nil, "Cannot read the build file",
			"%s is %q, and %s is no part of a file's name. Leave it out, or name the files with --file.", variable, value, cwdPrefix)
	}
	var files []string
	for _, name := range strings.Split(value, separator) {
		if name = strings.TrimSpace(name); name != "" {
			files = append(files, name)
		}
	}
	return files
}

// readNamed reads a file that the user named.
func (l *loader) readNamed(ctx context.Context, name string) {
	name = strings.TrimPrefix(name, cwdPrefix)
	switch {
	case name == "-":
		l.readStdin()
		return
	case urlutil.IsRemoteURL(name) && !fileExists(l.abs(name)):
		l.errorf(nil, "Cannot read the build file", "%q is a URL. Name it as the first argument instead: zbuild bake URL.", name)
		return
	}
	path := l.abs(name)
	text, err := l.readGiven(ctx, path)
	if err != nil {
		l.errorf(nil, "Cannot read the build file", "%s: %s", name, readProblem(err))
		return
	}
	l.add(l.sourceOf(name, path, text))
}

func (l *loader) readStdin() {
	if l.req.Stdin == nil {
		l.errorf(nil, "Cannot read the build file", "-: there is no standard input.")
		return
	}
	text, err := io.ReadAll(io.LimitReader(l.req.Stdin, maxFileSize+1))
	if err == nil && len(text) > maxFileSize {
		err = errTooLarge
	}
	if err != nil {
		l.errorf(nil, "Cannot read the build file", "Standard input: %s", readProblem(err))
		return
	}
	s := &source{name: stdinName, base: l.req.Dir, text: text}
	if l.fileRelative {
		s.named = "."
	}
	l.add(s)
}

// lookUp finds the build files of the working directory: zbuild's own in it or
// in a parent up to the root of the repository, else bake's.
func (l *loader) lookUp() {
	dirs := []string{l.req.Dir}
	if root := vcs.Root(l.req.Dir); root != "" {
		for dir := l.req.Dir; dir != root; {
			dir = filepath.Dir(dir)
			dirs = append(dirs, dir)
		}
	}
	for _, dir := range dirs {
		if l.readExisting(dir, ourNames) {
			l.project.Dir = dir
			return
		}
	}
	if l.readExisting(l.req.Dir, bakeNames) {
		return
	}
	up, advice := "", "Name one with --file, or have 'zbuild init' write one."
	if len(dirs) > 1 {
		up = fmt.Sprintf(", nor in its parents up to %s", dirs[len(dirs)-1])
	}
	if above := oursAbove(dirs[len(dirs)-1]); above != "" {
		advice = fmt.Sprintf("There is %s, which is read without being named only in the same git repository. Name it with --file %s.", above, above)
	}
	for _, name := range []string{"Dockerfile", "Containerfile"} {
		if fileExists(filepath.Join(l.req.Dir, name)) {
			advice = fmt.Sprintf("There is a %s: 'zbuild init' writes a zbuild.hcl that builds it.", name)
			break
		}
	}
	l.errorf(nil, "No build file found",
		"There is no zbuild.hcl, zbuild.json, docker-bake.hcl, docker-bake.json or compose.yaml in %s%s. %s", l.req.Dir, up, advice)
}

// oursAbove is the closest build file of ours above a directory, or empty.
func oursAbove(dir string) string {
	for parent := filepath.Dir(dir); parent != dir; parent = filepath.Dir(dir) {
		dir = parent
		for _, name := range ourNames[:2] { // the others only override
			if path := filepath.Join(dir, name); fileExists(path) {
				return path
			}
		}
	}
	return ""
}

// relativePaths reports whether the environment asks for the paths of bake's own
// files to start from the files, and not from the working directory.
func (l *loader) relativePaths() bool {
	const name = "BUILDX_BAKE_FILE_RELATIVE_PATHS"
	value := strings.TrimSpace(l.env(name))
	if value == "" {
		return false
	}
	on, err := strconv.ParseBool(value)
	if err != nil {
		l.errorf(nil, "Invalid environment", "%s is %q, which is not a bool.", name, value)
	}
	return on
}

// readExisting reads those files of dir that exist and reports whether any did.
func (l *loader) readExisting(dir string, names []string) bool {
	found := false
	for _, name := range names {
		path := filepath.Join(dir, name)
		if rel, err := filepath.Rel(l.req.Dir, path); err == nil {
			path = rel
		}
		_, err := l.read(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		found = true
		if err != nil {
			l.errorf(nil, "Cannot read the build file", "%s: %s", path, readProblem(err))
		}
	}
	return found
}

// read reads a build file by the name that ranges will give it.
func (l *loader) read(name string) (*source, error) {
	s, err := l.open(name, l.abs(name))
	if err != nil {
		return nil, err
	}
	return l.add(s), nil
}

// readFile is how a file of the project is read.
func (l *loader) readFile() func(string) ([]byte, error) {
	if l.req.ReadFile != nil {
		return l.req.ReadFile
	}
	return readRegular
}

// open reads the build file of that path.
func (l *loader) open(name, path string) (*source, error) {
	l.project.Files = append(l.project.Files, path)
	text, err := l.readFile()(path)
	if err != nil {
		return nil, err
	}
	if len(text) > maxFileSize {
		return nil, errTooLarge
	}
	return l.sourceOf(name, path, text), nil
}

// sourceOf is a build file with that text.
func (l *loader) sourceOf(name, path string, text []byte) *source {
	s := &source{name: name, path: path, base: l.req.Dir, ours: isOurs(path), text: text}
	if s.ours || l.fileRelative {
		s.base = filepath.Dir(path)
	}
	if l.fileRelative && !s.ours {
		s.named = filepath.Dir(name)
	}
	return s
}

func (l *loader) add(s *source) *source {
	if slices.ContainsFunc(l.sources, func(o *source) bool { return o.name == s.name }) {
		if s.ours || s.path == "" {
			l.warnf(nil, "The build file is named twice", "%s is read once.", s.name)
			return s
		}
		l.warnf(nil, "The build file is named twice", "%s is read twice, as bake does.", s.name)
	}
	l.sources = append(l.sources, s)
	l.project.Sources[s.name] = s.text
	return s
}

// source is the file that a range points into, or nil.
func (l *loader) source(name string) *source {
	for _, s := range l.sources {
		if s.name == name {
			return s
		}
	}
	return nil
}

var errTooLarge = fmt.Errorf("is larger than %d MiB; a build file that large is not read", maxFileSize>>20)

// readRegular reads a regular file that is not too large.
func readRegular(path string) ([]byte, error) {
	text, err := beneath.ReadFile(path, maxFileSize)
	if errors.Is(err, beneath.ErrTooLarge) {
		err = errTooLarge
	}
	return text, err
}

// isMissing reports whether a file could not be read because there is none.
func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// readProblem says why a file could not be read, without its path.
func readProblem(err error) string {
	var pathErr *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "there is no such file."
	case errors.As(err, &pathErr):
		return pathErr.Err.Error() + "."
	default:
		return err.Error() + "."
	}
}
