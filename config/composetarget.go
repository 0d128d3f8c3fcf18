package config

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"

	composetypes "github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/buildx/util/buildflags"
	"github.com/docker/go-units"
	"github.com/hashicorp/hcl/v2"
	"go.yaml.in/yaml/v3" // as bake reads x-bake with; all else is read with compose-go's
)

// composeTargets makes a target of every service that is built, and the group
// default of all of them. Services come in the order of their names: compose-go
// has them in none.
func (l *loader) composeTargets(ctx context.Context, project *composetypes.Project, sources []*source) *composeFile {
	file := &composeFile{}
	var wrong []composeProblem
	if len(project.Services) == 0 {
		return file
	}
	group := &wireGroup{Name: "default"}
	absolute := absolutePaths(sources)
	for _, name := range slices.Sorted(maps.Keys(project.Services)) {
		service := project.Services[name]
		for _, env := range service.EnvFiles {
			l.project.Files = append(l.project.Files, l.abs(env.Path))
		}
		if service.Build == nil {
			continue
		}
		c := &composeService{project: project, service: service, build: service.Build, sources: sources, absolute: absolute}
		at := c.where()
		targetName := strings.ReplaceAll(service.Name, ".", "_")
		if validateName(targetName) != nil {
			l.errorf(at, "Invalid name", "The service %q cannot become a target: %v.", service.Name, errName)
			continue
		}
		t, err := c.target(targetName)
		if err != nil {
			wrong = append(wrong, composeProblem{at: c.where(err.key), text: err.Error(), path: "services." + service.Name + "."})
			l.broken[targetName] = true
			continue
		}
		c.notePlaces(t)
		l.checkExtension(c)
		l.checkUlimits(c)
		group.Targets = append(group.Targets, targetName)
		if i := slices.IndexFunc(file.targets, func(o *wireTarget) bool { return o.Name == targetName }); i >= 0 {
			file.targets[i].Merge(t)
			continue
		}
		file.targets = append(file.targets, t)
	}
	if len(wrong) > 0 {
		found := l.wrongValues(ctx, sources)
		for _, p := range wrong {
			if !slices.ContainsFunc(found, func(f composeProblem) bool { return strings.HasPrefix(f.path, p.path) }) {
				found = append(found, p)
			}
		}
		l.reportCompose(found)
	}
	group.Targets = unique(group.Targets)
	file.groups = []*wireGroup{group}
	if len(file.targets) > 0 {
		group.at = file.targets[0].at
	}
	return file
}

// composeService is one service on its way to become a target.
type composeService struct {
	project *composetypes.Project
	service composetypes.ServiceConfig
	build   *composetypes.BuildConfig
	sources []*source
	// absolute are paths that are written so; nil if none have to be made relative.
	absolute map[string]bool
}

// where is where the key of the service's build is written, or the service, or
// the file: compose-go tells no places.
func (c *composeService) where(keys ...string) *hcl.Range {
	path := append([]string{"services", c.service.Name, "build"}, keys...)
	for ; len(path) > 1; path = path[:len(path)-1] {
		for _, s := range slices.Backward(c.sources) {
			if node := findNode(s.yaml(), path); node != nil {
				return nodeRange(s, node)
			}
		}
	}
	return lineRange(c.sources[0], 1)
}

// composeKeys are the keys of a service's build that are not called as the
// attributes that they become.
var composeKeys = map[string][]string{
	"dockerfile-inline": {"dockerfile_inline"},
	"contexts":          {"additional_contexts"},
	"cache-from":        {"cache_from"},
	"cache-to":          {"cache_to"},
	"secret":            {"secrets"},
	"shm-size":          {"shm_size"},
	"no-cache":          {"no_cache"},
	"extra-hosts":       {"extra_hosts"},
	"attest":            {"provenance"},
}

// notePlaces notes where the target's attributes are written.
func (c *composeService) notePlaces(t *wireTarget) {
	t.at = *c.where()
	t.from, t.exprs = map[string]origin{}, map[string][]hcl.Expression{}
	for i := range attributes {
		a := &attributes[i]
		if a.has == nil || !a.has(t) {
			continue
		}
		keys := composeKeys[a.name]
		if keys == nil {
			keys = []string{a.name}
		}
		at := origin{at: *c.where(keys...)}
		t.from[a.name] = at
		if a.keys == nil {
			continue
		}
		for _, key := range a.keys(t) {
			t.from[a.name+"."+key] = at
		}
	}
}

