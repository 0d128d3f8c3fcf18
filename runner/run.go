package runner

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sync/errgroup"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/event"
	"github.com/zbuild/zbuild/internal/source"
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
	// Jobs is how many steps run at once; 0 means one per core.
	Jobs int
	// KeepGoing goes on with what does not depend on a failed step.
	KeepGoing bool
	// Secret reads the value of a secret. An error that is fs.ErrNotExist says
	// that its file or variable does not exist.
	Secret func(config.Secret) ([]byte, error)
	Sink   event.Sink
	// Now is the clock; nil is the machine's.
	Now func() time.Time
}

// run is one execution of a plan.
type run struct {
	opt   Options
	plan  *planner.Plan
	keyer *keyer
	nodes map[*planner.Step]*node
	order []*node // as in the plan
}

// node is what is known of a step during a run.
type node struct {
	step    *planner.Step
	key     Key
	keyErr  error
	noCache bool // its cached result must not be taken, its own or an input's doing
	needed  bool
	entry   Entry
	cached  bool // entry was found
	lost    bool // an entry was found, but not what it speaks of
	started bool // it did work, or tried to
	unit    *unit
	failure *StepError
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
	r := &run{opt: opt, plan: plan, keyer: newKeyer(opt.Hasher), nodes: make(map[*planner.Step]*node, len(plan.Steps))}
	start := opt.Now()
	result := &Result{BuildID: newBuildID()}
	opt.Sink.Emit(event.BuildStarted{ID: result.BuildID, Plan: plan, Time: start})
	err := r.run(ctx, result)
	end := opt.Now()
	result.Duration = end.Sub(start)
	opt.Sink.Emit(event.BuildDone{ID: result.BuildID, Err: err, Time: end})
	return result, err
}

