// Package exporter says what the attributes of an output mean: the grammar that
// bake's "output" and BuildKit's exporters share. It reads nothing but the
// attributes, and does nothing with what it finds.
package exporter

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// The types of outputs.
const (
	Image     = "image"
	Registry  = "registry"
	OCI       = "oci"
	Docker    = "docker"
	Local     = "local"
	Tar       = "tar"
	CacheOnly = "cacheonly"
)

// estargz is a compression that only OCI's media types can tell of.
const estargz = "estargz"

// Types are all types, sorted.
func Types() []string {
	return []string{CacheOnly, Docker, Image, Local, OCI, Registry, Tar}
}

// Spec is what one output asks for.
type Spec struct {
	Type string
	// Names are names for the image, besides the target's tags.
	Names []string
	// Push says that the image goes to a registry, ByDigest that it gets no tag
	// there.
	Push, ByDigest bool
	// Insecure allows plain HTTP and unknown certificates.
	Insecure bool
	// Archive says that an OCI layout is one tar file and not a directory.
	Archive bool
	Image   ImageOptions
	Tree    TreeOptions
}

// ImageOptions shape an image that leaves.
type ImageOptions struct {
	// Compression is that of layers: "gzip", "estargz", "zstd" or "uncompressed".
	Compression string
	// Level is nil for the compression's own default.
	Level *int
	// Force compresses the base image's layers anew, too.
	Force bool
	// OCITypes says whether media types are OCI's or Docker's; nil means as the
	// image's format is.
	OCITypes *bool
	// Artifact makes attestations OCI artifacts; nil means the default.
	Artifact *bool
	// RewriteTimestamp lets no file be younger than SOURCE_DATE_EPOCH.
	RewriteTimestamp bool
	// Epoch is the SOURCE_DATE_EPOCH of this output; nil means the build's.
	Epoch       *Epoch
	Annotations []Annotation
}

// Annotation is one annotation and where it goes.
type Annotation struct {
	// Type is one of exptypes' Annotation constants: "manifest", "index",
	// "manifest-descriptor" or "index-descriptor".
	Type string
	// Platform narrows it down to one image of a list; nil means all.
	Platform   *ocispecs.Platform
	Key, Value string
}

// TreeOptions shape a file tree that leaves.
type TreeOptions struct {
	// Delete removes what is in the destination and not in the tree.
	Delete bool
	// Split gives each platform a directory of its own; nil means if there are
	// several.
	Split *bool
	// Source is a directory of the tree that leaves in place of all of it.
	Source string
	// AttestationPrefix comes before the names of attestations.
	AttestationPrefix string
	// Epoch is the SOURCE_DATE_EPOCH of this output; nil means the build's.
	Epoch *Epoch
}

// Epoch is what an output says of SOURCE_DATE_EPOCH.
type Epoch struct {
	// Time is nil if files keep their times, whatever the build's is.
	Time *time.Time
}

// Parse reads the attributes of an output. The error names every attribute that
// is wrong.
func Parse(kind string, attrs map[string]string) (Spec, error) {
	s := Spec{Type: kind, Archive: true, Push: kind == Registry}
	if !slices.Contains(Types(), kind) {
		return s, fmt.Errorf("there is no output of type %q", kind)
	}
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(attrs)) {
		value := attrs[key]
		if a, ok, err := exptypes.ParseAnnotationKey(key); ok || err != nil {
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", key, err))
				continue
			}
			s.Image.Annotations = append(s.Image.Annotations, Annotation{Type: a.Type, Platform: a.Platform, Key: a.Key, Value: value})
			continue
		}
		if err := s.set(key, value); err != nil {
			errs = append(errs, fmt.Errorf("%s=%s: %w", key, value, err))
		}
	}
	errs = append(errs, s.check())
	return s, errors.Join(errs...)
}

var errBool = errors.New("true or false is wanted")

