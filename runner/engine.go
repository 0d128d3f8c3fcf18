package runner

import (
	"context"
	"errors"
	"io"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/zbuild/zbuild/internal/pack"
	"github.com/zbuild/zbuild/internal/source"
	"github.com/zbuild/zbuild/internal/sshagent"
	"github.com/zbuild/zbuild/planner"
)

// ErrVanished is part of an error if something that was in the store a moment ago
// has been removed by somebody else. What is missing can be made again.
var ErrVanished = errors.New("it was removed from the store meanwhile")

// ErrInUse is part of an error if something stays in the store because somebody else
// uses it.
var ErrInUse = errors.New("it is in use")

// Snapshot names the frozen file tree that a step left behind, in the engine's
// own terms. The empty Snapshot is the empty tree ("scratch").
type Snapshot string

// Input is what one of a step's inputs stands for when the step runs: either a
// snapshot of an earlier step, or a directory of the host.
type Input struct {
	Snapshot Snapshot
	// Local is set when the input is a build context on this host; Snapshot is
	// then empty.
	Local *planner.Local
}

// Job is one step, ready to run: all of its inputs exist.
type Job struct {
	Step   *planner.Step
	Inputs []Input // parallel to Step.Inputs
	// Stdout and Stderr receive what a RUN prints, as it prints it.
	Stdout, Stderr io.Writer
	// Idle runs fn, in which the step does nothing but wait for others; another step
	// may run meanwhile. Nil means that nobody cares.
	Idle func(fn func() error) error
	// List lists what is selected of a build context, as it is, or as it was when the
	// step's key was made. Nil means that nobody does.
	List func(context.Context, source.Tree, source.Selection) (*source.Listing, error)
	// Settled is called when all has been copied that the step takes of build
	// contexts, and before anything is made of it. The step ends with its error, which
	// says that files were changed meanwhile. If exactly what one of List's listings
	// says was copied, and nothing else, the listing spares looking at the files again.
	// Nil means that nobody cares.
	Settled func(ctx context.Context, exactly *source.Listing) error
	// Share gives the snapshot that key stands for, from this run or an earlier one, and
	// has it made if there is none. name says to people what it is. An error is the one of fill.
	// Nil means that nothing is shared.
	Share func(ctx context.Context, key digest.Digest, name string, fill func() (Snapshot, error)) (Snapshot, error)
	// Afresh has a directory of the cache mount of that name emptied, if the build takes
	// nothing of what is kept in it and nobody in the build has had it yet. An error is
	// the one of empty. Nil means that all is kept.
	Afresh func(name, dir string, empty func() error) error
	// Secret gives the value of a secret by its id. The value is handed to the
	// process that asks for it and to nothing else. An error that satisfies
	// errors.Is(err, fs.ErrNotExist) says that nobody declared the secret.
	Secret func(id string) ([]byte, error)
	// Agent gives an SSH agent by its id, as Secret does with a secret.
	Agent func(id string) (*sshagent.Agent, error)
}

// ImageSpec says what an image is made of.
type ImageSpec struct {
	// Layers are the snapshots whose differences are the image's layers above the base,
	// lowest first; the last one is what the image shows.
	Layers []Snapshot
	// Base is the image that the layers lie on; nil for scratch.
	Base *planner.BaseImage
	// Config is the image configuration as the frontend made it, without layers.
	Config   []byte
	Platform ocispecs.Platform
	// Format is planner.FormatOCI or planner.FormatDocker.
	Format string
	// Squash makes one layer of everything above the base.
	Squash bool
	// Created has the time of each of Layers.
	Created []time.Time
	// Clamp is set if no file of Layers may be younger.
	Clamp *time.Time
	// Annotations are those of the manifest, for an image in the store.
	Annotations map[string]string
}

