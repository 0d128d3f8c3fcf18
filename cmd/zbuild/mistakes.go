package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// What the parser says of a command line, by its own words.
var (
	missingValue    = regexp.MustCompile(`^(--\S+): (?:missing value, expecting |expected .* but got "EOL")`)
	missingArgument = regexp.MustCompile(`^expected "<(\S+)>"$`)
	unknownShort    = regexp.MustCompile(`^unknown flag (-\w)\b`)
)

// notFlags are flags of other programs that zbuild has something else for.
var notFlags = map[string]string{
	"--affected":     "zbuild bake builds what changed and takes the rest from its cache; 'zbuild watch' builds what an edit affects",
	"--since":        "zbuild bake builds what changed and takes the rest from its cache; 'zbuild watch' builds what an edit affects",
	"--fail-fast":    "that is what zbuild does without --keep-going; bake's way to say it is --jobs=fail-fast",
	"--watch":        "use 'zbuild watch'",
	"--parallel":     "use --jobs",
	"--tag":          "tags are the project file's: tags = [...], or --set TARGET.tags=NAME",
	"--build-arg":    "arguments are the project file's: args = {...}, or --set TARGET.args.NAME=VALUE",
	"--platform":     "platforms are the project file's: platforms = [...], or --set TARGET.platform=OS/ARCH",
	"--output":       "outputs are the project file's: output = [...], or --set TARGET.output=type=...",
	"--target":       "name the target as an argument; the stage of a Dockerfile is its attribute target, or --set TARGET.target=STAGE",
	"--secret":       "secrets are the project file's: secret = [...], or --set TARGET.secrets=id=...,src=...",
	"--squash":       "it is the project file's: squash = true, or --set TARGET.squash=true",
	"--env-file":     "it is the project file's: env-file = [...]; --var-file sets variables from a file of values",
	"--profile":      "all profiles of a Compose file are built; name the services that are meant",
	"--project-name": "set COMPOSE_PROJECT_NAME",
}

// commandLineError says what is wrong with a command line to somebody who does not
// know the parser.
func commandLineError(err error, parser *kong.Kong, args []string) error {
	text := err.Error()
	if m := missingValue.FindStringSubmatch(text); m != nil {
		return fmt.Errorf("%s: the value is missing", m[1])
	}
	if m := missingArgument.FindStringSubmatch(text); m != nil {
		return fmt.Errorf("the argument %s is missing", strings.ToUpper(m[1]))
	}
	if name, ok := strings.CutPrefix(text, "unknown flag "); ok {
		name, _, _ = strings.Cut(name, ",")
		if instead, ok := notFlags[name]; ok {
			return fmt.Errorf("there is no flag %s: %s", name, instead)
		}
	}
	if m := unknownShort.FindStringSubmatch(text); m != nil {
		i := slices.IndexFunc(args, func(a string) bool { return len(a) > 2 && strings.HasPrefix(a, m[1]) })
		if i >= 0 {
			name, _, _ := strings.Cut(args[i], "=")
			if hasFlag(parser, name[1:]) {
				return fmt.Errorf("unknown flag %s, did you mean \"-%s\"?", name, name)
			}
			return fmt.Errorf("unknown flag %s", name)
		}
	}
	return err
}

// hasFlag reports whether some command has a flag of that name.
func hasFlag(parser *kong.Kong, name string) bool {
	found := errors.New("found")
	return kong.Visit(parser.Model, func(node kong.Visitable, next kong.Next) error {
		if f, ok := node.(*kong.Flag); ok && f.Name == name && !f.Hidden {
			return found
		}
		return next(nil)
	}) != nil
}
