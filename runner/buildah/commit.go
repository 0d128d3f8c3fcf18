//go:build linux

package buildah

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	digest "github.com/opencontainers/go-digest"
	imgspec "github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	cmanifests "go.podman.io/common/libimage/manifests"
	"go.podman.io/image/v5/manifest"
	is "go.podman.io/image/v5/storage"

	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

// Adopt makes the layers that an image of snapshots will have.
func (e *Engine) Adopt(ctx context.Context, spec runner.ImageSpec) error {
	_, _, err := e.imageLayers(ctx, spec)
	return err
}

// Commit makes an image of snapshots.
func (e *Engine) Commit(ctx context.Context, spec runner.ImageSpec) (*runner.Image, error) {
	// An image that is there keeps its layers from being removed, so nothing but
	// their digests is needed to find it.
	if layers, ok, err := e.knownLayers(ctx, spec); err != nil {
		return nil, err
	} else if ok {
		if d, err := newDraft(spec, layers); err != nil || e.stands(d, len(ownLayers(spec))) {
			return d.image(spec), err
		}
	}
	layers, top, err := e.imageLayers(ctx, spec)
	if err != nil {
		return nil, err
	}
	d, err := newDraft(spec, layers)
	if err != nil {
		return nil, err
	}
	if err := e.durable.sync(); err != nil {
		return nil, err
	}
	if err := e.createImage(top, d); err != nil {
		return nil, vanished(err)
	}
	e.log.Debug("image", "id", d.id(), "layers", len(layers))
	return d.image(spec), nil
}

// draft is what an image will be recorded as.
type draft struct {
	layers           []imageLayer
	config, manifest []byte
	created          time.Time
}

func newDraft(spec runner.ImageSpec, layers []imageLayer) (d draft, err error) {
	d.layers = layers
	if d.config, d.created, err = imageConfig(spec, layers); err != nil {
		return d, err
	}
	d.manifest, err = imageManifest(spec, d.config, layers)
	return d, err
}

func (d *draft) id() string { return digest.FromBytes(d.config).Encoded() }

func (d *draft) image(spec runner.ImageSpec) *runner.Image {
	img := &runner.Image{
		ID: digest.FromBytes(d.config), Digest: digest.FromBytes(d.manifest), MediaType: manifest.GuessMIMEType(d.manifest),
		ManifestSize: int64(len(d.manifest)), Layers: len(d.layers), Platform: spec.Platform,
	}
	for _, l := range d.layers {
		img.Size += l.Size
	}
	return img
}

// knownLayers are the layers that imageLayers would give, if it would only have to
// look them up: their digests are known. Whether they are there is not asked.
func (e *Engine) knownLayers(ctx context.Context, spec runner.ImageSpec) ([]imageLayer, bool, error) {
	below, layers, err := e.knownBase(ctx, spec)
	if err != nil {
		return nil, false, err
	}
	for _, s := range ownLayers(spec) {
		l, ok := e.digested(clampedOn(below, spec.Clamp), s)
		if !ok {
			return nil, false, nil
		}
		layers = append(layers, l)
		below = s
	}
	return layers, true, nil
}

// baseChain is what baseLayers gives.
type baseChain struct {
	top    runner.Snapshot
	layers []imageLayer
}

// knownBase is baseLayers, looked up once for all images that build on a base.
func (e *Engine) knownBase(ctx context.Context, spec runner.ImageSpec) (runner.Snapshot, []imageLayer, error) {
	if spec.Base == nil {
		return "", nil, nil
	}
	e.mu.Lock()
	known, ok := e.bases[spec.Base.ConfigDigest]
	e.mu.Unlock()
	if !ok {
		var err error
		if known.top, known.layers, err = e.baseLayers(ctx, spec); err != nil {
			return "", nil, err
		}
		e.mu.Lock()
		e.bases[spec.Base.ConfigDigest] = known
		e.mu.Unlock()
	}
	return known.top, slices.Clip(known.layers), nil
}

// baseLayers gives the topmost layer of the image that a spec builds on, and all
// of its layers.
func (e *Engine) baseLayers(ctx context.Context, spec runner.ImageSpec) (top runner.Snapshot, layers []imageLayer, err error) {
	if spec.Base == nil {
		return "", nil, nil
	}
	if top, err = e.base(ctx, spec.Base); err != nil {
		return "", nil, err
	}
	layers, err = e.layersOf(spec.Base, string(top))
	return top, layers, err
}

