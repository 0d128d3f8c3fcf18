package runner

// One step: getting its result from wherever it is, or from the engine, with what
// the engine may ask for meanwhile.

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/internal/event"
	"github.com/zbuild/zbuild/internal/source"
	"github.com/zbuild/zbuild/internal/sshagent"
	"github.com/zbuild/zbuild/planner"
)

// do runs one step, unless its result turns out to be at hand.
func (r *run) do(ctx context.Context, n *node) error {
	r.opt.Sink.Emit(event.StepStarted{Step: n.step, Time: r.opt.Now()})
	var tail []string
	err := n.keyErr
	if err == nil {
		tail, err = r.obtain(ctx, n)
	}
	done := event.StepDone{Step: n.step, Err: err, Cached: n.cached, Time: r.opt.Now()}
	switch {
	case err == nil:
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

// obtainOnce gets a step's result: from the cache, now that its inputs are at hand,
// from another process that is just doing it, or by doing it.
func (r *run) obtainOnce(ctx context.Context, n *node) (tail []string, err error) {
	if r.identify(ctx, n); n.keyErr != nil {
		return nil, n.keyErr
	}
	n.sought = false // more is known now
	if r.find(ctx, n) {
		return nil, nil
	}
	if found, err := r.fetch(ctx, n); found || err != nil {
		return nil, err
	}
	if found, err := r.findAlike(ctx, n); found || err != nil {
		return nil, err
	}
	if found, err := r.fetchAlike(ctx, n); found || err != nil {
		return nil, err
	}
	release, err := r.lease(ctx, n)
	if err != nil {
		return nil, err
	}
	defer release()
	n.sought = false
	if r.find(ctx, n) { // who had the lease has done it
		return nil, nil
	}
	n.started = true
	if tail, err = r.try(ctx, n); err != nil {
		return tail, err
	}
	n.ran, n.fresh, n.unsure = true, n.noCache || n.unsure, false
	n.id = n.key.Digest
	n.entry.Created = r.opt.Now().UTC()
	n.entry.Step, n.entry.On, n.entry.Took = n.step.Name, r.on(n), r.took(n)
	if n.restless {
		n.id = digest.FromString(rand.Text()) // what builds on it is not to be found either
		return tail, nil
	}
	r.remember(n)
	return tail, nil
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
		job := Job{Step: n.step, Inputs: inputs, Stdout: &out.streams[1], Stderr: &out.streams[2], Idle: n.unit.idle, Share: r.share, Afresh: r.afresh.empty}
		job.List = func(ctx context.Context, t source.Tree, sel source.Selection) (*source.Listing, error) {
			return r.list(ctx, n, t, sel)
		}
		job.Settled = func(ctx context.Context, l *source.Listing) error { return r.settled(ctx, n, l) }
		job.Secret = func(id string) ([]byte, error) { return r.secret(n.step, out, id) }
		job.Agent = func(id string) (*sshagent.Agent, error) { return r.agent(n.step, id) }
		n.entry.Snapshots, err = r.opt.Engine.Do(ctx, job)
		tail = out.end()
		var exit *ExitError
		if err == nil || ctx.Err() != nil || attempt == tries || !errors.As(err, &exit) {
			return tail, err
		}
		r.opt.Sink.Emit(event.StepRetry{
			Step: n.step, Attempt: attempt + 1, Of: tries, Delay: n.step.RetryDelay, Err: err, Time: r.opt.Now(),
		})
		err = n.unit.idle(func() error {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(n.step.RetryDelay):
				return nil
			}
		})
		if err != nil {
			return tail, err
		}
	}
}

// agent makes an SSH agent that a step may ask for.
func (r *run) agent(step *planner.Step, id string) (*sshagent.Agent, error) {
	s, ok := step.SSH[id]
	if !ok || r.opt.Agent == nil {
		return nil, fmt.Errorf("SSH agent %q: %w", id, fs.ErrNotExist)
	}
	a, err := r.opt.Agent(s)
	if err != nil {
		// What is wrong with it must not pass for an agent that nobody declared.
		return nil, fmt.Errorf("SSH agent or keys %q: %s", id, err) //nolint:errorlint // see above
	}
	return a, nil
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
