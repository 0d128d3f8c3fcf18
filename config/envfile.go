package config

import (
	"bytes"
	"context"
	"errors"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/dotenv"
)

// maxEnv is how large the values of an env-file may be together, in bytes.
const maxEnv = 1 << 20

var (
	envAssignment = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^\s*(?:export\s+)?([\pL\pN_.\-\[\]]+)\s*[=:]`) })
	envLine       = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^line (\d+)(.*)$`) })
	envReference  = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\$\{?([\pL_][\pL\pN_]*)`) })
)

// envFiles are env-files that were read one after the other.
type envFiles struct {
	text   []byte // of all of them
	values map[string]string
}

// add parses one more env-file as Compose does: NAME=VALUE, quotes, comments, and
// ${NAME} for what is in the environment, else for what was set before, in this file
// or an earlier one. What it sets again it sets anew.
func (f *envFiles) add(text []byte, env func(string) (string, bool)) error {
	before := bytes.Count(f.text, []byte("\n"))
	// The parser only knows what the text that it is given has set before.
	all := slices.Concat(f.text, bytes.TrimPrefix(text, []byte("\ufeff")))
	if expanded(all, env) > maxEnv {
		return errors.New("its values are too large, put together by references to one another")
	}
	values, err := dotenv.ParseWithLookup(bytes.NewReader(all), env)
	if err != nil {
		return envProblem(err, before)
	}
	f.text, f.values = slices.Concat(all, []byte("\n")), values
	return nil
}

// envProblem says what is wrong with an env-file that so many lines of other ones
// were parsed before.
func envProblem(err error, before int) error {
	// What comes after these words is a line of the file, which may be secret.
	what, _, _ := strings.Cut(err.Error(), " in variable name")
	if before, _, cut := strings.Cut(what, " quoted value "); cut {
		what = before + " quoted value"
	}
	if m := envLine().FindStringSubmatch(what); m != nil {
		if line, err := strconv.Atoi(m[1]); err == nil && line > before {
			what = "line " + strconv.Itoa(line-before) + m[2]
		}
	}
	return errors.New(what)
}

// readEnvFiles reads the files of --env-file. Of several the later one wins.
func (l *loader) readEnvFiles(ctx context.Context) {
	for _, name := range l.req.EnvFiles {
		path := l.abs(name)
		text, err := l.readGiven(ctx, path)
		if err != nil {
			l.errorf(nil, "Cannot read the file of --env-file", "%s: %s", name, readProblem(err))
			continue
		}
		if err := l.givenEnv.add(text, l.lookupEnvVar); err != nil {
			l.errorf(nil, "Invalid file of --env-file", "%s: %v.", name, err)
		}
	}
}

// expanded is how large the values of an env-file will be at most. A line that
// is only two references to the line before doubles, so that few lines can be
// more than there is memory. Where a value goes on over several lines, what looks
// like an assignment in it counts for both.
func expanded(text []byte, env func(string) (string, bool)) float64 {
	sizes := map[string]float64{}
	total, largest := 0.0, 0.0
	quoted := bytes.Count(text, []byte("\n\"")) + bytes.Count(text, []byte("\"\n"))
	for line := range bytes.Lines(text) {
		size := float64(len(line))
		for _, ref := range envReference().FindAllSubmatch(line, -1) {
			name := string(ref[1])
			if value, ok := env(name); ok {
				size += float64(len(value))
			}
			size += sizes[name]
			if quoted > 0 && bytes.IndexByte(line, '=') < 0 {
				size += largest // the middle of a value
			}
		}
		name := ""
		if m := envAssignment().FindSubmatch(line); m != nil {
			name = string(m[1])
		}
		sizes[name] += size
		total += size
		largest = math.Max(largest, size)
	}
	return total
}
