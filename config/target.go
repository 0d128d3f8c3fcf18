package config

import (
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/docker/buildx/util/buildflags"
	"github.com/docker/buildx/util/urlutil"
	"github.com/docker/go-units"
	"github.com/hashicorp/hcl/v2"
)

// build makes the project of what was resolved.
func (r *resolver) build(out *printed) {
	r.checkEnvironment()
	r.rootDirs = r.roots()
	r.fsUnchecked = r.req.EvaluateOnly || r.withoutFSChecks()
	p := r.project
	p.Targets = map[string]*Target{}
	p.Groups = map[string]*Group{}
	p.Requested = r.names
	for _, name := range slices.Sorted(maps.Keys(out.Target)) {
		p.Targets[name] = r.buildTarget(out.Target[name])
	}
	r.checkWriters()
	for _, g := range r.groups {
		p.Groups[g.Name] = &Group{Name: g.Name, Description: g.Description, Targets: slices.Clone(g.Targets)}
	}
	if g := out.Group["default"]; g != nil && p.Groups["default"] == nil {
		p.Groups["default"] = &Group{Name: "default", Targets: slices.Clone(g.Targets)}
	}
	if len(r.file.Project) > 0 {
		p.Watch = r.watch(r.file.Project[0])
	}
	p.printed = out
}

// buildTarget checks a resolved target's values and makes a Target of them. It
// changes t to what bake prints.
func (r *resolver) buildTarget(t *wireTarget) *Target {
	r.notYetAvailable(t)
	b := &Target{
		Name:             t.Name,
		Description:      t.Description,
		Requested:        slices.Contains(r.names, t.Name),
		DockerfileInline: t.DockerfileInline,
		Stage:            deref(t.Target),
		Args:             plainMap(t.Args),
		Labels:           plainMap(t.Labels),
		Tags:             t.Tags,
		Platforms:        r.platforms(t),
		Pull:             r.pull(t),
		NoCache:          deref(t.NoCache),
		NoCacheFilter:    t.NoCacheFilter,
		Outputs:          r.outputs(t),
		Attest:           r.attests(t),
		CacheFrom:        r.caches(t, "cache-from", t.CacheFrom),
		CacheTo:          withInline(t, r.caches(t, "cache-to", t.CacheTo)),
		Network:          r.network(t),
		Secrets:          r.secrets(t),
		SSH:              r.ssh(t),
		Entitlements:     r.entitlements(t),
		Resources:        r.resources(t),
		ShmSize:          deref(t.ShmSize),
		Ulimits:          t.Ulimits,
		ExtraHosts:       plainMap(t.ExtraHosts),
		CacheMounts:      r.cacheMounts(t),
		Retries:          r.retries(t),
		RetryDelay:       r.retryDelay(t),
		DefaultRegistry:  r.defaultRegistry(t),
		Format:           deref(t.Format),
		Squash:           deref(t.Squash),
		DependsOn:        r.dependsOn(t),
		Call:             r.call(t),
		Watch:            r.watch(t),
		Range:            t.at,
		Ranges:           map[string]hcl.Range{},
	}
	r.contexts(t, b)
	r.checkPolicyFile(t, b.Dockerfile)
	r.checkTags(t)
	r.checkSizes(t)
	if b.Format != "" && b.Format != "oci" && b.Format != "docker" {
		r.errorf(t.where("format"), "Invalid format", `The format is "oci" or "docker", not %q.`, b.Format)
	}
	for name, o := range t.from {
		b.Ranges[name] = o.at
	}
	return b
}

// deref is what the pointer points at, or the zero value.
func deref[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}

func plainMap(m map[string]*string) map[string]string {
	plain := map[string]string{}
	for key, value := range m {
		if value != nil {
			plain[key] = *value
		}
	}
	return plain
}

// notYetAvailable warns of what the target asks for and will not get.
func (r *resolver) notYetAvailable(t *wireTarget) {
	if r.req.EvaluateOnly {
		return
	}
	for i := range attributes {
		a := &attributes[i]
		if a.use != notYet || !a.has(t) || r.harmless(a, t) {
			continue
		}
		r.warnf(t.where(a.name), a.name+" is not available yet", "This release ignores it: %s.", a.effect)
	}
}