// imageLayers gives the layers of the base and those made of the spec's
// snapshots, and the ID of the topmost.
func (e *Engine) imageLayers(ctx context.Context, spec runner.ImageSpec) (layers []imageLayer, top string, err error) {
	below, layers, err := e.baseLayers(ctx, spec)
	if err != nil {
		return nil, "", err
	}
	top = string(below)
	for _, s := range ownLayers(spec) {
		l, err := e.adopt(ctx, top, below, s, spec.Clamp)
		if err != nil {
			return nil, "", err
		}
		layers = append(layers, l)
		top, below = l.ID, s
	}
	return layers, top, nil
}

// ownLayers are the snapshots that become layers above the base.
func ownLayers(spec runner.ImageSpec) []runner.Snapshot {
	if spec.Squash && len(spec.Layers) > 1 {
		return spec.Layers[len(spec.Layers)-1:]
	}
	return spec.Layers
}

// layersOf lists the layers of a base image, lowest first.
func (e *Engine) layersOf(base *planner.BaseImage, top string) ([]imageLayer, error) {
	var out []imageLayer
	for id := top; id != ""; {
		l, err := e.store.Layer(id)
		if err != nil {
			return nil, fmt.Errorf("reading the layers of %s: %w", base.Ref, vanished(err))
		}
		out = append(out, imageLayer{ID: l.ID, DiffID: l.UncompressedDigest, Size: l.UncompressedSize})
		id = l.Parent
	}
	slices.Reverse(out)
	if len(out) != len(base.DiffIDs) {
		return nil, fmt.Errorf("the base image %s has %d layers in the store and %d in its configuration", base.Ref, len(out), len(base.DiffIDs))
	}
	for i, d := range base.DiffIDs {
		out[i].DiffID = d // a layer that was pulled in chunks does not know its own
	}
	return out, nil
}

// imageConfig completes the frontend's configuration: layers, and the times of
// the history.
func imageConfig(spec runner.ImageSpec, layers []imageLayer) ([]byte, time.Time, error) {
	var img dockerspec.DockerOCIImage
	if err := json.Unmarshal(spec.Config, &img); err != nil {
		return nil, time.Time{}, fmt.Errorf("the frontend's image configuration: %w", err)
	}
	img.RootFS = ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	for _, l := range layers {
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, l.DiffID)
	}
	own := len(spec.Layers)
	if spec.Squash && own > 1 {
		squashHistory(img.History)
		own = 1
	}
	img.History = completeHistory(img.History, len(layers))
	stampHistory(img.History, spec.Created, len(layers)-own)
	for _, h := range slices.Backward(img.History) {
		if h.Created != nil {
			img.Created = h.Created
			break
		}
	}
	raw, err := marshalConfig(img, spec.Format)
	var created time.Time
	if img.Created != nil {
		created = *img.Created
	}
	return raw, created, err
}

func marshalConfig(img dockerspec.DockerOCIImage, format string) ([]byte, error) {
	if format == planner.FormatDocker {
		// An image's ID is the digest of its configuration, and an ID has one
		// manifest that counts. Without a difference here, of two images that differ
		// only in their format the one that is made last would decide for both.
		return json.Marshal(struct {
			dockerspec.DockerOCIImage
			DockerVersion string `json:"docker_version"`
		}{img, "zbuild"})
	}
	if len(img.History) == 0 {
		// As BuildKit has it: an image that nothing happened to says so.
		return json.Marshal(struct {
			dockerspec.DockerOCIImage
			History []ocispecs.History `json:"history"`
		}{img, nil})
	}
	return json.Marshal(img)
}

// squashHistory leaves one entry with a layer among those of this build, the
// last; those of the base have a time already.
func squashHistory(history []ocispecs.History) {
	kept := false
	for i := len(history) - 1; i >= 0 && history[i].Created == nil; i-- {
		if !history[i].EmptyLayer {
			history[i].EmptyLayer = kept
			kept = true
		}
	}
}

// completeHistory makes the history speak of as many layers as there are: some
// images have none, or too short a one.
func completeHistory(history []ocispecs.History, layers int) []ocispecs.History {
	n := 0
	for i := range history {
		if history[i].EmptyLayer {
			continue
		}
		n++
		if n > layers {
			history[i].EmptyLayer = true
		}
	}
	var missing []ocispecs.History
	for ; n < layers; n++ {
		missing = append(missing, ocispecs.History{Comment: "zbuild: no history is known of this layer"})
	}
	return append(missing, history...)
}