func (s *Spec) set(key, value string) error {
	switch key {
	case "name":
		for _, n := range strings.Split(value, ",") {
			if n = strings.TrimSpace(n); n != "" {
				s.Names = append(s.Names, n)
			}
		}
	case "push":
		return setBool(&s.Push, value)
	case "push-by-digest":
		return setBool(&s.ByDigest, value)
	case "registry.insecure":
		return setBool(&s.Insecure, value)
	case "tar":
		if value == "" {
			return nil
		}
		return setBool(&s.Archive, value)
	case "mode":
		switch value {
		case "", "copy":
		case "delete":
			s.Tree.Delete = true
		default:
			return errors.New("the mode is copy or delete")
		}
	case "platform-split":
		return setOptional(&s.Tree.Split, value)
	case "src":
		if value == "" && s.isTree() {
			return errors.New("leave it out to export everything")
		}
		s.Tree.Source = value
	case "attestation-prefix":
		s.Tree.AttestationPrefix = value
	case "source-date-epoch":
		return s.setEpoch(value)
	default:
		return s.Image.set(key, value)
	}
	return nil
}

func (s *Spec) isTree() bool { return s.Type == Local || s.Type == Tar }

func (s *Spec) setEpoch(value string) error {
	epoch := &Epoch{}
	s.Image.Epoch, s.Tree.Epoch = epoch, epoch
	if value == "" {
		return nil
	}
	seconds, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return errors.New("seconds since 1970 are wanted")
	}
	t := time.Unix(seconds, 0).UTC()
	epoch.Time = &t
	return nil
}

func (o *ImageOptions) set(key, value string) error {
	switch key {
	case "compression":
		switch value {
		case "", "gzip", "zstd", estargz, "uncompressed":
			o.Compression = value
		default:
			return errors.New("there are gzip, estargz, zstd and uncompressed")
		}
	case "compression-level":
		n, err := strconv.Atoi(value)
		if err != nil {
			return errors.New("a number is wanted")
		}
		o.Level = &n
	case "force-compression":
		return setBool(&o.Force, value)
	case "oci-mediatypes":
		return setOptional(&o.OCITypes, value)
	case "oci-artifact":
		return setOptional(&o.Artifact, value)
	case "rewrite-timestamp":
		return setBool(&o.RewriteTimestamp, value)
	}
	// As with BuildKit, what an exporter does not know is none of its business.
	return nil
}

// check looks at attributes that do not go together.
func (s *Spec) check() error {
	o := &s.Image
	var errs []error
	if o.Level != nil {
		most := 9
		if o.Compression == "zstd" {
			most = 22
		}
		if *o.Level < 0 || *o.Level > most {
			errs = append(errs, fmt.Errorf("compression-level=%d: it is from 0 to %d", *o.Level, most))
		}
	}
	docker := o.OCITypes != nil && !*o.OCITypes
	if docker && o.Artifact != nil && *o.Artifact {
		errs = append(errs, errors.New("oci-artifact=true conflicts with oci-mediatypes=false"))
	}
	if docker && o.Compression == estargz {
		errs = append(errs, errors.New("compression=estargz conflicts with oci-mediatypes=false"))
	}
	if docker && slices.ContainsFunc(o.Annotations, func(a Annotation) bool { return a.Type != exptypes.AnnotationManifest }) {
		errs = append(errs, errors.New("annotations conflict with oci-mediatypes=false: Docker's media types have none"))
	}
	return errors.Join(errs...)
}

func setBool(to *bool, value string) error {
	b, err := strconv.ParseBool(value)
	if err != nil {
		return errBool
	}
	*to = b
	return nil
}

func setOptional(to **bool, value string) error {
	var b bool
	if err := setBool(&b, value); err != nil {
		return err
	}
	*to = &b
	return nil
}

// Attests reports whether attestations go with what leaves. An image in the store
// is always a plain one, and so is that of a docker archive.
func (s *Spec) Attests() bool {
	switch s.Type {
	case Image, Registry:
		return s.Push
	case OCI, Local, Tar:
		return true
	}
	return false
}

// ToStore reports whether the output leaves an image in the local store.
func (s *Spec) ToStore(dest string) bool {
	switch s.Type {
	case Image, Registry:
		return !s.ByDigest
	case Docker:
		return dest == ""
	}
	return false
}