// harmless reports whether nothing is lost by leaving the attribute out.
func (r *resolver) harmless(a *attribute, t *wireTarget) bool {
	return a.name == "policy" && !slices.ContainsFunc(t.Policy, func(p buildflags.PolicyConfig) bool { return !p.Disabled })
}

// checkPolicyFile warns of a policy that bake would find by itself, beside the
// Dockerfile.
func (r *resolver) checkPolicyFile(t *wireTarget, dockerfile string) {
	if r.req.EvaluateOnly || len(t.Policy) > 0 || t.DockerfileInline != nil || !filepath.IsAbs(dockerfile) {
		return
	}
	policy := dockerfile + ".rego"
	r.project.Files = append(r.project.Files, policy)
	if fileExists(policy) {
		r.warnf(t.where("dockerfile"), "policy is not available yet", "%s would be target %s's policy to bake. This release ignores it: no policy is enforced.", filepath.Base(policy), t.Name)
	}
}

// contexts resolves the contexts and the Dockerfile's place.
func (r *resolver) contexts(t *wireTarget, b *Target) {
	file := r.contextFile(t)
	b.Context = r.context(*t.Context, r.base(file))
	main := cleanContext(r.shown(*t.Context, file))
	r.checkRemoteDockerfile(t, *t.Context)
	if c, shown, ok := r.remoteMain(r.shown(*t.Context, file)); ok {
		b.Context, main = c, shown
	}
	switch {
	case *t.Context == "-":
		r.errorf(t.where("context"), "Invalid context", "A build file cannot have standard input as a context.")
	case b.Context.Kind == ContextTarget && !r.req.EvaluateOnly:
		r.errorf(t.where("context"), "Invalid context", "The main context cannot be another target. Make it a named one: contexts = { NAME = %q }.", *t.Context)
	case b.Context.Kind == ContextDir:
		r.checkRead(t.where("context"), "The context of target "+t.Name, b.Context.Value)
	}
	b.Dockerfile = r.dockerfile(t, b.Context)

	b.Contexts = map[string]Context{}
	for _, key := range slices.Sorted(maps.Keys(t.Contexts)) {
		at := t.where("contexts." + key)
		written := t.Contexts[key]
		c := r.context(written, r.base(at.Filename))
		if remote, ok := r.remoteNamed(r.shown(written, at.Filename), at); ok {
			c = remote
		}
		b.Contexts[key] = c
		what := fmt.Sprintf("The context %q of target %s", key, t.Name)
		switch c.Kind {
		case ContextDir:
			r.checkRead(at, what, c.Value)
		case ContextOCILayout:
			dir, _, _ := strings.Cut(strings.TrimPrefix(c.Value, ociPrefix), "@")
			r.checkRead(at, what, dir)
		case ContextImage:
			if _, err := reference.ParseNormalizedNamed(c.Value); err != nil && !r.req.EvaluateOnly {
				r.errorf(at, "Invalid image reference", "%s is the image %q: %v.", what, c.Value, err)
			}
		}
		if shown := r.shown(written, at.Filename); shown != written {
			t.Contexts = withKey(t.Contexts, key, shown)
		}
	}
	t.Context = &main
	r.addRemoteCredentials(b)
}

// dockerfile is where the Dockerfile is.
func (r *resolver) dockerfile(t *wireTarget, c Context) string {
	written := *t.Dockerfile
	at := t.where("dockerfile")
	if written == "-" {
		r.errorf(at, "Invalid dockerfile", "A build file cannot take the Dockerfile from standard input. Use dockerfile-inline.")
		return ""
	}
	var p string
	switch after, cwd := strings.CutPrefix(written, cwdPrefix); {
	case cwd:
		p = r.abs(after)
	case urlutil.IsRemoteURL(written):
		return written
	case filepath.IsAbs(written):
		p = filepath.Clean(written)
	case c.Kind == ContextDir:
		p = joinPath(c.Value, filepath.FromSlash(written))
	default:
		return path.Join(c.Subdir, path.Clean(written))
	}
	inContext := c.Kind == ContextDir && within(withoutLinks(p), withoutLinks(c.Value))
	if t.DockerfileInline == nil && !inContext {
		r.checkRead(at, "The Dockerfile of target "+t.Name, p)
	}
	return p
}