// target is what the service's build comes to.
func (c *composeService) target(name string) (*wireTarget, *buildError) {
	b := c.build
	t := &wireTarget{
		Name:             name,
		Context:          given(c.relative(b.Context)),
		Dockerfile:       given(b.Dockerfile),
		DockerfileInline: given(b.DockerfileInline),
		Contexts:         composeContexts(b.AdditionalContexts),
		Args:             c.args(),
		Labels:           map[string]*string{},
		ExtraHosts:       map[string]*string{},
		Tags:             b.Tags,
		Target:           given(b.Target),
		Network:          given(b.Network),
		Platforms:        b.Platforms,
	}
	for name, value := range t.Contexts {
		t.Contexts[name] = c.relative(value)
	}
	for key, value := range b.Labels {
		t.Labels[key] = &value
	}
	for host, addresses := range b.ExtraHosts {
		list := strings.Join(addresses, ",")
		t.ExtraHosts[host] = &list
	}
	if b.ShmSize > 0 {
		t.ShmSize = given(units.BytesSize(float64(b.ShmSize)))
	}
	if b.NoCache {
		t.NoCache = &b.NoCache
	}
	if b.Pull {
		t.Pull = &b.Pull
	}
	for _, key := range b.SSH {
		ssh := &buildflags.SSH{ID: key.ID}
		if key.Path != "" {
			ssh.Paths = []string{c.relative(key.Path)}
		}
		t.SSH = append(t.SSH, ssh)
	}
	slices.SortFunc(t.SSH, (*buildflags.SSH).Less)
	for _, field := range []struct {
		key string
		add func(*wireTarget) error
	}{{"ulimits", c.ulimits}, {"secrets", c.secrets}, {"cache_from", c.caches}, {"provenance", c.attests}, {"x-bake", c.extension}} {
		if err := field.add(t); err != nil {
			return nil, &buildError{name: c.service.Name, key: field.key, err: err}
		}
	}
	if len(t.Tags) == 0 && c.service.Image != "" {
		t.Tags = []string{c.service.Image}
	}
	return t, nil
}

// relative is a path as it is written: of a file that another one includes compose-go
// makes paths absolute.
func (c *composeService) relative(p string) string {
	if c.absolute == nil || !filepath.IsAbs(p) || c.absolute[p] {
		return p
	}
	if rel, err := filepath.Rel(c.sources[0].base, p); err == nil {
		return rel
	}
	return p
}

