package config

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/consts"
	composeloader "github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/schema"
	composetypes "github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v4"

	"github.com/zbuild/zbuild/internal/beneath"
)

// Compose files are read by compose-go and become targets, and a group default,
// before anything of HCL is evaluated; so HCL adds to them and wins. All of them
// are one project to compose-go: later ones override earlier ones by its rules.
//
// compose-go finds the files that a Compose file extends, includes or takes its
// environment from by itself, from the process's working directory, which is
// Request.Dir.

// composeFile is what Compose files come to.
type composeFile struct {
	groups  []*wireGroup
	targets []*wireTarget
}

// wireFile is a file with nothing but what comes from Compose, for HCL to add to.
// What it adds to is a copy: it is evaluated more than once.
func (c *composeFile) wireFile() *wireFile {
	file := &wireFile{}
	if c == nil {
		return file
	}
	for _, g := range c.groups {
		clone := *g
		file.Groups = append(file.Groups, &clone)
	}
	for _, t := range c.targets {
		clone := &wireTarget{Name: t.Name}
		clone.Merge(t)
		file.Targets = append(file.Targets, clone)
	}
	return file
}

// isComposeName and isHCLName tell files by their names; those of other names are
// what they can be read as. bake's rule for Compose ignores the case of the name,
// its rule for HCL does not.
func isComposeName(name string) bool {
	lower := strings.ToLower(name)
	return strings.HasSuffix(lower, ".yml") || strings.HasSuffix(lower, ".yaml")
}

func isHCLName(name string) bool {
	lower := strings.ToLower(name)
	return strings.HasSuffix(lower, ".json") || strings.HasSuffix(lower, ".hcl")
}