// platforms are the platforms, checked and in their normal form.
func (r *resolver) platforms(t *wireTarget) []string {
	var result []string
	for _, written := range t.Platforms {
		for _, s := range strings.Split(written, ",") {
			if strings.EqualFold(s, "local") && r.req.LocalPlatform != "" {
				s = r.req.LocalPlatform
			}
			p, err := platforms.Parse(s)
			if err != nil {
				r.errorf(t.whereValue("platforms", written), "Invalid platform", "%q is not a platform. Write OS/ARCH or OS/ARCH/VARIANT, such as linux/amd64 or linux/arm/v7, or local.", s)
				continue
			}
			result = append(result, platforms.FormatAll(platforms.Normalize(p)))
		}
	}
	return unique(result)
}

func (r *resolver) network(t *wireTarget) string {
	network := deref(t.Network)
	at := t.where("network")
	switch network {
	case "", "default", "none", "host":
	default:
		if !r.req.EvaluateOnly {
			r.errorf(at, "Invalid network", "The network is default, none or host, not %q.", network)
		}
	}
	if t.ownHost && !r.networkAllowed() && !r.req.EvaluateOnly {
		if network != "host" {
			at = t.where("entitlements")
		}
		r.refuse(at, entitlementNetworkHost, "The host's network is not allowed", "Target %s would run its steps in the network of this host. To allow it", t.Name)
	}
	return network
}

// networkAllowed reports whether the command line lets targets use the host's
// network. As in bake, --set of the entitlement is leave for all of them.
func (r *resolver) networkAllowed() bool {
	if r.allow.networkHost {
		return true
	}
	return r.setAllows(entitlementNetworkHost)
}

// setAllows reports whether --set gives an entitlement to some target.
func (r *resolver) setAllows(entitlement string) bool {
	for _, o := range slices.Concat(slices.Collect(maps.Values(r.overrides))...) {
		if o.key == "entitlements" && slices.Contains(o.values, entitlement) {
			return true
		}
	}
	return false
}

func (r *resolver) secrets(t *wireTarget) map[string]Secret {
	secrets := map[string]Secret{}
	for _, s := range t.Secrets {
		at := t.where("secret." + s.ID)
		if s.ID == "" {
			r.errorf(t.where("secret"), "Invalid secret", "A secret of target %s has no id. Write id=NAME,src=FILE or id=NAME,env=VARIABLE.", t.Name)
			continue
		}
		secret := Secret{ID: s.ID, Env: s.Env}
		file := s.FilePath
		if s.Env == "" && file == "" {
			if _, ok := r.req.LookupEnv(s.ID); ok {
				secret.Env = s.ID
			} else {
				file = s.ID
			}
		}
		if file != "" && secret.Env == "" {
			secret.Path = joinPath(r.base(at.Filename), file)
			if !t.from["secret."+s.ID].set {
				r.checkRead(at, fmt.Sprintf("The secret %q of target %s", s.ID, t.Name), secret.Path)
			}
		}
		secrets[s.ID] = secret
	}
	return secrets
}

func (r *resolver) cacheMounts(t *wireTarget) []CacheMount {
	var mounts []CacheMount
	for _, name := range slices.Sorted(maps.Keys(t.CacheMounts)) {
		mount, err := t.CacheMounts[name].resolve(name)
		if err != nil {
			r.errorf(t.where("cache-mount."+name), "Invalid cache-mount", "The cache-mount %q: %s.", name, strings.ReplaceAll(err.Error(), "\n", "; "))
		}
		mounts = append(mounts, mount)
	}
	for i, m := range mounts {
		for _, other := range mounts[:i] {
			if path.Clean(m.Target) == path.Clean(other.Target) && m.Target != "" {
				r.errorf(t.where("cache-mount."+m.Name), "Invalid cache-mount", "Target %s has the cache-mounts %q and %q at the same path %s.", t.Name, other.Name, m.Name, m.Target)
			}
		}
	}
	return mounts
}

func (r *resolver) retries(t *wireTarget) int {
	const most = 100
	n := deref(t.Retries)
	if n < 0 || n > most {
		r.errorf(t.where("retries"), "Invalid retries", "The number of retries is from 0 to %d, not %d.", most, n)
	}
	return n
}

func (r *resolver) retryDelay(t *wireTarget) time.Duration {
	if t.RetryDelay == nil {
		return 0
	}
	d, err := time.ParseDuration(*t.RetryDelay)
	if err != nil || d < 0 {
		r.errorf(t.where("retry-delay"), "Invalid retry-delay", "%q is not a duration such as 500ms, 3s or 1m30s.", *t.RetryDelay)
	}
	return d
}