// given is nil for what a Compose file does not say.
func given(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// args are the arguments that have a value: their own, or by their name the
// service's environment's, or the whole environment's.
func (c *composeService) args() map[string]*string {
	resolved := c.build.Args.Resolve(func(name string) (string, bool) {
		if value, ok := c.service.Environment[name]; ok && value != nil {
			return *value, true
		}
		value, ok := c.project.Environment[name]
		return value, ok
	})
	if len(resolved) == 0 {
		return nil
	}
	args := map[string]*string{}
	for name, value := range resolved {
		if value != nil {
			args[name] = value
		}
	}
	return args
}

func (c *composeService) ulimits(t *wireTarget) error {
	for _, name := range slices.Sorted(maps.Keys(c.build.Ulimits)) {
		u := c.build.Ulimits[name]
		limit, err := units.ParseUlimit(fmt.Sprintf("%s=%d:%d", name, u.Soft, u.Hard))
		if err != nil {
			return fmt.Errorf("ulimits: %w", err)
		}
		t.Ulimits = append(t.Ulimits, limit.String())
	}
	return nil
}

func (c *composeService) secrets(t *wireTarget) error {
	for _, s := range c.build.Secrets {
		declared := c.project.Secrets[s.Source]
		if declared.External {
			return fmt.Errorf("the secret %q is external: bake cannot get at its value", s.Source)
		}
		t.Secrets = append(t.Secrets, &buildflags.Secret{ID: s.Source, FilePath: c.relative(declared.File), Env: declared.Environment})
	}
	return nil
}

func (c *composeService) caches(t *wireTarget) (err error) {
	if t.CacheFrom, err = buildflags.ParseCacheEntry(c.build.CacheFrom); err != nil {
		return fmt.Errorf("cache_from: %w", err)
	}
	if t.CacheTo, err = buildflags.ParseCacheEntry(c.build.CacheTo); err != nil {
		return fmt.Errorf("cache_to: %w", err)
	}
	return nil
}

func (c *composeService) attests(t *wireTarget) (err error) {
	var attests []string
	for _, kind := range []struct{ name, value string }{{"sbom", c.build.SBOM}, {"provenance", c.build.Provenance}} {
		if kind.value != "" {
			attests = append(attests, buildflags.CanonicalizeAttest(kind.name, kind.value))
		}
	}
	t.Attest, err = buildflags.ParseAttests(attests)
	return err
}

// composeContexts are named contexts: a service is the target made of it.
func composeContexts(m map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	contexts := make(map[string]string, len(m))
	for name, value := range m {
		for _, prefix := range []string{composetypes.ServicePrefix, targetPrefix} {
			if service, ok := strings.CutPrefix(value, prefix); ok {
				value = targetPrefix + strings.ReplaceAll(service, ".", "_")
				break
			}
		}
		contexts[name] = value
	}
	return contexts
}

// extensionBlock is x-bake, by which a Compose file says what Compose has no
// words for.
type extensionBlock struct {
	Tags          words             `yaml:"tags"`
	CacheFrom     words             `yaml:"cache-from"`
	CacheTo       words             `yaml:"cache-to"`
	Secrets       words             `yaml:"secret"`
	SSH           words             `yaml:"ssh"`
	Platforms     words             `yaml:"platforms"`
	Outputs       words             `yaml:"output"`
	Pull          *bool             `yaml:"pull"`
	NoCache       *bool             `yaml:"no-cache"`
	NoCacheFilter words             `yaml:"no-cache-filter"`
	Contexts      map[string]string `yaml:"contexts"`
}

// words is a list, or its elements in one text with spaces between them.
type words []string

// UnmarshalYAML is part of yaml.v3.
func (w *words) UnmarshalYAML(node *yaml.Node) error {
	var list []string
	if node.Decode(&list) == nil {
		*w = list
		return nil
	}
	var text string
	if err := node.Decode(&text); err != nil {
		return err
	}
	*w = strings.Fields(text)
	return nil
}

// checkExtension says which keys of x-bake mean nothing: bake passes over them.
func (l *loader) checkExtension(c *composeService) {
	x, _ := c.build.Extensions["x-bake"].(map[string]any)
	var known []string
	typ := reflect.TypeFor[extensionBlock]()
	for i := range typ.NumField() {
		known = append(known, typ.Field(i).Tag.Get("yaml"))
	}
	for _, key := range slices.Sorted(maps.Keys(x)) {
		switch at := c.where("x-bake", key); {
		case slices.Contains(known, key):
		case attributeNamed(key) != nil:
			l.warnf(at, "Ignored attribute", "x-bake has no %s, and bake ignores it there. Write it for the target %s in a file after this one: --file %s --file more.zbuild.hcl.",
				key, strings.ReplaceAll(c.service.Name, ".", "_"), at.Filename)
		default:
			l.warnf(at, "Unknown attribute", "There is no %q in x-bake; it is ignored, as bake does.%s", key, didYouMean(key, known))
		}
	}
}

// checkUlimits says which limits are 0 in the image's build although a number is written:
// bake reads only those that are written as soft and hard.
func (l *loader) checkUlimits(c *composeService) {
	for _, name := range slices.Sorted(maps.Keys(c.build.Ulimits)) {
		if n := c.build.Ulimits[name].Single; n != 0 {
			l.warnf(c.where("ulimits", name), "Limit of 0", "bake takes one number for no limits, and so %[1]s becomes 0. Write %[1]s: { soft: %[2]d, hard: %[2]d }.", name, n)
		}
	}
}

// extension adds what x-bake says.
func (c *composeService) extension(t *wireTarget) error {
	value, ok := c.build.Extensions["x-bake"]
	if !ok || value == nil {
		return nil
	}
	text, err := yaml.Marshal(value)
	if err != nil {
		return fmt.Errorf("x-bake: %w", err)
	}
	var x extensionBlock
	var wrong *yaml.TypeError
	switch err := yaml.Unmarshal(text, &x); {
	case errors.As(err, &wrong):
		return fmt.Errorf("x-bake: %s", unmarshalText(wrong))
	case err != nil:
		return fmt.Errorf("x-bake: %w", err)
	}
	if err := x.addTo(t); err != nil {
		return fmt.Errorf("x-bake: %w", err)
	}
	return nil
}

func (x *extensionBlock) addTo(t *wireTarget) error {
	add := func(list *[]string, more words) {
		if len(more) > 0 {
			*list = unique(slices.Concat(*list, more))
		}
	}
	add(&t.Tags, x.Tags)
	add(&t.Platforms, x.Platforms)
	add(&t.NoCacheFilter, x.NoCacheFilter)
	if x.Pull != nil {
		t.Pull = x.Pull
	}
	if x.NoCache != nil {
		t.NoCache = x.NoCache
	}
	if len(x.Contexts) > 0 { // those of Compose itself stand
		t.Contexts = withKeys(composeContexts(x.Contexts), t.Contexts, func(string) bool { return true })
	}
	for _, list := range []struct {
		key    string
		values words
	}{{"cache-from", x.CacheFrom}, {"cache-to", x.CacheTo}, {"secret", x.Secrets}, {"ssh", x.SSH}, {"output", x.Outputs}} {
		if len(list.values) == 0 {
			continue
		}
		if err := attributeNamed(list.key).set(t, &override{values: list.values, add: true}); err != nil {
			return err
		}
	}
	slices.SortFunc(t.SSH, (*buildflags.SSH).Less)
	return nil
}

// unmarshaling is what yaml says of a value that it cannot put where it belongs; the
// line is one of a document that nobody has written.
var unmarshaling = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile("^line \\d+: cannot unmarshal !!(\\S+)(?: `(.*)`)? into (\\S+)$")
})

// unmarshalText says the same of what x-bake has.
func unmarshalText(err *yaml.TypeError) string {
	var all []string
	for _, text := range err.Errors {
		if m := unmarshaling().FindStringSubmatch(text); m != nil {
			kind := m[3]
			switch kind {
			case "string":
				kind = "string or a list of strings"
			case "map[string]string", "config.extensionBlock":
				kind = "mapping"
			}
			text = "has to be a " + kind
			if m[2] != "" {
				text += fmt.Sprintf(", not %q", m[2])
			}
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}
