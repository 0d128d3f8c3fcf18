// Package session takes a project through its generations: load, plan, run, and
// again when something has changed. A bake is a session of one generation.
//
// It knows which room does what and in which order. It shows nothing and writes
// to no stream: what happens goes to an event.Sink, what came of it is a
// Generation.
package session

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/event"
	"github.com/zbuild/zbuild/internal/pack"
	"github.com/zbuild/zbuild/internal/remote"
	"github.com/zbuild/zbuild/internal/s3cache"
	"github.com/zbuild/zbuild/internal/source"
	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

// Engine is what a session needs of an engine.
type Engine interface {
	runner.Engine
	planner.Images
	// StateDir is where to keep what shall live as long as the store does.
	StateDir() string
	// Fetcher is what fetches from URLs and git repositories.
	Fetcher() *remote.Fetcher
	// Drop removes an image that nobody has a use for. One that has a name stays. If
	// it is in use the error is a runner.ErrInUse.
	Drop(ctx context.Context, image *runner.Image) error
	// Devices is for planner.Options.
	Devices(name string) []planner.Device
}

// Options say what a session is about. The zero value of a field that is not
// Load or OpenEngine means its default.
type Options struct {
	// Load says what to load. Planning and running use its Dir and LookupEnv too.
	Load config.Request
	// OpenEngine opens the engine, when first something needs it. Its error ends
	// the generation as an *EngineError.
	OpenEngine func(context.Context) (Engine, error)
	// Jobs is how many steps run at once; 0 means what the project says, or else
	// one per core.
	Jobs int
	// KeepGoing goes on with what does not depend on a failed step.
	KeepGoing bool
	// Limits bound what builds leave in the cache. They are looked after when a build
	// has done something. The zero value bounds nothing.
	Limits runner.Limits
	// Since is a revision of git: of the targets only those are planned to the end that
	// are made of files that have changed since then. Empty for all.
	Since string
	// Provenance is runner.Options.Provenance.
	Provenance string
	// Bucket is runner.Options.Bucket.
	Bucket func(context.Context, s3cache.Options) (*s3cache.Cache, error)
	// Stdout is what an output's destination "-" stands for; nil if there is none.
	Stdout io.Writer
	// Accept is asked about the project before anything is planned and run; its error
	// ends the generation. Nil accepts all.
	Accept func(*config.Project) error
	// Sink receives what happens; nil if nobody wants to know.
	Sink event.Sink
	// Now is the clock; nil means the machine's.
	Now func() time.Time
}

// Session is a project, and the engine that builds it. One generation runs at a
// time.
type Session struct {
	opt    Options
	engine *lazyEngine
	number int

	mu    sync.Mutex
	index *source.FileIndex // of the files that were hashed; nil until it is needed
	// kept says that the index is kept in memory, saved that it was written once.
	kept, saved bool
}

