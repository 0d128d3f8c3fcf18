package planner

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/hashicorp/hcl/v2"
	"github.com/moby/buildkit/solver/pb"

	"github.com/zbuild/zbuild/config"
)

// Build plans all targets of a project.
//
// The plan is never nil. If the diagnostics have errors it has no steps, but its
// Sources and Files are complete: the diagnostics point into the former, and one
// of the latter has to change for the errors to go away. The diagnostics are all
// there are, of all targets, each once, in the order of files and positions; a
// base image that cannot be had is told from a mistake by CauseOf. The same
// project, options, files and images give the same plan and diagnostics.
func Build(ctx context.Context, project *config.Project, opt Options) (*Plan, hcl.Diagnostics) {
	s := newSession(ctx, project, opt)
	units, diags := s.units()
	if !diags.HasErrors() {
		s.planAll(units)
	}
	plan := &Plan{Sources: maps.Clone(project.Sources), Files: s.files.list()}
	if plan.Sources == nil {
		plan.Sources = make(map[string][]byte)
	}
	for _, u := range units {
		diags = append(diags, u.diags...)
		if u.src != nil {
			plan.Sources[u.name] = u.src.data
		}
	}
	if ctx.Err() != nil {
		diags = append(diags, canceled(ctx))
	}
	diags = sortDiagnostics(diags)
	if !diags.HasErrors() {
		newAssembler(s, plan).assemble(units)
	}
	return plan, diags
}

// planAll plans each target once those that it depends on have been planned, as
// many at once as may be.
func (s *session) planAll(units []*unit) {
	slots := make(chan struct{}, s.opt.Jobs)
	var wg sync.WaitGroup
	for _, u := range units {
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer close(u.done)
			for _, dep := range u.after {
				<-dep.done
			}
			slots <- struct{}{}
			defer func() { <-slots }()
			u.plan()
		}()
	}
	wg.Wait()
}

// assembler puts the graphs of all targets together.
type assembler struct {
	*session
	plan   *Plan
	steps  map[*vertex]*Step
	byID   map[string]*Step
	index  map[*Step]int
	stages *stages
	whole  map[*Step]bool // build contexts that somebody takes all of
}

func newAssembler(s *session, plan *Plan) *assembler {
	return &assembler{
		session: s, plan: plan,
		steps: make(map[*vertex]*Step), byID: make(map[string]*Step), index: make(map[*Step]int), whole: make(map[*Step]bool),
	}
}

func (a *assembler) assemble(units []*unit) {
	for _, u := range units {
		for _, r := range u.runs {
			for _, v := range r.graph.order {
				a.addStep(v)
			}
		}
	}
	for _, u := range units {
		for _, r := range u.runs {
			for _, v := range r.graph.order {
				if m := r.graph.marks[v]; m != nil {
					a.describe(a.steps[v], u, m)
				}
			}
		}
	}
	a.stages = newStages(a)
	for _, u := range units {
		for _, r := range u.runs {
			a.stages.add(r)
		}
	}
	a.stages.finish(units)
	for _, u := range units {
		a.plan.Targets = append(a.plan.Targets, a.target(u))
	}
}

// addStep adds the step of a vertex, whose inputs are there already. Each target
// has vertices of its own; equal ones are one step.
func (a *assembler) addStep(v *vertex) {
	if a.steps[v] != nil {
		return
	}
	s := a.byID[string(v.id)]
	if s == nil {
		s = &Step{ID: v.id, Op: v.op, Image: v.image, File: v.file, Tree: v.tree}
		if v.local != nil {
			local := *v.local
			s.Local = &local
		}
		for _, in := range v.inputs {
			s.Inputs = append(s.Inputs, a.edge(in))
		}
		a.byID[string(v.id)] = s
		a.index[s] = len(a.plan.Steps)
		a.plan.Steps = append(a.plan.Steps, s)
	}
	a.steps[v] = s
}

func (a *assembler) edge(e edge) Input {
	if e.v == nil {
		return Input{}
	}
	return Input{Step: a.steps[e.v], Index: e.index}
}

// describe adds what a target says about a step. Targets come in the order of
// their names; the first one names the step.
func (a *assembler) describe(s *Step, u *unit, m *mark) {
	if s.Name == "" {
		s.Name = m.name
		// A source has no line of its own; who looks for what went wrong with it finds
		// the instruction that needs it.
		if (m.own || s.File != nil || s.Tree != nil) && len(m.lines) > 0 {
			first := slices.MinFunc(m.lines, func(a, b lineRange) int { return a.first - b.first })
			s.Location = u.src.lines(first.first, first.last)
		}
	}
	if s.Local != nil {
		a.follow(s, m)
	}
	s.NoCache = s.NoCache || m.noCache
	if s.Limits == nil {
		s.Limits = m.limits
	}
	if s.Proxy == nil {
		s.Proxy = m.proxy
	}
	for _, id := range credentials(s) {
		a.giveSecret(s, u, id)
	}
	for _, id := range sshIDs(s) {
		ssh, ok := u.cfg.SSH[id]
		if _, known := s.SSH[id]; ok && !known {
			if s.SSH == nil {
				s.SSH = make(map[string]config.SSH)
			}
			s.SSH[id] = ssh
		}
	}
	exec := s.Op.GetExec()
	if exec == nil {
		return
	}
	if n := u.cfg.Retries; n > s.Retries || n == s.Retries && n > 0 && u.cfg.RetryDelay > s.RetryDelay {
		s.Retries, s.RetryDelay = n, u.cfg.RetryDelay
	}
	for _, id := range secretIDs(exec) {
		a.giveSecret(s, u, id)
	}
}