func newBuildID() string {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func (r *run) run(ctx context.Context, result *Result) error {
	for _, s := range r.plan.Steps {
		n := &node{step: s}
		r.nodes[s] = n
		r.order = append(r.order, n)
	}
	begin := r.opt.Now()
	r.makeKeys(ctx)
	// What is found from here on must still be there when it is needed.
	done, err := r.opt.Engine.Use(ctx)
	if err != nil {
		return err
	}
	defer done()
	exports := r.exports()
	r.demand(ctx, exports)
	if r.failedKeys() && !r.opt.KeepGoing && ctx.Err() == nil {
		// Everything that can be said before anything runs is said at once.
		r.collect(result, exports)
		return errors.Join(result.Failures...)
	}
	schedule(ctx, r.units(exports), r.opt.Jobs, r.opt.KeepGoing)
	r.collect(result, exports)
	if err := r.explain(result, begin); err != nil {
		r.opt.Sink.Emit(event.Warning{Text: err.Error(), Time: r.opt.Now()})
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

// makeKeys gives every step its key, or the reason why it has none.
func (r *run) makeKeys(ctx context.Context) {
	// Reading files is what takes time; keys themselves depend on one another.
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, n := range r.order {
		for _, s := range selections(n.step) {
			g.Go(func() error {
				_, _ = r.keyer.hash(ctx, s) // the key says what is wrong with it
				return nil
			})
		}
	}
	_ = g.Wait()
	for _, n := range r.order {
		n.noCache = n.step.NoCache
		inputs := make([]Key, len(n.step.Inputs))
		for i, in := range n.step.Inputs {
			from := r.nodes[in.Step]
			inputs[i] = from.key
			n.noCache = n.noCache || from.noCache
			if from.keyErr != nil {
				n.keyErr = errSkipped
			}
		}
		if n.keyErr != nil {
			continue
		}
		if n.key, n.keyErr = r.keyer.key(ctx, n.step, inputs); n.keyErr != nil {
			n.failure = &StepError{Step: n.step, Err: n.keyErr}
		}
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

// find looks a step's result up and makes sure that it is still there.
func (r *run) find(ctx context.Context, n *node) bool {
	if n.noCache || r.opt.Cache == nil || n.step.Image != nil || n.step.Local != nil {
		return false
	}
	e, ok := r.opt.Cache.Get(n.key.Digest)
	if !ok {
		return false
	}
	for _, s := range e.Snapshots {
		if !r.opt.Engine.Has(ctx, s) {
			n.lost = true
			return false
		}
	}
	n.entry, n.cached = e, true
	return true
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
			x.unit = &unit{name: x.name(), weight: 2, do: func(ctx context.Context) error { return r.commit(ctx, x) }}
		}
		for _, in := range x.inputs() {
			if u := r.nodes[in.Step].unit; u != nil {
				x.unit.needs = append(x.unit.needs, u)
			}
		}
		units = append(units, x.unit)
	}
	r.orderTargets(exports)
	return units
}

// sayCached reports a step whose result is at hand, or that nobody asks for
// because a later result is.
func (r *run) sayCached(n *node) {
	if n.step.Image != nil || n.keyErr != nil {
		return
	}
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

// do runs one step, again and again as its retries allow, and remembers what it
// left.
func (r *run) do(ctx context.Context, n *node) error {
	r.opt.Sink.Emit(event.StepStarted{Step: n.step, Time: r.opt.Now()})
	var tail []string
	var err error
	if n.keyErr != nil {
		err = n.keyErr
	} else {
		n.started = true
		tail, err = r.try(ctx, n)
	}
	done := event.StepDone{Step: n.step, Err: err, Time: r.opt.Now()}
	switch {
	case err == nil:
		n.entry.Created = done.Time.UTC()
		n.entry.Step = n.step.Name
		if r.opt.Cache != nil && n.step.Image == nil {
			if err := r.opt.Cache.Put(n.key.Digest, n.entry); err != nil {
				r.opt.Sink.Emit(event.Warning{Step: n.step, Text: err.Error(), Time: done.Time})
			}
		}
	case ctx.Err() != nil:
		done.Canceled, done.Err = true, context.Cause(ctx)
		err = context.Cause(ctx)
	case errors.Is(err, errSkipped):
		done.Canceled = true
	default:
		n.failure = &StepError{Step: n.step, Output: tail, Err: err}
		err = n.failure
	}
	r.opt.Sink.Emit(done)
	return err
}

// try has the engine do a step. A RUN that fails may be tried again.
func (r *run) try(ctx context.Context, n *node) (tail []string, err error) {
	inputs := make([]Input, len(n.step.Inputs))
	for i, in := range n.step.Inputs {
		if inputs[i].Local = in.Step.Local; inputs[i].Local == nil {
			inputs[i].Snapshot = r.nodes[in.Step].entry.Snapshots[in.Index]
		}
	}
	tries := 1
	if n.step.Op.GetExec() != nil {
		tries += n.step.Retries
	}
	for attempt := 1; ; attempt++ {
		out := newOutput(n.step, r.opt.Sink, r.opt.Now)
		job := Job{Step: n.step, Inputs: inputs, Stdout: &out.streams[1], Stderr: &out.streams[2]}
		job.Secret = func(id string) ([]byte, error) { return r.secret(n.step, out, id) }
		n.entry.Snapshots, err = r.opt.Engine.Do(ctx, job)
		tail = out.end()
		var exit *ExitError
		if err == nil || ctx.Err() != nil || attempt == tries || !errors.As(err, &exit) {
			return tail, err
		}
		r.opt.Sink.Emit(event.StepRetry{
			Step: n.step, Attempt: attempt + 1, Of: tries, Delay: n.step.RetryDelay, Err: err, Time: r.opt.Now(),
		})
		select {
		case <-ctx.Done():
			return tail, context.Cause(ctx)
		case <-time.After(n.step.RetryDelay):
		}
	}
}

// secret reads a secret that a step may ask for, and has it blotted out of what
// the step prints.
func (r *run) secret(step *planner.Step, out *output, id string) ([]byte, error) {
	s, ok := step.Secrets[id]
	if !ok {
		return nil, fmt.Errorf("secret %q: %w", id, fs.ErrNotExist)
	}
	value, err := r.opt.Secret(s)
	if err != nil {
		// What is wrong with the source must not pass for an undeclared secret.
		from := s.Path
		if s.Env != "" {
			from = "environment variable " + s.Env
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("secret %q: %s does not exist", id, from)
		}
		return nil, fmt.Errorf("secret %q: %w", id, err)
	}
	out.conceal(value)
	return value, nil
}
