package planner

import (
	"cmp"
	"slices"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// stages groups steps the way people see them: by the stages of Dockerfiles. LLB
// knows nothing of stages; a step belongs to the stage in whose lines its
// instruction stands, and which stage needs which is read off the Dockerfile.
type stages struct {
	a      *assembler
	all    []*Stage
	byKey  map[stageKey]*Stage
	result map[*run]*Stage
	sbom   map[*run]*Stage // what looks at the result
	byRun  map[*run]*runStages
}

// stageKey says when two stages are the same one.
type stageKey struct {
	dockerfile, name, platform string
	last                       digest.Digest // what the stage leaves
}

// runStages are the stages of one conversion, by their index in the Dockerfile.
type runStages struct {
	shape *outline
	r     *run
	steps [][]*Step
	last  []digest.Digest
	stage []*Stage
}

func newStages(a *assembler) *stages {
	return &stages{
		a: a, byKey: make(map[stageKey]*Stage), result: make(map[*run]*Stage), sbom: make(map[*run]*Stage), byRun: make(map[*run]*runStages),
	}
}

// add adds the stages of a conversion. Targets come in the order of their names,
// so those that it is linked to may have to be added first.
func (s *stages) add(r *run) {
	if s.byRun[r] != nil {
		return
	}
	rs := &runStages{shape: r.outline(), r: r}
	s.byRun[r] = rs
	for _, dep := range r.u.after {
		for _, other := range dep.runs {
			s.add(other)
		}
	}
	n := len(rs.shape.stages)
	rs.steps, rs.last, rs.stage = make([][]*Step, n), make([]digest.Digest, n), make([]*Stage, n)
	target := rs.shape.target(r.u.cfg)
	reached := rs.shape.reach(target)
	s.assign(rs, reached)
	for _, i := range reached {
		s.addStage(rs, i)
	}
	s.result[r] = rs.stage[target]
	s.addScan(rs, reached)
}

// addScan adds the stage that makes a result's SBOM.
func (s *stages) addScan(rs *runStages, reached []int) {
	g := rs.r.graph
	if g.sbom.v == nil {
		return
	}
	scanner := s.a.steps[g.sbom.v]
	key := stageKey{rs.shape.name, "sbom", platforms.FormatAll(rs.r.platform), scanner.ID}
	st := s.byKey[key]
	if st == nil {
		st = &Stage{ID: key.id(), Name: key.name, Platform: rs.r.platform, Dockerfile: key.dockerfile}
		for _, v := range g.order {
			if g.scan[v] {
				st.Steps = append(st.Steps, s.a.steps[v])
			}
			if v.image != nil && g.scan[v] {
				st.Base = v.image.Ref
			}
		}
		for _, i := range reached {
			last, _ := s.a.byID[string(rs.last[i])]
			read := slices.ContainsFunc(scanner.Inputs, func(in Input) bool { return in.Step == last })
			if on := rs.stage[i]; on != nil && (on == s.result[rs.r] || read) && !slices.Contains(st.Needs, on) {
				st.Needs = append(st.Needs, on)
			}
		}
		s.byKey[key] = st
		s.all = append(s.all, st)
	}
	s.sbom[rs.r] = st
}

// reach lists the stages that a stage needs, itself last.
func (o *outline) reach(target int) []int {
	var out []int
	seen := make(map[int]bool)
	var visit func(i int)
	visit = func(i int) {
		seen[i] = true
		for _, n := range o.stages[i].needs {
			if n.stage >= 0 && !seen[n.stage] {
				visit(n.stage)
			}
		}
		out = append(out, i)
	}
	visit(target)
	return out
}

// assign gives the steps of a conversion to the stages in whose lines they stand.
func (s *stages) assign(rs *runStages, reached []int) {
	for _, v := range rs.r.graph.order {
		m := rs.r.graph.marks[v]
		if m == nil || rs.r.graph.scan[v] {
			continue
		}
		step := s.a.steps[v]
		placed := v.local != nil // a build context belongs to no stage
		for _, l := range m.lines {
			for _, i := range reached {
				o := rs.shape.stages[i]
				if o.context != "" || l.first < o.first || l.first > o.last || slices.Contains(rs.steps[i], step) {
					continue
				}
				placed = true
				rs.steps[i] = append(rs.steps[i], step)
				if m.own {
					rs.last[i] = step.ID // of a stage, the last one builds on all others
				}
			}
		}
		if !placed && len(m.lines) == 0 {
			i := reached[len(reached)-1]
			rs.steps[i] = append(rs.steps[i], step)
		}
	}
}

// addStage adds a stage whose needs have been added.
func (s *stages) addStage(rs *runStages, i int) {
	o := rs.shape.stages[i]
	base := o.needs[0]
	platform, last := rs.r.platform, rs.last[i]
	linked := s.linked(rs, base)
	switch {
	case base.stage >= 0 && rs.stage[base.stage] != nil:
		platform = rs.stage[base.stage].Platform
		if last == "" {
			last = rs.last[base.stage]
		}
	case linked != nil:
		platform = linked.converted.platform
		if v := linked.graph.root.v; last == "" && v != nil {
			last = v.id
		}
	}
	if o.platform != nil {
		platform = *o.platform
	}
	if o.context != "" && linked != nil {
		rs.stage[i], rs.last[i] = s.result[linked], last // another target stands in
		return
	}
	rs.last[i] = last
	key := stageKey{rs.shape.name, o.name, platforms.FormatAll(platform), last}
	st := s.byKey[key]
	if st == nil {
		st = &Stage{ID: key.id(), Name: o.name, Base: o.base, Platform: platform, Dockerfile: rs.shape.name, Steps: rs.steps[i]}
		slices.SortFunc(st.Steps, func(a, b *Step) int { return s.a.index[a] - s.a.index[b] })
		s.byKey[key] = st
		s.all = append(s.all, st)
	}
	rs.stage[i] = st
	for j, n := range o.needs {
		var on *Stage
		if n.stage >= 0 {
			on = rs.stage[n.stage]
		} else if r := s.linked(rs, n); r != nil {
			on = s.result[r]
		}
		if j == 0 {
			st.From = on
		}
		if on != nil && on != st && !slices.Contains(st.Needs, on) {
			st.Needs = append(st.Needs, on)
		}
	}
}

// linked is the conversion of another target that a need means, or nil.
func (s *stages) linked(rs *runStages, n need) *run {
	to := rs.r.u.links[n.context]
	if n.context == "" || to == nil {
		return nil
	}
	want := rs.r.platform
	for _, o := range rs.shape.stages {
		if o.needs[0].context == n.context && o.platform != nil {
			want = *o.platform
		}
	}
	return pick(to.runs, want)
}

func pick(runs []*run, platform ocispecs.Platform) *run {
	id := platforms.FormatAll(platform)
	for _, r := range runs {
		if platforms.FormatAll(r.platform) == id {
			return r
		}
	}
	return runs[0]
}

func (k stageKey) id() string {
	text := k.dockerfile + "\x00" + k.name + "\x00" + k.platform + "\x00" + string(k.last)
	return digest.FromString(text).Encoded()[:16]
}

// finish puts the stages in order and says which targets they are for.
func (s *stages) finish(units []*unit) {
	for _, u := range units {
		for _, r := range u.runs {
			s.needed(s.result[r], u.cfg.Name, make(map[*Stage]bool))
			s.needed(s.sbom[r], u.cfg.Name, make(map[*Stage]bool))
		}
	}
	order := make(map[*Stage]int)
	var rank func(st *Stage) int
	rank = func(st *Stage) int {
		if n := len(st.Steps); n > 0 {
			return s.a.index[st.Steps[n-1]]
		}
		last := -1 // without steps of its own it comes where its base does
		for _, n := range st.Needs {
			last = max(last, rank(n))
		}
		return last
	}
	for _, st := range s.all {
		order[st] = rank(st)
	}
	slices.SortStableFunc(s.all, func(a, b *Stage) int { return cmp.Compare(order[a], order[b]) })
	position := make(map[*Stage]int)
	for i, st := range s.all {
		position[st] = i
	}
	for _, st := range s.all {
		slices.SortFunc(st.Needs, func(a, b *Stage) int { return position[a] - position[b] })
		for _, step := range st.Steps {
			if step.Stage == nil {
				step.Stage = st
			}
		}
	}
	s.a.plan.Stages = s.all
}

// needed notes that a target needs a stage, and all that the stage needs.
func (s *stages) needed(st *Stage, target string, seen map[*Stage]bool) {
	if st == nil || seen[st] {
		return
	}
	seen[st] = true
	if !slices.Contains(st.Targets, target) { // targets come in order
		st.Targets = append(st.Targets, target)
	}
	for _, n := range st.Needs {
		s.needed(n, target, seen)
	}
}
