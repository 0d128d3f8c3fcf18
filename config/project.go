package config

import (
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2"
)

// Project is an evaluated project: what its files, its environment and the
// command line together ask for. It is immutable and inert.
type Project struct {
	// Dir is the directory that relative paths were resolved against, absolute.
	Dir string
	// Targets are the targets to build and those that they need, by name.
	Targets map[string]*Target
	// Requested are the names of the targets to build, groups and globs expanded,
	// in the order in which they were asked for.
	Requested []string
	// Groups are all groups of the project, by name, and the implied "default".
	Groups map[string]*Group
	// Listed are all targets and groups but private ones, by name; Variables are all
	// variables, in the order of the files.
	Listed    []Listed
	Variables []*Variable
	// Sources holds the text of every build file that was read, by the name that
	// a hcl.Range gives it.
	Sources map[string][]byte
	// Files are the absolute paths of all files that evaluation read or looked
	// for and did not find: a change to any of them can change the project.
	Files []string

	// Settings are the defaults of flags.
	Settings Settings
	// CommitLabels says which labels of the commit the environment wants images to
	// have. They are not among those of the targets: what asks git adds them.
	CommitLabels CommitLabels
	// Watch are the settings of watch mode that stand outside of all targets; nil
	// if there are none. They are not part of any Target's.
	Watch *Watch

	printed *printed
}

// CommitLabels are buildx's: where an image comes from (BUILDX_GIT_LABELS).
type CommitLabels struct {
	Wanted bool
	// MarkDirty marks the commit if the working tree has more than it
	// (BUILDX_GIT_CHECK_DIRTY).
	MarkDirty bool
}

// Group is a named list of targets.
type Group struct {
	Name        string
	Description string
	Targets     []string
}

// Target is what one target block asks for, with everything inherited,
// overridden and defaulted.
type Target struct {
	Name        string
	Description string
	// Requested is false for a target that is only needed by another one.
	Requested bool

	// Context is the main build context, Contexts are the named ones.
	Context  Context
	Contexts map[string]Context
	// Dockerfile is an absolute path, or a path inside a remote Context.
	Dockerfile string
	// DockerfileInline is the text of the Dockerfile; it wins over Dockerfile.
	DockerfileInline *string
	// Stage is the stage to build; empty for the last one.
	Stage     string
	Args      map[string]string
	Labels    map[string]string
	Tags      []string
	Platforms []string // empty for the platform of this machine
	Pull      PullPolicy
	NoCache   bool
	// NoCacheFilter are the stages whose cached results must not be taken.
	NoCacheFilter []string
	Outputs       []Output
	// Attest are the attestations that go with what leaves.
	Attest []Attest
	// CacheFrom and CacheTo are the caches that results of steps are taken from and
	// left in.
	CacheFrom, CacheTo []Cache
	// Network is "default", "none", "host" or empty.
	Network string
	Secrets map[string]Secret // by id
	SSH     map[string]SSH    `json:",omitempty"` // by id
	// Entitlements are the rights that steps may ask for, all of them allowed:
	// "network.host", "security.insecure", "device" or "device=NAME".
	Entitlements []string `json:",omitempty"`
	// Resources are limits on what a step may use, by the names that bake has for
	// them. Sizes are in bytes; -1 is no limit of swap.
	Resources  map[string]string `json:",omitempty"`
	ShmSize    string
	Ulimits    []string          // name=soft:hard
	ExtraHosts map[string]string // host name to address

	CacheMounts     []CacheMount
	Retries         int
	RetryDelay      time.Duration
	DefaultRegistry string
	// Format is "oci", "docker" or empty for the default.
	Format    string
	Squash    bool
	DependsOn []string
	// Call is what BuildKit's Dockerfile frontend is asked about the target instead
	// of building it: "lint", "outline", "targets" or "subrequests.describe"; empty
	// to build it.
	Call string `json:",omitempty"`
	// Watch are the target's own settings of watch mode; nil if there are none.
	Watch *Watch

	// Range is the target block's header.
	Range hcl.Range
	// Ranges says where each attribute's value was written last, by the
	// attribute's name, and also by "attribute.key" for an element of a map and
	// "secret.ID" for a secret. An attribute that was defaulted has no range. A
	// range whose file is "--set" points into the overrides, one per line.
	Ranges map[string]hcl.Range
}

