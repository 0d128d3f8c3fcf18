package planner

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/docker/buildx/util/urlutil"
	"github.com/docker/go-units"
	"github.com/hashicorp/hcl/v2"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/zbuild/zbuild/config"
)

// conversion is what the frontend made of a Dockerfile for one platform.
type conversion struct {
	def      *pb.Definition
	sbom     *pb.Definition // nil if nobody asks for one
	config   []byte         // of the image, without root file system
	platform ocispecs.Platform
	epoch    *time.Time
}

// convert runs BuildKit's Dockerfile frontend and makes its result canonical.
// What goes wrong becomes a diagnostic, also if it is a panic of the frontend:
// nobody's Dockerfile may end the process.
func (r *run) convert(opts map[string]string) {
	defer r.u.reportPanic()
	c, err := r.frontend(opts)
	if err != nil {
		r.reportError(err)
		return
	}
	r.converted = c
	g, err := newCanonicalizer(r).run(c)
	if err != nil {
		r.reportError(err)
		return
	}
	r.graph = g
}

// opened is the frontend with a Dockerfile in its hands.
type opened struct {
	client *dockerui.Client
	source *dockerui.Source
	opt    dockerfile2llb.ConvertOpt
}

// open starts the frontend and has it read the Dockerfile.
func (r *run) open(opts map[string]string) (*opened, error) {
	g, err := r.gateway(opts)
	if err != nil {
		return nil, err
	}
	bc, err := dockerui.NewClient(g)
	if err != nil {
		return nil, err
	}
	src, err := bc.ReadEntrypoint(r.u.ctx, "Dockerfile")
	if err != nil {
		return nil, err
	}
	if err := r.checkSyntax(src.Data); err != nil {
		return nil, err
	}
	if n := r.instructions(); n > maxInstructions {
		return nil, &tooLongError{n}
	}
	return &opened{client: bc, source: src, opt: dockerfile2llb.ConvertOpt{
		Config: bc.Config, Client: bc, SourceMap: src.SourceMap, MetaResolver: g,
	}}, nil
}

// frontend is the part of BuildKit's builder that makes LLB, for one platform.
func (r *run) frontend(opts map[string]string) (*conversion, error) {
	o, err := r.open(opts)
	if err != nil {
		return nil, err
	}
	opt := o.opt
	opt.Warn = func(rule, description, url, msg string, location []parser.Range) {
		r.u.report(r.u.lintWarning(rule, description, url, msg, location))
	}
	if !r.implicit {
		opt.TargetPlatform = &r.platform
	}
	if len(r.u.runs) > 0 {
		opt.Warn = nil // the first platform has said it
	}
	res, err := dockerfile2llb.Dockerfile2LLB(r.u.ctx, o.source.Data, opt)
	if err != nil {
		return nil, err
	}
	def, err := res.State.Marshal(r.u.ctx)
	if err != nil {
		return nil, err
	}
	img := *res.Image
	out := &conversion{def: def.ToPB(), platform: platforms.Normalize(img.Platform), epoch: res.Epoch}
	img.RootFS = ocispecs.RootFS{Type: "layers"}
	if out.config, err = json.Marshal(img); err != nil {
		return nil, err
	}
	out.sbom, err = r.scan(o.client, res)
	return out, err
}

// instructions counts those of the Dockerfile; 0 if it cannot be parsed, which
// the frontend says better.
func (r *run) instructions() int {
	o := r.outline()
	if o == nil {
		return 0
	}
	n := len(o.args)
	for _, s := range o.dockerfile.stages {
		n += 1 + len(s.Commands)
	}
	return n
}

// gateway is the world of this run.
func (r *run) gateway(opts map[string]string) (*gateway, error) {
	u := r.u
	g := &gateway{
		opts: maps.Clone(opts), build: u.opt.Platform, image: r.image, layout: r.layoutImage, remote: r.remoteRef, metadata: r.sourceMetadata,
		locals: map[string]func(string) ([]byte, error){dockerfileName: u.readBeside},
		inputs: make(map[string]llb.State),
		caps:   u.caps,
	}
	switch {
	case !u.remoteContext():
		g.locals[mainContext] = dirReader(u.files, u.cfg.Context.Value)
	case u.localDockerfile():
		g.opts["dockerfilekey"] = dockerfileName
		fallthrough
	default:
		g.opts[mainContext] = u.cfg.Context.Value
		if dir := u.cfg.Context.Subdir; dir != "" {
			g.opts["contextsubdir"] = dir
		}
	}
	if attrs, ok := u.sbomAttrs(); ok {
		g.opts["attest:sbom"] = sbomOpt(attrs)
	}
	if !r.implicit {
		g.opts["platform"] = platforms.FormatAll(r.platform)
	}
	for _, name := range slices.Sorted(maps.Keys(u.cfg.Contexts)) {
		c := u.cfg.Contexts[name]
		key, err := contextName(name)
		if err != nil {
			continue // has been reported
		}
		switch c.Kind {
		case config.ContextDir:
			g.opts["context:"+key] = "local:" + namedPrefix + name
			g.locals[namedPrefix+name] = dirReader(u.files, c.Value)
		case config.ContextOCILayout:
			dir, value, err := u.layout(c.Value)
			if err != nil {
				return nil, &layoutError{context: name, err: err}
			}
			if r.layouts == nil {
				r.layouts = make(map[string]string)
			}
			r.layouts[layoutStore(dir)] = dir
			g.opts["context:"+key] = value
		case config.ContextImage:
			g.opts["context:"+key] = "docker-image://" + imageRef(c)
		case config.ContextTarget:
			if err := g.link(name, key, u.links[name]); err != nil {
				return nil, err
			}
		default:
			g.opts["context:"+key] = c.Value
		}
	}
	return g, nil
}

