package runner

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/event"
	"github.com/zbuild/zbuild/internal/pack"
	"github.com/zbuild/zbuild/internal/s3cache"
	"github.com/zbuild/zbuild/internal/source"
	"github.com/zbuild/zbuild/internal/sshagent"
	"github.com/zbuild/zbuild/planner"
)

// Options say how a plan is run. Engine and Sink are required.
type Options struct {
	Engine Engine
	// Cache finds the results of earlier runs; nil finds none.
	Cache Cache
	// History remembers what steps were made of, for Result.Explanations; nil
	// explains nothing.
	History *History
	// Hasher digests build contexts; nil is one that remembers nothing.
	Hasher *source.Hasher
	// Memory has digests of earlier runs that still hold; nil has none.
	Memory *source.Memory
	// Jobs is how many steps run at once; 0 means one per core.
	Jobs int
	// KeepGoing goes on with what does not depend on a failed step.
	KeepGoing bool
	// Secret reads the value of a secret. An error that is fs.ErrNotExist says
	// that its file or variable does not exist.
	Secret func(config.Secret) ([]byte, error)
	Sink   event.Sink
	// Compressor makes blobs of layers. Needed for images that leave the store.
	Compressor *pack.Compressor
	// Provenance asks for TargetResult.Provenance: "min" or "max", as in buildx's
	// BUILDX_METADATA_PROVENANCE. Empty means none.
	Provenance string
	// Version is zbuild's own, for what is stated about images.
	Version string
	// Stdout is what the destination "-" stands for; nil if there is none.
	Stdout io.Writer
	// Bucket opens a cache of type s3; nil if there are none.
	Bucket func(context.Context, s3cache.Options) (*s3cache.Cache, error)
	// Agent makes an SSH agent of what a target declares.
	Agent func(config.SSH) (*sshagent.Agent, error)
	// Now is the clock; nil is the machine's.
	Now func() time.Time
}

// run is one execution of a plan.
type run struct {
	opt   Options
	plan  *planner.Plan
	keyer *keyer
	nodes map[*planner.Step]*node
	order []*node   // as in the plan
	id    string    // of the build
	begin time.Time // when it began
	// remote has what imported caches say, by key.
	remote map[digest.Digest]remoteRecord
	// alike has the records that say what their steps took of others, by the rest of
	// those steps' keys.
	alike map[digest.Digest][]remoteRecord
	// useless has the sources of those that let a step down.
	useless sync.Map // of pack.Source
	shares  shares
	afresh  *afresh
	// layouts is held by who writes to an OCI layout.
	layouts sync.Mutex
}

// node is what is known of a step during a run.
type node struct {
	step    *planner.Step
	partial []bool // inputs of which only selections are taken; nil if there is none
	inputs  []digest.Digest
	key     Key
	// id is the key under which its result is known: its own, or that of an earlier
	// step that took the same of other steps. What builds on it is keyed by that.
	id       digest.Digest
	keyErr   error
	noCache  bool // its cached result must not be taken, its own or an input's doing
	unsure   bool // what its key says of its inputs need not be true
	fresh    bool // it ran although its key was known: so must what builds on it
	needed   bool
	entry    Entry
	cached   bool // entry was found
	sought   bool // whether it can be found is known
	astray   bool // an entry was found that lies on something else
	lost     bool // an entry was found, but not what it speaks of
	started  bool // it did work, or tried to
	ran      bool // and came to its end
	moved    int  // how often files changed while it copied them
	restless bool // and did so to the end: nobody knows what its result is made of
	said     bool // that it is cached
	took     []Taken
	compared bool
	differs  []difference // what it takes of other steps, against the last time
	unit     *unit
	failure  *StepError
}

