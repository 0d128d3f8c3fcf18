package planner

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	"github.com/hashicorp/hcl/v2"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/remote"
)

// session is the state of one Build or Call.
type session struct {
	ctx     context.Context
	project *config.Project
	opt     Options
	files   *files
	images  *images
	remotes *remotes
	caps    capabilities

	dockerfiles memo[string, *dockerfile] // by name
}

func newSession(ctx context.Context, project *config.Project, opt Options) *session {
	opt = opt.withDefaults(project)
	return &session{
		ctx: ctx, project: project, opt: opt,
		files: newFiles(opt), images: newImages(ctx, opt.Images), remotes: newRemotes(ctx, opt), caps: newCapabilities(),
	}
}

// dockerfile parses a Dockerfile once for all targets that have it.
func (s *session) dockerfile(name string, text []byte) (*dockerfile, error) {
	return s.dockerfiles.get(name, func() (*dockerfile, error) { return parseDockerfile(name, text) })
}

// unit is a target while it is being planned. It is written to by the goroutine
// that plans it, and read by others once done is closed.
type unit struct {
	*session
	cfg *config.Target
	// links are the targets whose results are contexts of this one, by the name of
	// the context.
	links map[string]*unit
	asked map[string]string // see Target
	after []*unit           // all targets that must have been planned before, by name
	done  chan struct{}

	name string // what locations call the Dockerfile
	// entry is what the frontend calls it: the same, unless the context is nothing
	// but a Dockerfile behind a URL.
	entry string
	src   *source // the Dockerfile; nil until it has been read
	// runs has one element per platform.
	runs   []*run
	failed bool

	diagMu sync.Mutex // the frontend reports from several goroutines
	diags  hcl.Diagnostics
}

// run is the conversion of one target for one platform.
type run struct {
	u        *unit
	platform ocispecs.Platform
	// implicit says that nobody asked for the platform.
	implicit bool

	outlineOnce sync.Once
	shape       *outline // nil if the Dockerfile cannot be parsed
	pins        pins
	layouts     map[string]string // directories of contexts, by what the frontend calls them
	missing     missing
	read        []Material // where the Dockerfile comes from

	converted *conversion
	graph     *graph
}

// missing collects the images that a conversion did not get: an *imageError or
// a *linkError each.
type missing struct {
	mu   sync.Mutex
	errs []error
}

func (m *missing) add(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.errs = append(m.errs, err)
}

// units makes a unit of every target and says how they depend on each other. The
// order is that of the names.
func (s *session) units() ([]*unit, hcl.Diagnostics) {
	byName := make(map[string]*unit)
	var out []*unit
	for _, name := range slices.Sorted(maps.Keys(s.project.Targets)) {
		u := &unit{session: s, cfg: s.project.Targets[name], links: make(map[string]*unit), done: make(chan struct{})}
		u.name = s.files.name(u.cfg.Dockerfile)
		switch {
		case u.cfg.DockerfileInline != nil:
			u.name = fmt.Sprintf("%s target %s (inline)", u.cfg.Range.Filename, name)
		case u.remoteContext() && !u.localDockerfile():
			u.name = remote.Redact(u.cfg.Context.Value) + ":" + u.cfg.Dockerfile
		default:
			u.name = remote.Redact(u.name)
		}
		u.entry = u.name
		byName[name] = u
		out = append(out, u)
	}
	for _, u := range out {
		for _, ctxName := range slices.Sorted(maps.Keys(u.cfg.Contexts)) {
			c := u.cfg.Contexts[ctxName]
			if c.Kind != config.ContextTarget {
				continue
			}
			if to := byName[c.Value]; to != nil {
				u.links[ctxName] = to
				u.after = append(u.after, to)
			} else {
				u.errorf(u.contextRange(ctxName), "Unknown target", "The context %q is the result of the target %q, which does not exist.", ctxName, c.Value)
			}
		}
	}
	return out, cycles(out)
}