// New makes a session. Nothing is read or opened yet. The caller must Close it.
func New(opt Options) *Session {
	if opt.Sink == nil {
		opt.Sink = discard{}
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	return &Session{opt: opt, engine: &lazyEngine{opt: &opt}}
}

type discard struct{}

// Emit does nothing.
func (discard) Emit(event.Event) {}

// Phase is how far a generation goes.
type Phase int

// The phases, each after the one before; but what Look finds out is not done again by
// Run.
const (
	Load Phase = iota // evaluate the build files
	Plan              // and make the graph of steps
	Look              // and find out which of them would run
	Run               // and execute it
)

// Generation is what one pass over the project came to. It is immutable.
type Generation struct {
	// Number counts the generations of the session, from 1.
	Number int
	// Project is never nil. Plan is nil if the generation was not planned, Result
	// if it was not run, Preview if it did not end with Look.
	Project *config.Project
	Plan    *planner.Plan
	Preview *runner.Preview
	Result  *runner.Result
	// Unaffected are the requested targets that Options.Since leaves out.
	Unaffected []string
	// Diagnostics are those of loading and planning, warnings too.
	Diagnostics hcl.Diagnostics
	// Err says why the generation did not come to its end, or that the build
	// failed: then Result.Failures are the causes. An *EngineError says that there
	// is no engine. It is nil if Diagnostics are all there is to say.
	Err error

	loading hcl.Diagnostics // those of Diagnostics that are about loading
}

// Sources is the text of every file that Diagnostics and failures may point
// into.
func (g *Generation) Sources() map[string][]byte {
	all := make(map[string][]byte)
	if g.Project != nil {
		for name, text := range g.Project.Sources {
			all[name] = text
		}
	}
	if g.Plan != nil {
		for name, text := range g.Plan.Sources {
			all[name] = text
		}
	}
	return all
}

// OK reports whether the generation did all that was asked for.
func (g *Generation) OK() bool { return g.Err == nil && !g.Diagnostics.HasErrors() }

// EngineError says that there is no engine to work with. That is the fault of
// the machine's set-up, not of the project.
type EngineError struct{ Err error }

func (e *EngineError) Error() string { return e.Err.Error() }
func (e *EngineError) Unwrap() error { return e.Err }

// Generate makes one generation, up to and including a phase. It returns when
// nothing of it is running any more, also if the context is canceled; Err is
// then the context's cause.
func (s *Session) Generate(ctx context.Context, last Phase) *Generation {
	s.number++
	g := &Generation{Number: s.number}
	request := s.opt.Load
	request.EvaluateOnly = request.EvaluateOnly || last == Load && !request.Calling
	if last == Run {
		defer s.openEarly(ctx)()
	}
	g.Project, g.Diagnostics = s.load(ctx, request)
	if s.ended(ctx, g) || last == Load || len(g.Project.Built().Targets) == 0 && len(g.Project.Targets) > 0 {
		return g
	}
	if s.opt.Accept != nil {
		if g.Err = s.opt.Accept(g.Project); g.Err != nil {
			return g
		}
	}
	if last == Run {
		defer s.indexEarly()()
	}
	s.plan(ctx, g)
	if s.opt.Since != "" && !s.ended(ctx, g) {
		s.narrow(ctx, g)
	}
	if s.ended(ctx, g) || last == Plan || len(g.Unaffected) > 0 && len(g.Plan.Targets) == 0 {
		return g
	}
	if last == Look {
		s.look(ctx, g)
		return g
	}
	s.run(ctx, g)
	return g
}

// Load only loads the project, as the options' Load says, and makes no generation.
func (s *Session) Load(ctx context.Context) (*config.Project, hcl.Diagnostics) {
	return s.load(ctx, s.opt.Load)
}

func (s *Session) load(ctx context.Context, request config.Request) (*config.Project, hcl.Diagnostics) {
	if request.ReadRemote == nil {
		request.ReadRemote = s.readRemote
	}
	p, diags := config.Load(ctx, request)
	if diags.HasErrors() || request.Calling {
		return p, diags
	}
	p, more := commitLabels(ctx, p)
	return p, append(diags, more...)
}

// ended reports whether a generation is at its end before its last phase.
func (s *Session) ended(ctx context.Context, g *Generation) bool {
	if err := context.Cause(ctx); err != nil {
		g.Err = err
	}
	return !g.OK()
}

func (s *Session) plan(ctx context.Context, g *Generation) { s.planWith(ctx, g, nil, nil) }

// planWith plans what was loaded; read reads Dockerfiles and ignore files, stat looks
// at contexts, nil as usual.
func (s *Session) planWith(ctx context.Context, g *Generation, read func(string) ([]byte, error), stat func(string) (fs.FileInfo, error)) {
	opt := s.plannerOptions(g)
	opt.ReadFile, opt.Stat = read, stat
	plan, diags := planner.Build(ctx, g.Project.Built(), opt)
	s.planned(g, plan, diags)
}

func (s *Session) plannerOptions(g *Generation) planner.Options {
	return planner.Options{
		Images: s.engine,
		Jobs:   s.jobs(g),
		Dir:    s.opt.Load.Dir,

		Remotes: s.engine.fetcher, Devices: s.engine.devices,
		Secret: s.secret,
		Agent:  s.agentSocket,
	}
}

func (s *Session) planned(g *Generation, plan *planner.Plan, diags hcl.Diagnostics) {
	g.Plan = plan
	g.Diagnostics = append(g.Diagnostics, diags...)
	// Without an engine no base image could be had: that is one problem, and not
	// one of each FROM.
	if err := s.engine.problem(); err != nil {
		g.Err = err
		g.Diagnostics = nil
	}
}

// jobs is how many steps run at once: as asked for, or as the project says.
func (s *Session) jobs(g *Generation) int { return cmp.Or(s.opt.Jobs, g.Project.Settings.Jobs) }

// Call makes a generation that asks the Dockerfile frontend about every target
// instead of building.
func (s *Session) Call(ctx context.Context, method planner.Method) (*Generation, []planner.Answer) {
	g := s.Generate(ctx, Load)
	if !g.OK() {
		return g, nil
	}
	methods := map[string]planner.Method{}
	for name := range g.Project.Targets {
		methods[name] = method
	}
	return g, s.ask(ctx, g, methods)
}

// Ask asks the frontend about those targets of a generation that say themselves
// what they are to be asked. It changes nothing of one that has failed.
func (s *Session) Ask(ctx context.Context, g *Generation) []planner.Answer {
	methods := map[string]planner.Method{}
	for name, t := range g.Project.Targets {
		if t.Call != "" {
			methods[name] = planner.Method(t.Call)
		}
	}
	if !g.OK() || len(methods) == 0 {
		return nil
	}
	return s.ask(ctx, g, methods)
}

func (s *Session) ask(ctx context.Context, g *Generation, methods map[string]planner.Method) []planner.Answer {
	answers, plan, diags := planner.Call(ctx, g.Project, methods, s.plannerOptions(g))
	if g.Plan != nil { // what was built is still what it was
		maps.Copy(plan.Sources, g.Plan.Sources)
		whole := *g.Plan
		whole.Sources = plan.Sources
		plan = &whole
	}
	s.planned(g, plan, diags)
	return answers
}

// hasher digests files, by an index that lives with the engine.
func (s *Session) hasher(ctx context.Context) (*source.Hasher, error) {
	engine, err := s.engine.get(ctx)
	if err != nil {
		return nil, err
	}
	return &source.Hasher{Index: s.openIndex(engine)}, nil
}

// openEarly opens the engine while build files are read; wait returns when that is
// done. What goes wrong with it is told by who needs the engine.
func (s *Session) openEarly(ctx context.Context) (wait func()) {
	var opening sync.WaitGroup
	opening.Go(func() { s.engine.openEarly(ctx) })
	return opening.Wait
}

// indexEarly has the index of files read while the plan is being made, if that
// opens the engine; wait returns when it is not being read.
func (s *Session) indexEarly() (wait func()) {
	var reading sync.WaitGroup
	s.engine.onOpen(func(engine Engine) { reading.Go(func() { s.openIndex(engine) }) })
	return func() {
		s.engine.onOpen(nil)
		reading.Wait()
	}
}

func (s *Session) openIndex(engine Engine) *source.FileIndex {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index == nil {
		index, err := source.OpenIndex(filepath.Join(engine.StateDir(), "files.index"), s.opt.Now)
		if err != nil {
			s.warn(err)
		}
		s.index = index
	}
	return s.index
}

// keep keeps the index of files in memory from one generation to the next. It is
// written after the first one, and when what keep returns is called.
func (s *Session) keep() (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = true
	return func() {
		s.mu.Lock()
		s.kept = false
		s.mu.Unlock()
		s.saveIndex()
	}
}

func (s *Session) saveIndex() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index == nil || s.kept && s.saved {
		return
	}
	s.saved = true
	if err := s.index.Save(); err != nil {
		s.warn(err)
	}
	if !s.kept {
		s.index = nil
	}
}