// follow adds to what is named of a build context what a target names of it.
func (a *assembler) follow(s *Step, m *mark) {
	if a.whole[s] = a.whole[s] || len(m.follow) == 0; a.whole[s] {
		s.Local.Follow = nil
		return
	}
	s.Local.Follow = append(s.Local.Follow, m.follow...)
	slices.Sort(s.Local.Follow)
	s.Local.Follow = slices.Compact(s.Local.Follow)
}

// giveSecret lets a step ask for a secret of a target, if the target has it.
func (a *assembler) giveSecret(s *Step, u *unit, id string) {
	secret, ok := u.cfg.Secrets[id]
	if _, known := s.Secrets[id]; !ok || known {
		return
	}
	if s.Secrets == nil {
		s.Secrets = make(map[string]config.Secret)
	}
	s.Secrets[id] = secret
}

// credentials are the secrets that fetching a source may need.
func credentials(s *Step) []string {
	switch {
	case s.File != nil:
		return s.File.SecretIDs()
	case s.Tree != nil:
		return s.Tree.SecretIDs()
	}
	return nil
}

// sshIDs are the SSH agents that a step may ask for.
func sshIDs(s *Step) []string {
	if s.Tree != nil && s.Tree.SSH != "" {
		return []string{s.Tree.SSH}
	}
	var out []string
	if exec := s.Op.GetExec(); exec != nil {
		for _, m := range exec.Mounts {
			if m.SSHOpt != nil {
				out = append(out, cmp.Or(m.SSHOpt.ID, "default"))
			}
		}
	}
	return out
}

// secretIDs are the secrets that a RUN may ask for.
func secretIDs(exec *pb.ExecOp) []string {
	var out []string
	for _, m := range exec.Mounts {
		if m.SecretOpt != nil {
			out = append(out, m.SecretOpt.ID)
		}
	}
	for _, e := range exec.Secretenv {
		out = append(out, e.ID)
	}
	return out
}

func (a *assembler) target(u *unit) *Target {
	t := &Target{Name: u.cfg.Name, Config: u.cfg, Requested: u.cfg.Requested, Asked: u.asked}
	for _, dep := range u.after {
		t.Needs = append(t.Needs, dep.cfg.Name)
	}
	t.Needs = append(t.Needs, u.cfg.DependsOn...)
	slices.Sort(t.Needs)
	t.Needs = slices.Compact(t.Needs)
	for _, r := range u.runs {
		res := &Result{
			Target: t, Platform: r.converted.platform, Root: a.edge(r.graph.root), Stage: a.stages.result[r],
			Config: r.converted.config, Epoch: r.converted.epoch, SBOM: a.edge(r.graph.sbom), SBOMStage: a.stages.sbom[r],
			Materials: r.materials(),
		}
		res.Layers, res.Base = layers(res.Root)
		t.Results = append(t.Results, res)
	}
	return t
}

// layers follows the root file system of a result down to what it starts from:
// every step on the way leaves a layer.
func layers(root Input) ([]Input, *BaseImage) {
	var out []Input
	for in := root; in.Step != nil; in = Parent(in) {
		if in.Step.Image != nil {
			slices.Reverse(out)
			return out, in.Step.Image
		}
		out = append(out, in)
	}
	slices.Reverse(out)
	return out, nil
}

// Parent is the tree that a step's output was made on. Its Step is nil for the
// empty tree.
func Parent(in Input) Input {
	at := func(i int64) Input {
		if i < 0 || int(i) >= len(in.Step.Inputs) {
			return Input{}
		}
		return in.Step.Inputs[i]
	}
	switch op := in.Step.Op.Op.(type) {
	case *pb.Op_Exec:
		for _, m := range op.Exec.Mounts {
			if m.MountType == pb.MountType_BIND && m.Output == int64(in.Index) {
				return at(m.Input)
			}
		}
	case *pb.Op_File:
		i := slices.IndexFunc(op.File.Actions, func(a *pb.FileAction) bool { return a.Output == int64(in.Index) })
		for i >= 0 && i < len(op.File.Actions) {
			next := op.File.Actions[i].Input
			if int(next) < len(in.Step.Inputs) {
				return at(next)
			}
			i = int(next) - len(in.Step.Inputs)
		}
	case *pb.Op_Merge:
		// The others are this step's own layer: with a COPY --link, the one copy.
		return at(op.Merge.Inputs[0].Input)
	}
	return Input{}
}
