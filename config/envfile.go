package config

import (
	"bytes"
	"errors"
	"math"
	"regexp"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
)

// maxEnv is how large the values of an env-file may be together, in bytes.
const maxEnv = 1 << 20

var (
	envAssignment = regexp.MustCompile(`^\s*(?:export\s+)?([\pL\pN_.\-\[\]]+)\s*[=:]`)
	envReference  = regexp.MustCompile(`\$\{?([\pL_][\pL\pN_]*)`)
)

// parseEnvFile parses an env-file as Compose does: NAME=VALUE, quotes, comments,
// and ${NAME} for what was set before or is in the environment.
func parseEnvFile(text []byte, env func(string) (string, bool)) (map[string]string, error) {
	if expanded(text, env) > maxEnv {
		return nil, errors.New("its values are too large, put together by references to one another")
	}
	vars, err := dotenv.ParseWithLookup(bytes.NewReader(text), env)
	if err != nil {
		// What comes after these words is a line of the file, which may be secret.
		what, _, _ := strings.Cut(err.Error(), " in variable name")
		what, _, _ = strings.Cut(what, " value ")
		return nil, errors.New(what)
	}
	return vars, nil
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
		for _, ref := range envReference.FindAllSubmatch(line, -1) {
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
		if m := envAssignment.FindSubmatch(line); m != nil {
			name = string(m[1])
		}
		sizes[name] += size
		total += size
		largest = math.Max(largest, size)
	}
	return total
}