// look finds out what running would do.
func (s *Session) look(ctx context.Context, g *Generation) {
	hasher, err := s.hasher(ctx)
	if err != nil {
		g.Err = err
		return
	}
	engine, err := s.engine.get(ctx)
	if err != nil {
		g.Err = err
		return
	}
	g.Preview, g.Err = runner.Look(ctx, g.Plan, runner.Options{
		Engine: engine, Cache: StepCache(engine), Hasher: hasher,
		Sink: s.opt.Sink, Now: s.opt.Now, Bucket: s.opt.Bucket,
	})
	s.saveIndex()
}

func (s *Session) run(ctx context.Context, g *Generation) {
	hasher, err := s.hasher(ctx)
	if err != nil {
		g.Err = err
		return
	}
	s.runWith(ctx, g, hasher, nil)
}

// runWith runs what was planned.
func (s *Session) runWith(ctx context.Context, g *Generation, hasher *source.Hasher, memory *source.Memory) {
	engine, err := s.engine.get(ctx)
	if err != nil {
		g.Err = err
		return
	}
	state := engine.StateDir()
	cache := StepCache(engine)
	cache.Now = s.opt.Now
	blobs := filepath.Join(state, "blobs")
	compressor := pack.NewCompressor(blobs, filepath.Join(blobs, "notes"))
	g.Result, g.Err = runner.Run(ctx, g.Plan, runner.Options{
		Engine:    engine,
		Cache:     cache,
		History:   runner.NewHistory(filepath.Join(state, "history"), g.Project.Dir),
		Hasher:    hasher,
		Memory:    memory,
		Jobs:      s.jobs(g),
		KeepGoing: s.opt.KeepGoing || g.Project.Settings.KeepGoing,
		Secret:    s.secret,
		Agent:     s.agent,
		Sink:      s.opt.Sink,
		Now:       s.opt.Now,

		Compressor: compressor,
		Provenance: s.opt.Provenance,
		Version:    s.opt.Load.Version,
		Bucket:     s.opt.Bucket,
		Stdout:     s.opt.Stdout,
	})
	if err := compressor.Close(); err != nil {
		s.warn(err)
	}
	s.saveIndex()
	if g.Result.Ran > 0 && ctx.Err() == nil {
		s.evict(ctx, engine, cache)
	}
}

// StepCache is what says which step has left what in an engine's store.
func StepCache(engine Engine) *runner.DirCache {
	return runner.NewDirCache(filepath.Join(engine.StateDir(), "cache"))
}

// evict brings the cache back under its limits. That it cannot be done fails
// nothing: what was built is built.
func (s *Session) evict(ctx context.Context, engine Engine, cache *runner.DirCache) {
	store, ok := engine.(runner.SnapshotStore)
	if !ok {
		return
	}
	note := filepath.Join(engine.StateDir(), "cache.size")
	if _, err := runner.Evict(ctx, cache, store, s.opt.Limits, note, s.opt.Now()); err != nil && ctx.Err() == nil {
		s.warn(fmt.Errorf("the cache cannot be kept within its limits: %w", err))
	}
}

// warn reports what is wrong and stops nothing.
func (s *Session) warn(err error) {
	s.opt.Sink.Emit(event.Warning{Text: err.Error(), Time: s.opt.Now()})
}

// Close releases the engine.
func (s *Session) Close() error { return s.engine.close() }
