//go:build linux

package buildah

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"
	graphdriver "go.podman.io/storage/drivers"
	"go.podman.io/storage/pkg/unshare"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/internal/scratch"
	"github.com/zbuild/zbuild/runner"
)

// Options say which store and which helpers to use. The zero value asks for what
// podman and buildah would use.
type Options struct {
	// Root, RunRoot and Driver place the store; empty means as configured in
	// storage.conf.
	Root, RunRoot, Driver string
	// DriverOptions are added to those of storage.conf.
	DriverOptions []string
	// Runtime is the OCI runtime's name or path; empty means the first that works.
	Runtime string
	// Isolation is "oci", "rootless", "chroot", or empty for the best that works.
	Isolation string
	// AuthFile names a file of registry credentials; empty means the usual ones.
	AuthFile string
	// PolicyFile names a signature policy; empty means the usual ones.
	PolicyFile string
	Logger     *slog.Logger
	// Fatal is told, at any moment and in any goroutine, that the store cannot be used any
	// more. It ends the process, for goroutines may wait for ever; nil is a panic.
	Fatal func(error)
}

// Engine is a runner.Engine on containers-storage.
type Engine struct {
	store  storage.Store
	native bool // layers are directories that can be linked
	fuse   bool // a program mounts layers (fuse-overlayfs); what they mean, it alone knows
	thin   bool // files of layers may have their content in another layer (metacopy)
	// volatile says that what steps write need not be on the disk when they are done;
	// the driver finds out whether the kernel can do that when it is first asked to
	// mount so, and notes it unguarded.
	volatile bool
	mounting sync.Mutex
	durable  durable
	system   *types.SystemContext
	log      *slog.Logger
	proc     *process // what this process has going, for whoever must clean up

	isolations isolations
	x32        func() bool    // whether the kernel has x32
	finding    sync.WaitGroup // has who finds that out before it is asked for

	// makingCache is held by who makes the directory of a cache mount. Between processes and
	// between RUNs the directories' lock files do it.
	makingCache sync.Mutex
	kept        kept

	patience patience
	hang     time.Duration // how long the runtime may take to end a container

	mu      sync.Mutex
	adopted map[runner.Snapshot]imageLayer // layers that this process digested
	bases   map[digest.Digest]baseChain    // by image
}

var _ runner.Engine = (*Engine)(nil)

// UnusableError says that the engine cannot work on this machine, and what would
// help. It is an installation's fault, not a build's.
type UnusableError struct {
	What string
	Fix  string
	Err  error
}

func (e *UnusableError) Error() string {
	msg := e.What
	if e.Err != nil {
		msg += ": " + e.Err.Error()
	}
	if e.Fix != "" {
		msg += "; " + e.Fix
	}
	return msg
}

func (e *UnusableError) Unwrap() error { return e.Err }