// link hands the results of another target to the frontend as a named context.
func (g *gateway) link(name, key string, to *unit) error {
	for _, r := range to.runs {
		input := "target:" + name
		contextKey := "context:" + key
		if len(to.runs) > 1 {
			id := platforms.FormatAll(r.platform)
			input += "::" + id
			contextKey += "::" + id
		}
		g.opts[contextKey] = "input:" + input
		meta, err := json.Marshal(map[string][]byte{exptypes.ExporterImageConfigKey: r.converted.config})
		if err != nil {
			return err
		}
		g.opts["input-metadata:"+input] = string(meta)
		if g.inputs[input], err = r.graph.state(); err != nil {
			return err
		}
	}
	return nil
}

// readBeside reads the Dockerfile and the ignore file that belongs to it. The
// frontend knows the Dockerfile by the name that locations carry, wherever and
// whatever it is.
func (u *unit) readBeside(name string) ([]byte, error) {
	if u.cfg.DockerfileInline != nil {
		if name == u.name {
			u.src = newSource(u.name, []byte(*u.cfg.DockerfileInline))
			return u.src.data, nil
		}
		return nil, errNoFile
	}
	switch {
	case urlutil.IsHTTPURL(u.cfg.Dockerfile):
		if name != u.name {
			return nil, errNoFile
		}
		data, err := u.readURL(u.cfg.Dockerfile)
		if err == nil {
			u.src = newSource(u.name, data)
		}
		return data, err
	case name == u.name:
		data, err := u.files.get(u.cfg.Dockerfile)
		if err != nil {
			return nil, &dockerfileError{err}
		}
		u.src = newSource(u.name, data)
		return data, nil
	case name == u.name+".dockerignore":
		return u.files.get(u.cfg.Dockerfile + ".dockerignore")
	case path.Base(name) == strings.ToLower(dockerui.DefaultDockerfileName):
		// What is missing under its usual name may have the old one.
		data, err := u.files.get(filepath.Join(filepath.Dir(u.cfg.Dockerfile), path.Base(name)))
		if err == nil {
			u.src = newSource(u.name, data)
		}
		return data, err
	}
	return nil, errNoFile
}

// checkSyntax looks at the frontend that a Dockerfile asks for. There is one
// here; a request for any of its versions is a request for it.
func (r *run) checkSyntax(text []byte) error {
	if arg, ok := r.u.cfg.Args["BUILDKIT_SYNTAX"]; ok {
		ref, _, _ := strings.Cut(strings.TrimSpace(arg), " ")
		if !knownSyntax(ref) {
			return &syntaxError{ref: ref}
		}
		return nil
	}
	if ref, _, at, ok := parser.DetectSyntax(text); ok && !knownSyntax(ref) {
		return &syntaxError{ref: ref, at: at}
	}
	return nil
}

func knownSyntax(ref string) bool {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return false
	}
	switch named.Name() {
	case "docker.io/docker/dockerfile", "docker.io/docker/dockerfile-upstream", "docker.io/moby/dockerfile":
		return true
	}
	return false
}

