package runner

// Publishing comes when all has been built, and goes from what nobody sees to
// what everybody sees: blobs to registries, files, names in the store, names in
// registries. What fails on the way keeps what is visible from changing.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/zbuild/zbuild/internal/exporter"
	"github.com/zbuild/zbuild/internal/pack"
	"github.com/zbuild/zbuild/planner"
)

// pushesAtOnce is how many bundles are copied to registries at once.
const pushesAtOnce = 3

// delivery is a target whose results are all there.
type delivery struct {
	target  *planner.Target
	exports []*export
	result  *TargetResult
}

// several reports whether what leaves is in a list, or in a directory per platform: of
// several platforms it is, and of one if that is asked for.
func (d *delivery) several() bool { return several(d.target) }

// argSeveral is the argument that asks for that.
const argSeveral = "BUILDKIT_MULTI_PLATFORM"

func several(t *planner.Target) bool {
	return len(t.Results) > 1 || isTrue(t.Config.Args[argSeveral])
}

// publish lets the targets that succeeded leave. Nothing gets a name unless all
// succeeded or the run keeps going, and nothing is pushed unless all succeeded.
func (r *run) publish(ctx context.Context, result *Result, exports []*export) {
	failed := len(result.Failures) > 0
	deliveries := r.deliveries(result, exports, failed)
	if failed && !r.opt.KeepGoing {
		return
	}
	fail := func(err error) { result.Failures = append(result.Failures, err) }
	stages := []func(context.Context, *delivery) error{r.bundle, r.files, r.name}
	if !failed {
		stages = []func(context.Context, *delivery) error{r.bundle, r.upload, r.files, r.name, r.announce}
	}
	for _, stage := range stages {
		for _, err := range r.each(ctx, deliveries, stage) {
			fail(err)
		}
		if ctx.Err() != nil || len(result.Failures) > 0 && !r.opt.KeepGoing {
			return
		}
	}
	for _, d := range deliveries {
		slices.SortFunc(d.result.Outputs, func(a, b OutputResult) int { return a.order - b.order })
	}
	if len(result.Failures) == 0 {
		result.Failures = append(result.Failures, r.exportCaches(ctx, deliveries)...)
	}
	if r.opt.Provenance != "" {
		for _, d := range deliveries {
			if err := r.describe(ctx, d); err != nil {
				r.warn(nil, fmt.Errorf("the provenance of %s cannot be told: %w", d.target.Name, err))
			}
		}
	}
}

// deliveries fills in the result's targets and gives those that are complete.
func (r *run) deliveries(result *Result, exports []*export, failed bool) []*delivery {
	byTarget := make(map[*planner.Target][]*export)
	for _, x := range exports {
		byTarget[x.target] = append(byTarget[x.target], x)
	}
	for _, t := range r.plan.Targets {
		if t.Requested {
			result.Targets = append(result.Targets, TargetResult{Name: t.Name})
		}
	}
	var out []*delivery
	for i := range result.Targets {
		t := r.plan.Target(result.Targets[i].Name)
		all := byTarget[t]
		if failed && !r.opt.KeepGoing || len(all) == 0 {
			continue
		}
		if !slices.ContainsFunc(all, func(x *export) bool { return x.unit.state != unitDone }) {
			out = append(out, &delivery{target: t, exports: all, result: &result.Targets[i]})
		}
	}
	return out
}

