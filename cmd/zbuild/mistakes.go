package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/alecthomas/kong"
)

// What the parser says of a command line, by its own words.
var (
	missingValue = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^(--\S+): (?:missing value, expecting |expected .* but got "EOL")`)
	})
	missingArgument = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^expected "<(\S+)>"$`) })
	unknownShort    = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^unknown flag (-\w)\b`) })
)

// notFlags are flags of other programs that zbuild has something else for.
var notFlags = map[string]string{
	"-t":                "tags are the project file's: tags = [...], or --set TARGET.tags=NAME",
	"-o":                "outputs are the project file's: output = [...], or --set TARGET.output=type=...",
	"-q":                "use --progress=quiet",
	"-C":                "go there first, or name the build file with --file DIR/zbuild.hcl",
	"--quiet":           "use --progress=quiet",
	"--verbose":         "use --progress=plain for all that steps print, --debug for what goes on inside",
	"--no-color":        "set NO_COLOR=1",
	"--all":             "name the targets as '*'",
	"--ignore-errors":   "use --keep-going",
	"--always-make":     "use --no-cache",
	"--rm":              "nothing of a step stays behind, and so there is nothing to remove",
	"--force-rm":        "nothing of a step stays behind, and so there is nothing to remove",
	"--annotation":      "annotations are the project file's: annotations = [...], or --set TARGET.annotations=NAME=VALUE",
	"--attest":          "use --provenance and --sbom, or the project file's attest = [...]",
	"--add-host":        "hosts are the project file's: extra-hosts = {...}, or --set TARGET.extra-hosts.NAME=ADDRESS",
	"--build":           "zbuild builds what is not up to date; to build all of it anew use --no-cache",
	"--build-context":   "contexts are the project file's: contexts = {...}, or --set TARGET.contexts.NAME=WHERE",
	"--cache-from":      "caches are the project file's: cache-from = [...], or --set TARGET.cache-from=WHERE",
	"--cache-to":        "caches are the project file's: cache-to = [...], or --set TARGET.cache-to=WHERE",
	"--dockerfile":      "it is the project file's: dockerfile = ..., or --set TARGET.dockerfile=FILE",
	"--label":           "labels are the project file's: labels = {...}, or --set TARGET.labels.NAME=VALUE",
	"--network":         "it is the project file's: network = ..., or --set TARGET.network=none",
	"--no-cache-filter": "it is the project file's: no-cache-filter = [...], or --set TARGET.no-cache-filter=STAGE",
	"--shm-size":        "it is the project file's: shm-size = ..., or --set TARGET.shm-size=SIZE",
	"--ssh":             "agents and keys are the project file's: ssh = [...], or --set TARGET.ssh=default",
	"--ulimit":          "limits are the project file's: ulimits = [...], or --set TARGET.ulimits=NAME=SOFT:HARD",
	"--affected":        "use --since=REVISION, or 'zbuild watch', which builds what an edit affects",
	"--fail-fast":       "that is what zbuild does without --keep-going; bake's way to say it is --jobs=fail-fast",
	"--watch":           "use 'zbuild watch'",
	"--parallel":        "use --jobs",
	"--tag":             "tags are the project file's: tags = [...], or --set TARGET.tags=NAME",
	"--build-arg":       "arguments are the project file's: args = {...}, or --set TARGET.args.NAME=VALUE",
	"--platform":        "platforms are the project file's: platforms = [...], or --set TARGET.platform=OS/ARCH",
	"--output":          "outputs are the project file's: output = [...], or --set TARGET.output=type=...",
	"--target":          "name the target as an argument; the stage of a Dockerfile is its attribute target, or --set TARGET.target=STAGE",
	"--secret":          "secrets are the project file's: secret = [...], or --set TARGET.secrets=id=...,src=...",
	"--squash":          "it is the project file's: squash = true, or --set TARGET.squash=true",
	"--profile":         "all profiles of a Compose file are built; name the services that are meant",
	"--project-name":    "set COMPOSE_PROJECT_NAME",
}

// commandLineError says what is wrong with a command line to somebody who does not
// know the parser.
func commandLineError(err error, parser *kong.Kong, args []string) error {
	text := err.Error()
	if m := missingValue().FindStringSubmatch(text); m != nil {
		if m[1] == "--list" {
			return errors.New("--list: the value is missing: targets or variables. 'zbuild list' lists both")
		}
		return fmt.Errorf("%s: the value is missing", m[1])
	}
	if m := missingArgument().FindStringSubmatch(text); m != nil {
		return fmt.Errorf("the argument %s is missing", strings.ToUpper(m[1]))
	}
	if name, ok := strings.CutPrefix(text, "unknown flag "); ok {
		name, _, _ = strings.Cut(name, ",")
		// The parser takes -print for -p, too.
		part := !strings.HasPrefix(name, "--") && !slices.Contains(args, name)
		if instead, ok := notFlags[name]; ok && !part {
			return fmt.Errorf("there is no flag %s: %s", name, instead)
		}
	}
	if m := unknownShort().FindStringSubmatch(text); m != nil {
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

// command is as much of a command's name as the parser has come to.
func command(err error) string {
	name := "zbuild"
	var parse *kong.ParseError
	if errors.As(err, &parse) {
		for _, p := range parse.Context.Path {
			if p.Command != nil {
				name = p.Command.FullPath()
			}
		}
	}
	return name
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