// Run executes a plan and gives what became of its targets. The error is the
// context's cause if the run was stopped from outside, else all of
// Result.Failures joined; the result is never nil. Nothing is named unless all
// targets succeeded or Options.KeepGoing is set, and then only what succeeded;
// nothing is pushed unless all succeeded.
func Run(ctx context.Context, plan *planner.Plan, opt Options) (*Result, error) {
	if opt.Jobs <= 0 {
		opt.Jobs = runtime.NumCPU()
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Secret == nil {
		opt.Secret = func(config.Secret) ([]byte, error) { return nil, fs.ErrNotExist }
	}
	r := newRun(plan, opt)
	start := opt.Now()
	result := &Result{BuildID: newBuildID()}
	opt.Sink.Emit(event.BuildStarted{ID: result.BuildID, Plan: plan, Time: start})
	err := r.run(ctx, result)
	end := opt.Now()
	result.Duration = end.Sub(start)
	opt.Sink.Emit(event.BuildDone{ID: result.BuildID, Err: err, Time: end})
	return result, err
}

func newRun(plan *planner.Plan, opt Options) *run {
	r := &run{opt: opt, plan: plan, keyer: newKeyer(opt.Hasher), nodes: make(map[*planner.Step]*node, len(plan.Steps)), afresh: newAfresh(plan.Steps)}
	r.keyer.memory = opt.Memory
	for _, s := range plan.Steps {
		n := &node{step: s}
		if _, partial := taken(s); slices.Contains(partial, true) {
			n.partial = partial
		}
		r.nodes[s] = n
		r.order = append(r.order, n)
	}
	return r
}

func newBuildID() string {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func (r *run) run(ctx context.Context, result *Result) error {
	begin := r.opt.Now()
	r.id, r.begin = result.BuildID, begin
	r.importCaches(ctx)
	r.makeKeys(ctx)
	done, err := r.opt.Engine.Use(ctx)
	if err != nil {
		return err
	}
	defer done()
	exports, err := r.exports()
	if err != nil {
		result.Failures = append(result.Failures, err)
		return err
	}
	r.demand(ctx, exports)
	if r.failedKeys() && !r.opt.KeepGoing && ctx.Err() == nil {
		// Everything that can be said before anything runs is said at once.
		r.collect(result, exports)
		return errors.Join(result.Failures...)
	}
	schedule(ctx, r.units(exports), r.opt.Jobs, r.opt.KeepGoing)
	for range maxVanished {
		if ctx.Err() != nil || !r.vanished(ctx, exports) {
			break
		}
		if !r.letDown() {
			r.warn(nil, errors.New("something removed from the store what this build uses; what is missing is made again"))
		}
		r.again(ctx, exports)
		schedule(ctx, r.units(exports), r.opt.Jobs, r.opt.KeepGoing)
	}
	r.collect(result, exports)
	if err := r.explain(result, begin); err != nil {
		r.warn(nil, err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r.publish(ctx, result, exports)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(result.Failures...)
}

// maxVanished is how often a build is taken up again after something has removed
// what it used.
const maxVanished = 10

// vanished reports whether something failed because what it used was removed from
// the store meanwhile, by hand or by another program.
func (r *run) vanished(ctx context.Context, exports []*export) bool {
	failed := false
	for _, n := range r.order {
		if n.failure != nil {
			failed = true
			if errors.Is(n.failure.Err, ErrVanished) || errors.Is(n.failure.Err, errUseless) {
				return true
			}
		}
	}
	for _, x := range exports {
		if x.unit.state == unitFailed {
			failed = true
			if errors.Is(x.unit.err, ErrVanished) {
				return true
			}
		}
	}
	if !failed {
		return false
	}
	for _, n := range r.order {
		for _, s := range n.entry.Snapshots {
			if !r.opt.Engine.Has(ctx, s) {
				return true
			}
		}
	}
	return false
}

// again forgets how things ended and finds out what must run now.
func (r *run) again(ctx context.Context, exports []*export) {
	for _, n := range r.order {
		n.needed, n.cached, n.sought, n.entry, n.unit = false, false, false, Entry{}, nil
		if n.keyErr == nil {
			n.failure = nil
		}
	}
	for _, n := range r.order {
		r.identify(ctx, n)
	}
	for _, x := range exports {
		x.unit, x.image = nil, nil
		clear(x.packed)
	}
	r.demand(ctx, exports)
}

// makeKeys gives every step its key, or the reason why it has none.
func (r *run) makeKeys(ctx context.Context) {
	r.keyer.lookAll(ctx, r.plan.Steps)
	for _, n := range r.order {
		r.identify(ctx, n)
	}
}

func (r *run) failedKeys() bool {
	for _, n := range r.order {
		if n.failure != nil {
			return true
		}
	}
	return false
}

// demand finds out what must run: a step whose result is at hand needs none of
// its inputs.
func (r *run) demand(ctx context.Context, exports []*export) {
	var need func(*node)
	need = func(n *node) {
		if n.needed {
			return
		}
		n.needed = true
		if n.keyErr != nil || r.find(ctx, n) {
			return
		}
		if below, ok := r.fetchable(n); ok {
			for _, b := range below {
				need(b)
			}
			return
		}
		for _, in := range n.step.Inputs {
			need(r.nodes[in.Step])
		}
	}
	for _, x := range exports {
		for _, in := range x.inputs() {
			need(r.nodes[in.Step])
		}
	}
	for _, s := range r.dependedOn() {
		need(r.nodes[s])
	}
}

// dependedOn lists the results of targets that only some depends-on asks for.
func (r *run) dependedOn() []*planner.Step {
	named := make(map[string]bool)
	for _, t := range r.plan.Targets {
		for _, n := range t.Config.DependsOn {
			named[n] = true
		}
	}
	var out []*planner.Step
	for _, t := range r.plan.Targets {
		for _, res := range t.Results {
			if named[t.Name] && res.Root.Step != nil {
				out = append(out, res.Root.Step)
			}
		}
	}
	return out
}

// units makes the scheduler's work of steps and exports.
func (r *run) units(exports []*export) []*unit {
	var units []*unit
	for _, n := range r.order {
		if n.step.Local != nil {
			continue
		}
		if !n.needed || n.cached {
			r.sayCached(n)
			continue
		}
		n.unit = &unit{name: n.step.Name, weight: weight(n.step)}
		n.unit.do = func(ctx context.Context) error { return r.do(ctx, n) }
		for _, in := range n.step.Inputs {
			if u := r.nodes[in.Step].unit; u != nil {
				n.unit.needs = append(n.unit.needs, u)
			}
		}
		units = append(units, n.unit)
	}
	for _, x := range exports {
		if !x.wanted {
			x.unit = &unit{name: x.name(), do: func(context.Context) error { return nil }}
		} else {
			x.unit = &unit{name: x.name(), weight: 2, do: func(ctx context.Context) error { return r.prepare(ctx, x) }}
		}
		for _, in := range x.inputs() {
			if u := r.nodes[in.Step].unit; u != nil {
				x.unit.needs = append(x.unit.needs, u)
			}
		}
		units = append(units, x.unit)
	}
	units = append(units, r.layersAhead(exports)...)
	r.orderTargets(exports)
	return units
}

// sayCached reports a step whose result is at hand, or that nobody asks for
// because a later result is.
func (r *run) sayCached(n *node) {
	if n.step.Image != nil || n.keyErr != nil || n.said || n.ran {
		return
	}
	n.said = true
	now := r.opt.Now()
	r.opt.Sink.Emit(event.StepStarted{Step: n.step, Time: now})
	r.opt.Sink.Emit(event.StepDone{Step: n.step, Cached: true, Time: now})
}

// weight guesses how long a kind of step takes.
func weight(s *planner.Step) int {
	switch s.Op.Op.(type) {
	case *pb.Op_Exec:
		return 10
	case *pb.Op_Source:
		return 5
	}
	return 2
}