func (r *resolver) defaultRegistry(t *wireTarget) string {
	registry := strings.TrimSuffix(deref(t.DefaultRegistry), "/")
	if registry == "" {
		return ""
	}
	host, _, _ := strings.Cut(registry, "/")
	_, err := reference.ParseNormalizedNamed(registry + "/x")
	if err == nil && host != "localhost" && !strings.ContainsAny(host, ".:") {
		err = fmt.Errorf("%q is not the name of a host", host)
	}
	if err != nil {
		r.errorf(t.where("default-registry"), "Invalid default-registry", "%q is not a registry such as registry.example.com/path: %v.", registry, err)
	}
	return registry
}

// dependsOn are the targets to wait for, groups expanded.
func (r *resolver) dependsOn(t *wireTarget) []string {
	var names []string
	for _, name := range t.DependsOn {
		targets, _ := r.expand(name)
		names = append(names, targets...)
	}
	return unique(names)
}

// callMethods are what a target can be asked instead of being built.
var callMethods = []string{"lint", "outline", "targets", "subrequests.describe"}

// call is what the target is asked instead of being built, by the frontend's name
// for it; empty if it is built.
func (r *resolver) call(t *wireTarget) string {
	if r.req.EvaluateOnly || r.req.Calling {
		return ""
	}
	call, err := buildflags.ParseCallFunc(deref(t.Call))
	switch {
	case err != nil:
		r.errorf(t.where("call"), "Invalid call", "%v.", err)
	case call == nil:
	case !slices.Contains(callMethods, call.Name):
		r.errorf(t.where("call"), "Invalid call", "%q is nothing that a Dockerfile can be asked: there are build, check, outline, targets and subrequests.describe.%s",
			call.Name, didYouMean(call.Name, append([]string{"build", "check"}, callMethods...)))
	default:
		return call.Name
	}
	return ""
}

// checkTags checks the tags, which bake leaves to the builder.
func (r *resolver) checkTags(t *wireTarget) {
	if r.req.EvaluateOnly {
		return
	}
	for _, tag := range t.Tags {
		named, err := reference.ParseNormalizedNamed(tag)
		if _, digested := named.(reference.Digested); err == nil && digested {
			err = fmt.Errorf("a tag cannot have a digest")
		}
		if err != nil {
			several := ""
			if strings.Contains(tag, ",") {
				several = " Several tags are elements of a list, or several --set with += after the first."
			}
			r.errorf(t.whereValue("tags", tag), "Invalid tag", "%q cannot be the name of an image: %v.%s", tag, err, several)
		}
	}
}

// checkSizes checks what is a number with a unit, and the like.
func (r *resolver) checkSizes(t *wireTarget) {
	if t.ShmSize != nil {
		if _, err := units.RAMInBytes(*t.ShmSize); err != nil {
			r.errorf(t.where("shm-size"), "Invalid shm-size", "%q is not a size such as 64m or 1g.", *t.ShmSize)
		}
	}
	r.checkResources(t)
	for _, s := range t.Ulimits {
		if _, err := units.ParseUlimit(s); err != nil {
			r.errorf(t.whereValue("ulimits", s), "Invalid ulimit", "%q: %v. Write NAME=SOFT[:HARD], such as nofile=1024:2048.", s, err)
		}
	}
	for _, s := range t.Annotations {
		if _, err := buildflags.ParseAnnotations([]string{s}); err != nil {
			r.errorf(t.whereValue("annotations", s), "Invalid annotation", "%v.", err)
		}
	}
}

// checkResources checks the limits that are sizes; the others are numbers already.
func (r *resolver) checkResources(t *wireTarget) {
	if t.Resources == nil {
		return
	}
	for _, limit := range []struct {
		name      string
		value     *string
		unlimited bool
	}{{"memory", t.Resources.Memory, false}, {"memory-swap", t.Resources.MemorySwap, true}} {
		if limit.value == nil {
			continue
		}
		written := strings.TrimSpace(*limit.value)
		if _, err := units.RAMInBytes(written); err != nil && (!limit.unlimited || written != "-1") {
			r.errorf(t.where("resources"), "Invalid resources", "%s: %q is not a size such as 64m or 1g.", limit.name, *limit.value)
		}
	}
}