// each does a stage for all deliveries and gives what went wrong, in their order.
// A delivery that failed takes no part in later stages.
func (r *run) each(ctx context.Context, all []*delivery, stage func(context.Context, *delivery) error) []error {
	errs := make([]error, len(all))
	var g errgroup.Group
	g.SetLimit(pushesAtOnce)
	for i, d := range all {
		if d.exports == nil {
			continue
		}
		g.Go(func() error {
			if ctx.Err() == nil {
				errs[i] = stage(ctx, d)
			}
			return nil
		})
	}
	_ = g.Wait()
	for i := range errs {
		switch {
		case errs[i] == nil:
		case ctx.Err() != nil:
			errs[i] = nil // it was stopped; that is said once
		default:
			errs[i] = fmt.Errorf("%s: %w", all[i].target.Name, errs[i])
			all[i].exports = nil
		}
	}
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// bundle makes what leaves as blobs.
func (r *run) bundle(ctx context.Context, d *delivery) error {
	for _, o := range d.exports[0].outputs {
		if !o.packs {
			continue
		}
		if err := r.bundleOutput(ctx, d, o); err != nil {
			return err
		}
	}
	return nil
}

// bundleOutput makes the bundle of one output.
func (r *run) bundleOutput(ctx context.Context, d *delivery, o *outgoing) error {
	var images []*pack.Image
	for _, x := range d.exports {
		img := x.packed[o.shape()]
		if cachesInline(d.target.Config) {
			if o.spec.Image.Compression == pack.Estargz {
				r.warn(nil, fmt.Errorf("%s: its layers are not those that its steps left, for eStargz adds to them; it has no inline cache", d.target.Name))
			} else {
				var err error
				if img, err = r.withCache(ctx, x, img); err != nil {
					return err
				}
			}
		}
		images = append(images, img)
	}
	opt := pack.Options{
		How: pack.How{
			Compression: o.spec.Image.Compression, Level: -1,
			// A registry shares layers that are the same. Archives are to be whole without
			// one, and the same whether it can be had or not.
			Keep: o.spec.Push && !o.spec.Image.Force && !o.anew,
		},
		Docker:      d.target.Config.Format == planner.FormatDocker,
		List:        d.several(),
		Annotations: o.spec.Image.Annotations,
	}
	if l := o.spec.Image.Level; l != nil {
		opt.How.Level = *l
	}
	if oci := o.spec.Image.OCITypes; oci != nil {
		opt.Docker = !*oci
	}
	if o.spec.Type != exporter.Docker { // whose archives have one image and nothing else
		opt.Attest = r.attestFor(d, o, images)
	}
	if opt.Attest != nil && opt.Docker {
		return errors.New("attestations need OCI's media types: leave oci-mediatypes=false and format=docker out")
	}
	// BuildKit's default too.
	opt.Artifact = o.spec.Image.Artifact == nil || *o.spec.Image.Artifact
	var err error
	o.bundle, err = pack.Build(ctx, r.opt.Compressor, images, opt)
	return err
}

// pushed are the outputs that go to a registry.
func (d *delivery) pushed() []*outgoing {
	var out []*outgoing
	for _, o := range d.exports[0].outputs {
		if o.spec.Push && o.bundle != nil {
			out = append(out, o)
		}
	}
	return out
}

// upload copies bundles to their repositories, where they have no name yet.
func (r *run) upload(ctx context.Context, d *delivery) error {
	for _, o := range d.pushed() {
		if len(o.names) == 0 {
			r.warn(nil, fmt.Errorf("%s has no tags, so there is nothing to push it as", d.target.Name))
		}
		err := r.uploadOutput(ctx, d, o)
		var origin *pack.OriginError
		if errors.As(err, &origin) && ctx.Err() == nil {
			r.warn(nil, fmt.Errorf("%s: %w; its layers are compressed anew, and no registry will share them with it", d.target.Name, origin))
			o.anew = true
			if err = r.bundleOutput(ctx, d, o); err == nil {
				err = r.uploadOutput(ctx, d, o)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *run) uploadOutput(ctx context.Context, d *delivery, o *outgoing) error {
	for _, repository := range repositories(o.names) {
		err := r.task("upload:"+d.target.Name+":"+repository, "pushing layers of "+d.target.Name+" to "+repository, func() ([]string, error) {
			return nil, r.opt.Engine.Upload(ctx, o.bundle, repository, o.spec.Insecure)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// repositories are the names without their tags, each once.
func repositories(names []string) []string {
	var out []string
	for _, n := range names {
		if named, err := reference.ParseNormalizedNamed(n); err == nil {
			out = append(out, named.Name())
		}
	}
	return unique(out)
}

// announce gives what was uploaded its names.
func (r *run) announce(ctx context.Context, d *delivery) error {
	for _, o := range d.pushed() {
		hash := o.bundle.Root.Descriptor.Digest.String()
		names := o.names
		if o.spec.ByDigest {
			names = nil
			for _, repository := range repositories(o.names) {
				d.result.Pushed = append(d.result.Pushed, repository+"@"+hash)
			}
		}
		for _, name := range names {
			err := r.task("push:"+name, "pushing "+name, func() ([]string, error) {
				return []string{name + "@" + hash}, r.opt.Engine.Publish(ctx, o.bundle, name, o.spec.Insecure)
			})
			if err != nil {
				return err
			}
			d.result.Pushed = append(d.result.Pushed, name)
		}
		d.result.Outputs = append(d.result.Outputs, o.result(o.bundle.Root.Descriptor, o.bundle.Config))
	}
	return nil
}

func (o *outgoing) result(d ocispecs.Descriptor, config digest.Digest) OutputResult {
	return OutputResult{order: o.order, Type: o.spec.Type, Dest: o.dest, Descriptor: d, Config: config, Names: o.names}
}

// name makes the list of a target's images and gives it its names in the store.
func (r *run) name(ctx context.Context, d *delivery) error {
	var first *outgoing
	var tags []string
	for _, o := range d.exports[0].outputs {
		if o.toStore {
			if first == nil {
				first = o
			}
			tags = append(tags, o.names...)
		}
	}
	if first == nil {
		return nil
	}
	err := r.task("name:"+d.target.Name, "naming "+d.target.Name, func() (notes []string, err error) {
		for try := 0; ; try++ {
			notes, err = r.nameOnce(ctx, d, unique(tags))
			if try == maxVanished || ctx.Err() != nil || !errors.Is(err, ErrVanished) {
				return notes, err
			}
			// Somebody removed an image that had no name yet.
			if err := r.remake(ctx, d); err != nil && !errors.Is(err, ErrVanished) {
				return nil, err
			}
		}
	})
	if img := d.result.Image; err == nil && !first.packs {
		desc := ocispecs.Descriptor{MediaType: img.MediaType, Digest: img.Digest, Size: img.ManifestSize}
		config := img.ID
		if img.Index {
			config = ""
		}
		d.result.Outputs = append(d.result.Outputs, first.result(desc, config))
	}
	return err
}

// remake makes the images of a target again.
func (r *run) remake(ctx context.Context, d *delivery) error {
	for _, x := range d.exports {
		was := x.image
		x.image = nil
		if err := r.prepare(ctx, x); err != nil {
			x.image = was // which cannot be named: the next try comes back here
			return err
		}
	}
	return nil
}

func (r *run) nameOnce(ctx context.Context, d *delivery, tags []string) ([]string, error) {
	img := d.exports[0].image
	d.result.Platforms = nil
	if len(d.exports) > 1 {
		for _, x := range d.exports {
			d.result.Platforms = append(d.result.Platforms, x.image)
		}
		list, err := r.opt.Engine.Index(ctx, d.result.Platforms, d.target.Config.Format)
		if err != nil {
			return nil, fmt.Errorf("making the list of its images: %w", err)
		}
		img = list
	}
	notes := []string{img.ID.String()}
	if len(tags) > 0 {
		if err := r.opt.Engine.Tag(ctx, img, tags); err != nil {
			return nil, err
		}
		notes = append(notes, tags...)
	}
	d.result.Image, d.result.Tags = img, tags
	return notes, nil
}

// files writes what goes to files and directories.
func (r *run) files(ctx context.Context, d *delivery) error {
	for _, o := range d.exports[0].outputs {
		var write func() error
		res := o.result(ocispecs.Descriptor{}, "")
		switch o.spec.Type {
		case exporter.OCI, exporter.Docker:
			if o.bundle == nil {
				continue
			}
			res = o.result(o.bundle.Archived(), o.bundle.Config)
			write = func() error { return r.writeImage(ctx, o) }
		case exporter.Local:
			write = func() error { return r.writeTree(ctx, d, o) }
		case exporter.Tar:
			write = func() error {
				return r.write(o.dest, func(w io.Writer) error { return r.writeTar(ctx, d, o, w) })
			}
		default:
			continue
		}
		where := o.dest
		if where == stdout {
			where = "standard output"
		}
		err := r.task("write:"+d.target.Name+":"+o.spec.Type+":"+o.dest, fmt.Sprintf("writing %s to %s", d.target.Name, where), func() ([]string, error) {
			return nil, write()
		})
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("output type=%s,dest=%s: %w", o.spec.Type, o.dest, err)
		}
		d.result.Outputs = append(d.result.Outputs, res)
	}
	return nil
}

// stdout is the destination that is no file.
const stdout = "-"

var errNoStdout = errors.New("a terminal is no place for an archive: say with dest where it is to go, or redirect standard output")

// write makes a file, or writes to standard output.
func (r *run) write(dest string, write func(io.Writer) error) error {
	if dest != stdout && dest != "" {
		return pack.WriteFile(dest, write)
	}
	if r.opt.Stdout == nil {
		return errNoStdout
	}
	return write(r.opt.Stdout)
}

func (r *run) writeImage(ctx context.Context, o *outgoing) error {
	var names []string
	for _, n := range o.names {
		full, err := pack.FullName(n)
		if err != nil {
			return err
		}
		names = append(names, full)
	}
	if o.spec.Archive {
		return r.write(o.dest, func(w io.Writer) error {
			return o.bundle.WriteArchive(ctx, w, names, o.spec.Type == exporter.Docker)
		})
	}
	if o.dest == "" || o.dest == stdout {
		return errors.New("tar=false needs a directory: say with dest where")
	}
	r.layouts.Lock() // its index is one file, which outputs may share
	defer r.layouts.Unlock()
	return o.bundle.WriteLayout(ctx, strings.TrimSuffix(o.dest, "/"), names)
}
