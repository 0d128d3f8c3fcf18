// Package stepcache is the form in which the results of steps travel between
// machines: an OCI image manifest whose layers are those that steps left, and a
// configuration that says which step left which. docs/architecture.md describes
// it.
//
// What it reads comes from elsewhere and is not trusted to be well-formed: it is
// bounded and checked before anybody sees it. Whether it says the truth is a
// matter of where it comes from.
package stepcache

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// ConfigType is the media type of a cache's configuration.
	ConfigType = "application/vnd.zbuild.cache.config.v1+json"
	// ArtifactType is that of its manifest as an artifact.
	ArtifactType = "application/vnd.zbuild.cache.v1"
	// InlineKey is the field of an image's configuration that has its records.
	InlineKey = "zbuild.cache.v1"

	// MaxConfig is how long a configuration or manifest may be, in bytes.
	MaxConfig  = 32 << 20
	maxRecords = 200_000
	maxOutputs = 1000
)

// Layer is a layer that some step left: what differs from the tree that the step
// built on.
type Layer struct {
	DiffID digest.Digest `json:"diffID"`
	Size   int64         `json:"size"` // bytes of its tar, uncompressed
}

// Record says what a step left.
type Record struct {
	Key digest.Digest `json:"key"`
	// Step is the instruction, for people.
	Step    string    `json:"step,omitempty"`
	Created time.Time `json:"created,omitzero"`
	// Outputs has a layer per output of the step, as an index into Config.Layers.
	Outputs []int `json:"outputs,omitempty"`
	// SameAs is the key of another record that has the result.
	SameAs digest.Digest `json:"sameAs,omitempty"`
	// Rest is what is left of the key without what the step takes of other steps, Taken
	// the contents of that. A step with the same rest that takes the same leaves the same.
	Rest  digest.Digest   `json:"rest,omitempty"`
	Taken []digest.Digest `json:"taken,omitempty"`
}

func (r *Record) valid() bool {
	optional := []digest.Digest{r.SameAs, r.Rest}
	return r.Key.Validate() == nil && len(r.Outputs) <= maxOutputs && len(r.Taken) <= maxOutputs &&
		!slices.ContainsFunc(optional, func(d digest.Digest) bool { return d != "" && d.Validate() != nil }) &&
		!slices.ContainsFunc(r.Taken, func(d digest.Digest) bool { return d.Validate() != nil })
}

// Config is the configuration of a cache. Its layers are parallel to those of the
// manifest.
type Config struct {
	Layers  []Layer  `json:"layers"`
	Records []Record `json:"records"`
}

// Found is a record with its layers.
type Found struct {
	Record
	Layers []FoundLayer // parallel to Record.Outputs
}

// FoundLayer is a layer and the blob that has it.
type FoundLayer struct {
	Layer
	Blob ocispecs.Descriptor
}

var (
	errForeign  = errors.New("it is neither a cache of zbuild's nor an image with one")
	errBuildKit = errors.New("BuildKit wrote it, in a form that only BuildKit reads: let each of the two have a cache under a name of its own")
)

// CheckType gives an error for what is known to be another program's cache, by the media
// type of its configuration.
func CheckType(mediaType string) error {
	if strings.HasPrefix(mediaType, "application/vnd.buildkit.cacheconfig.") {
		return errBuildKit
	}
	return nil
}

// Parse reads a cache or the records in an image, given its manifest and its
// configuration.
func Parse(manifest ocispecs.Manifest, config []byte) ([]Found, error) {
	if len(config) > MaxConfig {
		return nil, fmt.Errorf("its configuration is longer than %d bytes", MaxConfig)
	}
	var c Config
	if manifest.Config.MediaType == ConfigType {
		if err := json.Unmarshal(config, &c); err != nil {
			return nil, fmt.Errorf("its configuration: %w", err)
		}
		return resolve(c, manifest.Layers)
	}
	var image struct {
		ocispecs.Image
		Cache    *Config         `json:"zbuild.cache.v1"`
		BuildKit json.RawMessage `json:"moby.buildkit.cache.v0"`
	}
	if err := json.Unmarshal(config, &image); err != nil {
		return nil, fmt.Errorf("its configuration: %w", err)
	}
	switch {
	case image.Cache == nil && image.BuildKit != nil:
		return nil, errBuildKit
	case image.Cache == nil:
		return nil, errForeign
	}
	if len(image.Cache.Layers) == 0 || len(image.RootFS.DiffIDs) != len(image.Cache.Layers) {
		return nil, errors.New("its layers are not those that its cache speaks of")
	}
	for i := range image.RootFS.DiffIDs {
		image.Cache.Layers[i].DiffID = image.RootFS.DiffIDs[i]
	}
	return resolve(*image.Cache, manifest.Layers)
}

// resolve checks a configuration and gives records their layers.
func resolve(c Config, blobs []ocispecs.Descriptor) ([]Found, error) {
	if len(c.Layers) != len(blobs) {
		return nil, fmt.Errorf("it speaks of %d layers and has %d", len(c.Layers), len(blobs))
	}
	if len(c.Records) > maxRecords {
		return nil, fmt.Errorf("it has more than %d records", maxRecords)
	}
	for i, l := range c.Layers {
		if err := errors.Join(l.DiffID.Validate(), blobs[i].Digest.Validate()); err != nil || l.Size < 0 || blobs[i].Size < 0 {
			return nil, fmt.Errorf("its layer %d is invalid", i)
		}
	}
	out := make([]Found, 0, len(c.Records))
	for _, r := range c.Records {
		if !r.valid() {
			return nil, errors.New("it has an invalid record")
		}
		f := Found{Record: r}
		f.Step = strings.ToValidUTF8(r.Step, "?")
		for _, i := range r.Outputs {
			if i < 0 || i >= len(c.Layers) {
				return nil, errors.New("it has a record of a layer that it does not have")
			}
			f.Layers = append(f.Layers, FoundLayer{Layer: c.Layers[i], Blob: blobs[i]})
		}
		if len(f.Layers) > 0 || f.SameAs != "" {
			out = append(out, f)
		}
	}
	return out, nil
}

// Builder collects records, each key and each layer once.
type Builder[B any] struct {
	config Config
	// Blobs are parallel to the layers.
	Blobs  []B
	layers map[digest.Digest]int
	keys   map[digest.Digest]bool
}

// NewBuilder makes an empty one.
func NewBuilder[B any]() *Builder[B] {
	return &Builder[B]{layers: make(map[digest.Digest]int), keys: make(map[digest.Digest]bool)}
}

// Has reports whether there is a record for a key.
func (b *Builder[B]) Has(key digest.Digest) bool { return b.keys[key] }

// Layer adds a layer and gives its index. blob makes its blob, if the layer is
// new.
func (b *Builder[B]) Layer(l Layer, blob func() (B, error)) (int, error) {
	if i, ok := b.layers[l.DiffID]; ok {
		return i, nil
	}
	made, err := blob()
	if err != nil {
		return 0, err
	}
	i := len(b.config.Layers)
	b.layers[l.DiffID] = i
	b.config.Layers = append(b.config.Layers, l)
	b.Blobs = append(b.Blobs, made)
	return i, nil
}

// Add adds a record.
func (b *Builder[B]) Add(r Record) {
	if !b.keys[r.Key] {
		b.keys[r.Key] = true
		b.config.Records = append(b.config.Records, r)
	}
}

// Config is what has been collected.
func (b *Builder[B]) Config() Config { return b.config }