// looksLikeCompose is for the diagnostics of a file that is nothing that can be
// read: what was it meant to be?
var looksLikeCompose = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?m)^(services|include|x-[a-z-]+)[ \t]*:[ \t\r]*$`) })

// composeEnvironment is the environment that Compose files are interpolated with:
// that of the process, under it the files of --env-file or, as with Compose, without
// any the project's file .env, over all of them --var-file and --var.
func (l *loader) composeEnvironment() (composetypes.Mapping, error) {
	env := composetypes.Mapping{}
	if !l.envFlag("BUILDX_BAKE_DISABLE_VARS_ENV_LOOKUP") {
		for _, entry := range l.req.Environ {
			name, value, _ := strings.Cut(entry, "=")
			env[name] = value
		}
	}
	files := l.givenEnv
	if len(l.req.EnvFiles) == 0 {
		if err := l.readDotEnv(&files, env); err != nil {
			return nil, fmt.Errorf(".env: %w", err)
		}
	}
	for name, value := range files.values {
		if _, ok := env[name]; !ok {
			env[name] = value
		}
	}
	maps.Copy(env, l.givenText())
	maps.Copy(env, l.req.Vars)
	return env, nil
}

// readDotEnv reads the project's file .env, if there is one.
func (l *loader) readDotEnv(files *envFiles, env composetypes.Mapping) error {
	path := joinPath(l.project.Dir, ".env")
	l.project.Files = append(l.project.Files, path)
	text, err := readRegular(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, beneath.ErrDirectory):
		return nil
	case err != nil:
		return errors.New(readProblem(err))
	}
	return files.add(text, func(name string) (string, bool) {
		value, ok := env[name]
		return value, ok
	})
}

// checkCompose reads one file as Compose, leaving out what only all of them
// together have to be.
func (l *loader) checkCompose(ctx context.Context, s *source) error {
	if err := tooMuchCompose(s); err != nil {
		return err
	}
	env, err := l.composeEnvironment()
	if err != nil {
		return err
	}
	_, err = l.readCompose(ctx, composeDetails(s, composetypes.ConfigFile{Content: s.text}, env), skipConsistency)
	return err
}

// composeDir is where the paths of other files start that a Compose file names.
func (l *loader) composeDir(s *source) string {
	if s.included {
		return s.base
	}
	return l.req.Dir
}

// composeDetails are a file for compose-go to read. It looks for the files that one
// names in the working directory, as with bake; for those of a file that another one
// includes, in its own.
func composeDetails(s *source, file composetypes.ConfigFile, env composetypes.Mapping) composetypes.ConfigDetails {
	details := composetypes.ConfigDetails{ConfigFiles: []composetypes.ConfigFile{file}, Environment: env}
	if s.included {
		details.WorkingDir = s.base
	}
	return details
}

// skipConsistency leaves out what only all files together have to be.
func skipConsistency(o *composeloader.Options) { o.SkipConsistencyCheck = true }

// What compose-go does grows with the square of the number of entries of a
// mapping or list, and it cannot be interrupted. maxComposeWork is the largest
// sum of such squares that is tried, about a second's worth.
const (
	maxComposeServices = 2_000
	maxComposeWork     = 3_000 * 3_000
)

// tooMuchCompose is the error of a file that would take too long to read.
func tooMuchCompose(s *source) error {
	root := s.yaml()
	if services := findNode(root, []string{"services"}); services != nil && len(services.Content)/2 > maxComposeServices {
		return fmt.Errorf("the file has %d services, and up to %d are read", len(services.Content)/2, maxComposeServices)
	}
	if composeWork(root) > maxComposeWork {
		return errors.New("the file has too many entries in one place; more than some thousand cannot be read in reasonable time")
	}
	return nil
}

// composeWork is the sum of the squares of the sizes of mappings and lists.
// Aliases count where they stand: yaml limits what they come to.
func composeWork(node *yaml.Node) int {
	if node == nil {
		return 0
	}
	work := 0
	if node.Kind == yaml.MappingNode || node.Kind == yaml.SequenceNode {
		n := len(node.Content)
		if node.Kind == yaml.MappingNode {
			n /= 2
		}
		work = n * n
	}
	for _, child := range node.Content {
		work += composeWork(child)
	}
	return work
}

// loadCompose makes targets of all Compose files.
func (l *loader) loadCompose(ctx context.Context) *composeFile {
	var files []composetypes.ConfigFile
	var sources []*source
	for _, s := range l.sources {
		if s.compose {
			name := s.name
			if name == stdinName {
				name = "-"
			}
			files = append(files, composetypes.ConfigFile{Filename: name, Content: s.text})
			sources = append(sources, s)
		}
	}
	if len(files) == 0 {
		return nil
	}
	for _, s := range sources { // paths start where the first file's do
		s.base, s.named = sources[0].base, sources[0].named
	}
	env, err := l.composeEnvironment()
	var project *composetypes.Project
	if err == nil {
		details := composeDetails(sources[0], files[0], env)
		details.ConfigFiles = files
		project, err = l.readCompose(ctx, details, func(o *composeloader.Options) {
			o.Listeners = append(o.Listeners, l.noteComposeFiles(l.composeDir(sources[0])))
		})
	}
	if err != nil {
		l.composeError(ctx, sources, err)
		return nil
	}
	return l.composeTargets(ctx, project, sources)
}

// noteComposeFiles notes which other files a Compose file names; their paths start
// from dir.
func (l *loader) noteComposeFiles(dir string) composeloader.Listener {
	return func(event string, metadata map[string]any) {
		switch event {
		case "extends":
			if file, ok := metadata["file"].(string); ok {
				l.project.Files = append(l.project.Files, joinPath(dir, file))
			}
		case "include":
			paths, _ := metadata["path"].(composetypes.StringList)
			for _, file := range paths {
				l.project.Files = append(l.project.Files, joinPath(dir, file))
			}
		}
	}
}

// readCompose reads Compose files as one project. What has nothing to do with
// building is not looked at any further than compose-go's reading needs: bake
// takes files that Compose itself would refuse for it.
func (l *loader) readCompose(ctx context.Context, details composetypes.ConfigDetails, options ...func(*composeloader.Options)) (project *composetypes.Project, err error) {
	defer func() {
		if r := recover(); r != nil { // compose-go takes some shapes for granted
			err = wrongKind(fmt.Sprint(r))
		}
	}()
	env := details.Environment
	model, err := composeloader.LoadModelWithContext(ctx, details, append([]func(*composeloader.Options){func(o *composeloader.Options) {
		name := "bake"
		if v := env[consts.ComposeProjectName]; v != "" {
			name = v
		}
		o.SetProjectName(name, false)
		o.SkipNormalization = true
		o.SkipValidation = true
	}}, options...)...)
	if err != nil {
		return nil, err
	}
	building := buildPart(model)
	if len(building) == 0 {
		return nil, errors.New(noServices)
	}
	if err := schema.Validate(building); err != nil {
		return nil, err
	}
	toProject := composeloader.ToOptions(&details, append([]func(*composeloader.Options){func(o *composeloader.Options) {
		o.SkipNormalization = true
		o.Profiles = []string{"*"}
	}}, options...))
	project, err = composeloader.ModelToProject(building, toProject, details)
	if err != nil && strings.Contains(err.Error(), noBuild) {
		// compose-go says it of one, whichever it comes upon first.
		err = cmp.Or(notBuilt(building), err)
	}
	return project, err
}

// noServices is what bake says of a file that has none.
const noServices = "empty compose file"

// noBuild is what compose-go says of a service that cannot come from anywhere.
const noBuild = "has neither an image nor a build context specified"

// notBuilt says it of all services of a model that it is true of.
func notBuilt(model map[string]any) error {
	var all []error
	services, _ := model["services"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(services)) {
		service, _ := services[name].(map[string]any)
		if image, _ := service["image"].(string); image == "" && service["build"] == nil && service["provider"] == nil {
			all = append(all, fmt.Errorf("service %q %s", name, noBuild))
		}
	}
	return errors.Join(all...)
}

// buildingFields are the fields of a service that say how to build it.
var buildingFields = []string{"image", "build", "environment", "env_file"}

// buildPart is the part of a Compose model that says how to build.
func buildPart(model map[string]any) map[string]any {
	part := map[string]any{}
	if services, ok := model["services"].(map[string]any); ok {
		kept := map[string]any{}
		for name, service := range services {
			switch service := service.(type) {
			case nil:
				kept[name] = map[string]any{}
			case map[string]any:
				fields := map[string]any{}
				for _, field := range buildingFields {
					if value, ok := service[field]; ok {
						fields[field] = value
					}
				}
				kept[name] = fields
			}
		}
		part["services"] = kept
	}
	if secrets, ok := model["secrets"]; ok {
		part["secrets"] = secrets
	}
	return part
}

// fileExists reports whether there is a regular file of that name.
func fileExists(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