// Open opens the store, finds out how containers can be run, and clears away
// what killed processes have left. Errors are of type *UnusableError.
func Open(ctx context.Context, opt Options) (*Engine, error) {
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	store, volatile, err := openStore(opt)
	if err != nil {
		return nil, err
	}
	e := &Engine{
		store:   store,
		fuse:    usesMountProgram(store),
		thin:    overlayHas(store, "Using metacopy"),
		system:  &types.SystemContext{AuthFilePath: opt.AuthFile, SignaturePolicyPath: opt.PolicyFile},
		log:     opt.Logger,
		x32:     sync.OnceValue(hasX32),
		adopted: make(map[runner.Snapshot]imageLayer),
		bases:   make(map[digest.Digest]baseChain),

		patience: usualPatience(),
		hang:     10 * time.Second,
	}
	e.native = nativeOverlay(store) && !e.fuse
	e.isolations = isolations{opt: opt, note: func(iso isolation) error {
		e.log.Debug("isolation", "kind", iso.kind, "runtime", iso.runtime, "not", iso.why)
		if iso.kind == isolationChroot && opt.Isolation == "" {
			e.log.Warn("RUN is isolated by a chroot only, because no OCI runtime can be used: " + iso.why + ". What helps: " + runtimeAdvice(iso))
		}
		return e.proc.usesRuntime(iso.runtime)
	}}
	e.spreadLayers()
	e.keepReserve()
	if err := e.openDurable(volatile); err != nil {
		return nil, err
	}
	e.sweep(ctx)
	if err := scratch.Sweep(); err != nil {
		e.log.Warn("what killed builds have left among the temporary files cannot be removed", "error", err)
	}
	if e.proc, err = newProcess(e.processDir()); err != nil {
		return nil, &UnusableError{What: "cannot write to the store's run directory", Fix: writable(err, e.processDir()), Err: err}
	}
	e.kept.names = make(map[runner.Snapshot]bool)
	if e.kept.file, err = os.OpenFile(e.proc.path(keptName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return nil, &UnusableError{
			What: "cannot write to the store's run directory", Fix: writable(err, e.processDir()), Err: errors.Join(err, e.proc.close()),
		}
	}
	e.log.Debug("engine open", "root", store.GraphRoot(), "driver", store.GraphDriverName())
	return e, nil
}

// Do runs one step.
func (e *Engine) Do(ctx context.Context, job runner.Job) ([]runner.Snapshot, error) {
	out, err := e.do(ctx, job)
	if err != nil && !errors.Is(err, errReset) {
		if _, gone := os.Lstat(e.proc.dir); errors.Is(gone, fs.ErrNotExist) {
			err = fmt.Errorf("%w (%w)", errReset, err)
		}
	}
	return out, err
}

func (e *Engine) do(ctx context.Context, job runner.Job) ([]runner.Snapshot, error) {
	switch op := job.Step.Op.Op.(type) {
	case *pb.Op_Exec:
		return e.doExec(ctx, op.Exec, job)
	case *pb.Op_File:
		return e.doFile(ctx, op.File, job)
	case *pb.Op_Merge:
		return e.doMerge(ctx, op.Merge, job)
	case *pb.Op_Diff:
		return e.doDiff(ctx, op.Diff, job)
	case *pb.Op_Source:
		if job.Step.Image != nil {
			s, err := e.base(ctx, job.Step.Image)
			return []runner.Snapshot{s}, err
		}
		if job.Step.File != nil || job.Step.Tree != nil {
			return e.doRemote(ctx, job)
		}
	}
	return nil, fmt.Errorf("%s: the buildah engine cannot do this yet", job.Step.Name)
}

// writable says what lets a directory be written to again, if that is what is wrong.
func writable(err error, dir string) string {
	var path *fs.PathError
	switch {
	case isFull(err):
		return fmt.Sprintf("make room at %s: 'df -h' and 'df -i' say what it is short of", dir)
	case errors.Is(err, unix.EROFS):
		return fmt.Sprintf("the file system at %s is mounted read-only: remount it, or name another place with --root and --runroot", dir)
	case errors.As(err, &path) && errors.Is(path, unix.EACCES): // as against a mount that is not permitted
		return fmt.Sprintf("%s, or a directory above it, is somebody else's: name another place with --root and --runroot", dir)
	}
	return ""
}

// placeOf is which of the store's two directories an error is about.
func placeOf(err error, conf storage.StoreOptions) string {
	var p *fs.PathError
	if errors.As(err, &p) && strings.HasPrefix(p.Path, conf.RunRoot+"/") {
		return conf.RunRoot
	}
	return conf.GraphRoot
}

// openStore opens containers-storage as the options and storage.conf say. volatile
// says that they let mounts be volatile.
func openStore(opt Options) (_ storage.Store, volatile bool, err error) {
	conf, err := storage.DefaultStoreOptions()
	if err != nil {
		return nil, false, &UnusableError{What: "the configuration of containers-storage cannot be read", Err: err}
	}
	if opt.Root != "" {
		conf.GraphRoot = opt.Root
	}
	if opt.RunRoot != "" {
		conf.RunRoot = opt.RunRoot
	}
	if opt.Driver != "" && opt.Driver != conf.GraphDriverName {
		conf.GraphDriverName = opt.Driver
		conf.GraphDriverOptions = nil
	}
	conf.GraphDriverOptions = append(conf.GraphDriverOptions, opt.DriverOptions...)
	if err := mountable(conf); err != nil {
		return nil, false, err
	}
	if err := roomToTry(conf); err != nil {
		return nil, false, &UnusableError{
			What: fmt.Sprintf("the store at %s cannot be opened", conf.GraphRoot), Fix: writable(err, placeOf(err, conf)), Err: err,
		}
	}
	store, err := storage.GetStore(conf)
	if err != nil && conf.GraphDriverName == "" && strings.Contains(err.Error(), "several valid graphdrivers") {
		// Older tools take vfs where newer ones take overlay, and leave both.
		conf.GraphDriverName = "overlay"
		store, err = storage.GetStore(conf)
	}
	if err != nil {
		fix := "run 'zbuild doctor'"
		if unshare.IsRootless() {
			fix = "check that /etc/subuid and /etc/subgid name you and that newuidmap is installed (package uidmap), then run 'zbuild doctor'"
		}
		if errors.Is(err, graphdriver.ErrNotSupported) {
			fix = fmt.Sprintf("drivers are overlay and vfs, and this one is %q: see --storage-driver and storage.conf", conf.GraphDriverName)
		}
		if w := writable(err, placeOf(err, conf)); w != "" {
			fix = w
		}
		return nil, false, &UnusableError{What: fmt.Sprintf("the store at %s cannot be opened", conf.GraphRoot), Fix: fix, Err: err}
	}
	return lockedStore{Store: store, fatal: opt.Fatal}, !conf.DisableVolatile, nil
}

// mountable makes sure that overlays can be mounted of the store's directories: the
// kernel is told their names in a list, in which some characters mean something.
func mountable(conf storage.StoreOptions) error {
	const separators = `,:\`
	if conf.GraphDriverName == "vfs" || !strings.ContainsAny(conf.GraphRoot, separators) {
		return nil
	}
	return &UnusableError{
		What: fmt.Sprintf("the store cannot be at %s", conf.GraphRoot), Fix: "move it, or set driver = \"vfs\" in storage.conf",
		Err: errors.New("there is a comma, a colon or a backslash in that name, and no overlay can be mounted so"),
	}
}

// StateDir is where the store's zbuild keeps what is worth keeping between runs:
// it lives and dies with the store.
func (e *Engine) StateDir() string { return filepath.Join(e.store.GraphRoot(), stateName) }

// stateName is what StateDir is called in the store's directory.
const stateName = "zbuild"

func (e *Engine) processDir() string { return filepath.Join(e.store.RunRoot(), "zbuild") }

// Close gives the store back. Layers and images stay.
func (e *Engine) Close() error {
	e.finding.Wait()
	err := errors.Join(e.durable.close(), e.proc.close(), e.kept.file.Close())
	_, err2 := e.store.Shutdown(false)
	if errors.Is(err2, storage.ErrLayerUsedByContainer) {
		err2 = nil // somebody else's container is mounted: that is its owner's affair
	}
	return errors.Join(err, err2)
}