// cycles finds targets that wait for each other. The project has none if it was
// loaded; a plan must end all the same.
func cycles(units []*unit) hcl.Diagnostics {
	state := make(map[*unit]int) // 1: being visited, 2: done
	var diags hcl.Diagnostics
	var visit func(u *unit)
	visit = func(u *unit) {
		state[u] = 1
		for _, to := range u.after {
			switch state[to] {
			case 0:
				visit(to)
			case 1:
				diags = append(diags, &hcl.Diagnostic{
					Severity: hcl.DiagError, Subject: u.cfg.At("contexts"), Summary: "Targets depend on each other",
					Detail: fmt.Sprintf("The target %q is a context of %q and needs it itself.", to.cfg.Name, u.cfg.Name),
				})
			}
		}
		state[u] = 2
	}
	for _, u := range units {
		if state[u] == 0 {
			visit(u)
		}
	}
	return diags
}

// plan converts the target for each of its platforms.
func (u *unit) plan() {
	opts := u.frontendOpts()
	u.asked = opts
	u.checkContexts()
	if u.failed {
		return
	}
	for _, dep := range u.after {
		if dep.failed {
			u.failed = true // why has been said
			return
		}
	}
	for _, r := range u.newRuns() {
		if u.ctx.Err() != nil {
			u.failed = true
			return
		}
		r.convert(opts)
		u.runs = append(u.runs, r)
	}
}

// newRuns has one run per platform, each of them once.
func (u *unit) newRuns() []*run {
	if len(u.cfg.Platforms) == 0 {
		r := &run{u: u, platform: u.opt.Platform, implicit: true}
		for _, to := range u.links {
			// Several results cannot be told apart without a platform.
			r.implicit = r.implicit && len(to.runs) == 1
		}
		return []*run{r}
	}
	var out []*run
	seen := make(map[string]bool)
	for _, name := range u.cfg.Platforms {
		p, err := platforms.Parse(name)
		if err != nil {
			continue // has been reported
		}
		p = platforms.Normalize(p)
		if id := platforms.FormatAll(p); !seen[id] {
			seen[id] = true
			out = append(out, &run{u: u, platform: p})
		}
	}
	return out
}

// outline is the outline of the run's Dockerfile, or nil.
func (r *run) outline() *outline {
	r.outlineOnce.Do(func() {
		if r.u.src == nil {
			return
		}
		if d, err := r.u.dockerfile(r.u.name, r.u.src.data); err == nil {
			r.shape = d.outline(r.u.cfg, r.u.opt.Platform, r.platform)
		}
	})
	return r.shape
}

// image resolves an image that the Dockerfile or a context names.
func (r *run) image(_ context.Context, ref string, platform ocispecs.Platform) (*BaseImage, error) {
	u := r.u
	if name := matchContext(u.cfg, ref); name != "" && u.links[name] != nil {
		err := &linkError{ref: ref, context: name, target: u.links[name].cfg.Name, platform: platform}
		r.missing.add(err)
		return nil, err
	}
	img, err := u.images.resolve(ImageRequest{
		Ref: ref, Explicit: r.wroteRegistry(ref), Platform: platform,
		Pull: u.cfg.Pull, DefaultRegistry: u.cfg.DefaultRegistry,
	})
	if err != nil {
		r.missing.add(err)
		return nil, err
	}
	r.pins.add(img, platform)
	return img, nil
}

// wroteRegistry reports whether whoever named an image wrote its registry. The
// frontend has normalised the name by now, and docker.io may stand for nothing.
func (r *run) wroteRegistry(ref string) bool {
	if !strings.HasPrefix(ref, "docker.io/") {
		return true
	}
	var names []string
	if o := r.outline(); o != nil {
		for _, n := range o.mentions(ref) {
			if n.context == "" {
				names = append(names, n.name)
			}
		}
	}
	for _, c := range r.u.cfg.Contexts {
		if c.Kind == config.ContextImage && normalRef(imageRef(c)) == ref {
			names = append(names, imageRef(c))
		}
	}
	return len(names) > 0 && !slices.ContainsFunc(names, func(n string) bool { return !explicit(n) })
}

// linkError says that a target was not built for a platform that another needs.
type linkError struct {
	ref             string
	context, target string
	platform        ocispecs.Platform
}

func (e *linkError) Error() string {
	return fmt.Sprintf("the context %q is the target %q, which is not built for %s; add the platform to its platforms",
		e.context, e.target, platforms.FormatAll(e.platform))
}