// Built is the project without the targets that are only asked about (Call), as
// far as no other target is made of them. It is the project itself if there are
// none.
func (p *Project) Built() *Project {
	asked := func(name string) bool { return p.Targets[name] != nil && p.Targets[name].Call != "" }
	if !slices.ContainsFunc(slices.Collect(maps.Keys(p.Targets)), asked) {
		return p
	}
	part := *p
	part.Requested = slices.DeleteFunc(slices.Clone(p.Requested), asked)
	part.Targets = map[string]*Target{}
	var need func(string)
	need = func(name string) {
		t := p.Targets[name]
		if t == nil || part.Targets[name] != nil {
			return
		}
		if t.Call != "" {
			needed := *t
			needed.Requested, needed.Outputs = false, []Output{{Type: "cacheonly"}}
			t = &needed
		}
		part.Targets[name] = t
		for _, c := range t.Contexts {
			if c.Kind == ContextTarget {
				need(c.Value)
			}
		}
		for _, other := range t.DependsOn {
			need(other)
		}
	}
	for _, name := range part.Requested {
		need(name)
	}
	return &part
}

// At is the range of the attribute, or of the target's header where the
// attribute was not written.
func (t *Target) At(attribute string) *hcl.Range {
	if r, ok := t.Ranges[attribute]; ok {
		return &r
	}
	r := t.Range
	return &r
}

// ContextKind says what kind of thing a build context is.
type ContextKind string

// The kinds of build contexts.
const (
	ContextDir       ContextKind = "dir"        // a directory of this host
	ContextTarget    ContextKind = "target"     // the result of another target
	ContextImage     ContextKind = "image"      // an image: docker-image://
	ContextGit       ContextKind = "git"        // a git repository
	ContextHTTP      ContextKind = "http"       // a file or archive behind a URL
	ContextOCILayout ContextKind = "oci-layout" // an image in an OCI layout
)

// Context is a build context.
type Context struct {
	Kind ContextKind
	// Value is an absolute, clean path for ContextDir, the target's name for
	// ContextTarget, a reference for ContextImage, else a URL.
	Value string
	// Subdir is the directory of an archive (ContextHTTP) that is meant; empty for all
	// of it.
	Subdir string `json:",omitempty"`
	// Raw is what was written.
	Raw string
}

// PullPolicy says when a base image is fetched from its registry.
type PullPolicy string

// The pull policies, as podman and buildah define them.
const (
	PullMissing PullPolicy = "missing" // only if it is not in the local store
	PullNewer   PullPolicy = "newer"   // if the registry's differs from the local one
	PullAlways  PullPolicy = "always"
	PullNever   PullPolicy = "never"
)

// Output is one way in which a target's result leaves.
type Output struct {
	// Type is "image", "registry", "oci", "docker", "tar", "local" or "cacheonly".
	Type string
	// Dest is an absolute path on this host, where the type has one, or "-" for
	// standard output.
	Dest string
	// Attrs are the type's other attributes, with the target's annotations. What
	// they mean is said by package exporter; they have been checked.
	Attrs map[string]string
}

// Attest is an attestation that goes with an image.
type Attest struct {
	// Type is "provenance" or "sbom".
	Type string
	// Attrs are BuildKit's. Provenance has mode, version, builder-id, reproducible
	// and inline-only; an SBOM has generator, and what else there is is for that.
	Attrs map[string]string
}

// Cache is a place that holds results of steps for other machines.
type Cache struct {
	// Type is "registry", "local" or "inline".
	Type string
	// Dir is the absolute directory of a local cache.
	Dir string
	// Max asks for the results of all steps, and not only for those that the image
	// is made of.
	Max bool
	// Attrs are the type's attributes as they were written.
	Attrs map[string]string
}

// Secret says where the value of a secret comes from. It never holds the value.
type Secret struct {
	ID   string
	Env  string // name of an environment variable; empty if Path is set
	Path string // absolute path of a file
}

// SSH says which SSH agent or keys a step may use.
type SSH struct {
	ID string
	// Paths are the absolute paths of one agent's socket, or of private keys.
	// None means the agent of whoever starts the build (SSH_AUTH_SOCK).
	Paths []string
}

// CacheMount is a cache mount that every RUN of a target gets, unless it mounts
// the same path already. See RUN --mount=type=cache in the Dockerfile reference.
type CacheMount struct {
	Name    string
	Target  string
	ID      string
	Sharing string // "shared", "private" or "locked"
	UID     int
	GID     int
	Mode    uint32 // permission bits; 0755 by default
}