// Image is an image in the engine's store.
type Image struct {
	// ID is the digest of the image's configuration, or of its index.
	ID digest.Digest
	// Digest, MediaType and ManifestSize (in bytes) are those of its manifest or
	// index.
	Digest       digest.Digest
	MediaType    string
	ManifestSize int64

	Layers   int
	Size     int64 // bytes of its layers, uncompressed
	Platform ocispecs.Platform
	// Index says that this is a list of images for several platforms.
	Index bool
}

// Engine does the work of steps and keeps what they leave. Every method may be
// called from several goroutines at once; a call that returns an error leaves
// nothing behind.
type Engine interface {
	// Do runs one step over its inputs and returns a snapshot per output of the
	// step. A process that ends with a status other than zero is an *ExitError.
	Do(ctx context.Context, job Job) ([]Snapshot, error)
	// Use says that snapshots are in use from now on: what Keep names and what Do
	// leaves is spared by every prune, in this process or another, until done is
	// called. It waits for nobody.
	Use(ctx context.Context) (done func(), err error)
	// Keep names snapshots that shall stay. It does not say whether they are there.
	Keep(s ...Snapshot)
	// Lease makes this process the only one of the store's that does what key stands
	// for, until release is called or the process ends, however it ends. If another
	// one has the lease ok is false. It does not wait.
	Lease(key digest.Digest) (release func(), ok bool)
	// Content digests a selection of a snapshot: paths, types, modes, owners, link
	// targets, extended attributes and bytes, but no times. If the selection is
	// nothing, the error is a *source.NotFoundError.
	Content(ctx context.Context, s Snapshot, sel source.Selection) (digest.Digest, error)
	// Has reports whether a snapshot of an earlier run is still whole.
	Has(ctx context.Context, s Snapshot) bool
	// Discard gives up snapshots that nothing refers to any more.
	Discard(ctx context.Context, s ...Snapshot) error
	// Adopt does what Commit would have to do for the snapshots that an image will be
	// made of, as far as they are known.
	Adopt(ctx context.Context, spec ImageSpec) error
	// Commit makes an image of snapshots. It has no name yet.
	Commit(ctx context.Context, spec ImageSpec) (*Image, error)
	// Index makes a list of images for several platforms, in planner.FormatOCI or
	// planner.FormatDocker. It has no name yet.
	Index(ctx context.Context, images []*Image, format string) (*Image, error)
	// Tag gives an image its names, taking them from whatever had them before.
	Tag(ctx context.Context, image *Image, names []string) error
	// Pack gives what an image is made of, ready to be read, and makes none in the
	// store. What it gives can be read while the snapshots are in use.
	Pack(ctx context.Context, spec ImageSpec) (*pack.Image, error)
	// Layer gives what lies between two snapshots, ready to be read while they are in
	// use.
	Layer(ctx context.Context, below, s Snapshot) (pack.Layer, error)
	// Unpack makes a snapshot of a layer on another snapshot. The layer may come
	// from anywhere; nothing of it is seen unless all of it is what it should be.
	Unpack(ctx context.Context, below Snapshot, l pack.Layer) (Snapshot, error)
	// View gives a directory that shows a snapshot, until done is called. Nobody
	// may write to it.
	View(ctx context.Context, s Snapshot) (dir string, done func(), err error)
	Registry
	// Close releases what the engine holds.
	Close() error
}

// Registry is the way to registries, with the credentials and the configuration
// that the engine was opened with.
type Registry interface {
	// Upload copies a bundle to a repository, where it can be had by its digest
	// alone. What is there already is not copied again. insecure, here and below, allows
	// plain HTTP and unknown certificates.
	Upload(ctx context.Context, b *pack.Bundle, repository string, insecure bool) error
	// Publish gives a bundle that was uploaded to the name's repository that name.
	Publish(ctx context.Context, b *pack.Bundle, name string, insecure bool) error
	// Fetch opens what a name stands for.
	Fetch(ctx context.Context, name string, insecure bool) (pack.Source, error)
}