// frontendOpts says what the target wants in the frontend's words. What makes no
// sense is reported where it is written.
func (u *unit) frontendOpts() map[string]string {
	t := u.cfg
	opts := map[string]string{"filename": u.name, "target": t.Stage}
	for k, v := range t.Args {
		opts["build-arg:"+k] = v
	}
	for k, v := range t.Labels {
		opts["label:"+k] = v
	}
	switch {
	case t.NoCache:
		opts["no-cache"] = ""
	case len(t.NoCacheFilter) > 0:
		opts["no-cache"] = strings.Join(t.NoCacheFilter, ",")
	}
	switch t.Network {
	case "", "default":
	case "none", "host":
		opts["force-network-mode"] = t.Network
	default:
		u.errorf(t.At("network"), "Unknown network mode", "%q is none of default, none and host.", t.Network)
	}
	u.resourceOpts(opts)
	if several, err := strconv.ParseBool(t.Args["BUILDKIT_MULTI_PLATFORM"]); err == nil && !several && len(t.Platforms) > 1 {
		u.errorf(t.At("platforms"), "Too many platforms", "BUILDKIT_MULTI_PLATFORM=%s asks for one platform, and there are %d.", t.Args["BUILDKIT_MULTI_PLATFORM"], len(t.Platforms))
	}
	for _, name := range t.Platforms {
		if _, err := platforms.Parse(name); err != nil {
			u.errorf(t.At("platforms"), "Invalid platform", "%q: %v. A platform is written as linux/amd64 or linux/arm/v7.", name, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.Contexts)) {
		if _, err := contextName(name); err != nil {
			u.errorf(u.contextRange(name), "Invalid context name", "%q cannot be the name of a context: %v.", name, err)
		}
	}
	return opts
}

func (u *unit) resourceOpts(opts map[string]string) {
	t := u.cfg
	if t.ShmSize != "" {
		if n, err := units.RAMInBytes(t.ShmSize); err != nil {
			u.errorf(t.At("shm-size"), "Invalid size", "%q: %v. A size is written as 64m or 1g.", t.ShmSize, err)
		} else {
			opts["shm-size"] = strconv.FormatInt(n, 10)
		}
	}
	for _, l := range t.Ulimits {
		if _, err := units.ParseUlimit(l); err != nil {
			u.errorf(t.At("ulimits"), "Invalid limit", "%q: %v. A limit is written as nofile=1024:2048.", l, err)
		}
	}
	for name, value := range t.Resources {
		// The frontend knows memory-swap as memswap and cpu-shares as cpushares.
		opts[strings.ReplaceAll(strings.Replace(name, "memory-", "mem-", 1), "-", "")] = value
	}
	if len(t.Ulimits) > 0 {
		opts["ulimit"] = strings.Join(t.Ulimits, ",")
	}
	var hosts []string
	for _, host := range slices.Sorted(maps.Keys(t.ExtraHosts)) {
		for _, addr := range strings.Split(t.ExtraHosts[host], ",") {
			if net.ParseIP(addr) == nil || strings.ContainsAny(host, `,="`) {
				u.errorf(t.At("extra-hosts"), "Invalid host", "%s=%s: the address must be an IP address.", host, addr)
			}
			hosts = append(hosts, host+"="+addr)
		}
	}
	if len(hosts) > 0 {
		opts["add-hosts"] = strings.Join(hosts, ",")
	}
}

// remoteContext reports whether the main context is a repository, or lies behind a
// URL.
func (u *unit) remoteContext() bool {
	return u.cfg.Context.Kind == config.ContextGit || u.cfg.Context.Kind == config.ContextHTTP
}

// localDockerfile reports whether the Dockerfile is not part of the main context,
// which is a remote one.
func (u *unit) localDockerfile() bool {
	return u.cfg.DockerfileInline != nil || filepath.IsAbs(u.cfg.Dockerfile) || urlutil.IsHTTPURL(u.cfg.Dockerfile)
}

// checkContexts sees to it that the build contexts are there and of a kind that
// can be used.
func (u *unit) checkContexts() {
	c := u.cfg.Context
	u.checkContext(c, "the context", u.cfg.At("context"))
	if c.Kind == config.ContextTarget || c.Kind == config.ContextImage || c.Kind == config.ContextOCILayout {
		u.errorf(u.cfg.At("context"), "Invalid build context",
			"The main context must be a directory. Make %s one of the contexts, and use its name in the Dockerfile.", c.Raw)
	}
	for _, name := range slices.Sorted(maps.Keys(u.cfg.Contexts)) {
		u.checkContext(u.cfg.Contexts[name], fmt.Sprintf("the context %q", name), u.contextRange(name))
	}
}

func (u *unit) checkContext(c config.Context, what string, at *hcl.Range) {
	if c.Kind != config.ContextDir {
		return
	}
	info, err := u.opt.Stat(c.Value)
	switch {
	case err != nil:
		u.errorf(at, "Build context not found", "The directory of %s, %s, cannot be used: %s.", what, u.files.name(c.Value), reason(err))
	case !info.IsDir():
		u.errorf(at, "Build context is not a directory", "%s is %s, which is a file.", upperFirst(what), u.files.name(c.Value))
	}
}

// imageRef is the reference of an image context.
func imageRef(c config.Context) string { return strings.TrimPrefix(c.Value, "docker-image://") }

// normalRef is a reference with everything that may be left out.
func normalRef(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ""
	}
	return reference.TagNameOnly(named).String()
}