// stampHistory gives the entries that have no time that of their layer, or for
// one without a layer of the layer before it; so the same steps give the same
// image, whenever it is committed.
func stampHistory(history []ocispecs.History, created []time.Time, base int) {
	if len(created) == 0 {
		var last *time.Time
		for i := range history {
			if history[i].Created == nil {
				history[i].Created = last
			}
			last = history[i].Created
		}
		return
	}
	now := created[0]
	layer := -base
	for i := range history {
		h := &history[i]
		if !h.EmptyLayer {
			if layer >= 0 && layer < len(created) && h.Created == nil {
				now = created[layer]
			}
			layer++
		}
		if h.Created == nil {
			t := now.UTC()
			h.Created = &t
		}
	}
}

// imageManifest describes the layers as they lie in the store, uncompressed.
func imageManifest(spec runner.ImageSpec, config []byte, layers []imageLayer) ([]byte, error) {
	if spec.Format == planner.FormatDocker {
		m := manifest.Schema2{
			SchemaVersion: 2, MediaType: manifest.DockerV2Schema2MediaType,
			ConfigDescriptor: manifest.Schema2Descriptor{
				MediaType: manifest.DockerV2Schema2ConfigMediaType, Size: int64(len(config)), Digest: digest.FromBytes(config),
			},
			LayersDescriptors: []manifest.Schema2Descriptor{},
		}
		for _, l := range layers {
			m.LayersDescriptors = append(m.LayersDescriptors, manifest.Schema2Descriptor{
				MediaType: manifest.DockerV2SchemaLayerMediaTypeUncompressed, Size: l.Size, Digest: l.DiffID,
			})
		}
		return json.Marshal(m)
	}
	m := ocispecs.Manifest{
		Versioned: imgspec.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest,
		Config: ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageConfig, Size: int64(len(config)), Digest: digest.FromBytes(config)},
		Layers: []ocispecs.Descriptor{}, Annotations: spec.Annotations,
	}
	for _, l := range layers {
		m.Layers = append(m.Layers, ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Size: l.Size, Digest: l.DiffID})
	}
	return json.Marshal(m)
}

// Index makes a list of images for several platforms.
func (e *Engine) Index(ctx context.Context, images []*runner.Image, format string) (*runner.Image, error) {
	list := cmanifests.Create()
	out := &runner.Image{Index: true}
	for _, img := range images {
		ref, err := is.Transport.ParseStoreReference(e.store, "@"+img.ID.Encoded())
		if err != nil {
			return nil, err
		}
		d, err := list.Add(ctx, e.system, ref, false)
		if err != nil {
			return nil, fmt.Errorf("adding %s to the list: %w", platforms.FormatAll(img.Platform), vanished(err))
		}
		p := img.Platform
		err = errors.Join(list.SetOS(d, p.OS), list.SetArchitecture(d, p.Architecture))
		if p.Variant != "" {
			err = errors.Join(err, list.SetVariant(d, p.Variant))
		}
		if p.OSVersion != "" {
			err = errors.Join(err, list.SetOSVersion(d, p.OSVersion))
		}
		if err != nil {
			return nil, err
		}
		out.Layers += img.Layers
		out.Size += img.Size
	}
	kind := ocispecs.MediaTypeImageIndex
	if format == planner.FormatDocker {
		kind = manifest.DockerV2ListMediaType
	}
	raw, err := list.Serialize(kind)
	if err != nil {
		return nil, err
	}
	out.Digest, out.MediaType, out.ManifestSize = digest.FromBytes(raw), kind, int64(len(raw))
	out.ID = out.Digest
	if e.hasParts(out.ID.Encoded(), listKeys) {
		return out, nil // the same list of the same images, and all of it
	}
	done, err := e.proc.beginImage(out.ID.Encoded(), listKeys...)
	if err != nil {
		return nil, err
	}
	defer done()
	if _, err := list.SaveToImage(e.store, out.ID.Encoded(), nil, kind); err != nil {
		return nil, fmt.Errorf("saving the list: %w", vanished(err))
	}
	return out, nil
}

// Tag gives an image its names.
func (e *Engine) Tag(_ context.Context, image *runner.Image, names []string) error {
	full := make([]string, 0, len(names))
	for _, n := range names {
		name, err := storeName(n)
		if err != nil {
			return err
		}
		full = append(full, name)
	}
	// Even names that are there already would be written down anew, and synced.
	if img, err := e.store.Image(image.ID.Encoded()); err == nil && !slices.ContainsFunc(full, func(n string) bool { return !slices.Contains(img.Names, n) }) {
		return nil
	}
	if err := e.store.AddNames(image.ID.Encoded(), full); err != nil {
		return fmt.Errorf("tagging %s: %w", strings.Join(full, ", "), vanished(err))
	}
	return nil
}
