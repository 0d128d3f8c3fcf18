package runner

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/planner"
)

// Reason is why a step was not taken from the cache.
type Reason string

// The reasons.
const (
	ReasonNew          Reason = "never built before"
	ReasonChanged      Reason = "its key changed"
	ReasonNoCache      Reason = "no-cache is set for it"
	ReasonInputNoCache Reason = "it builds on a step that runs because of no-cache"
	ReasonGone         Reason = "its result is gone from the store"
	ReasonAstray       Reason = "what it builds on was made anew"
	ReasonForgotten    Reason = "its result is not in the cache any more"
)

// Explanation says why a step ran.
type Explanation struct {
	Step   *planner.Step
	Reason Reason
	// Changes are what changed against the last run, for ReasonChanged.
	Changes []Change
}

// Change is a part of a key that is not what it was.
type Change struct {
	// What it is: "instruction", "its input (RUN npm ci)", "files services/api", or
	// "variable VERSION".
	What string
	// Old and New are the instruction before and now, if those differ; New alone
	// is what was not there before, Old alone what is not there any more.
	Old, New string
	// Unknown says that what there was is gone, so that nothing can be said of it but
	// that it came about in another way.
	Unknown bool
	// Files are some of the files that changed, relative to their context, and
	// More is how many others there are. Removed files are not known.
	Files []string
	More  int
}

// maxFiles is how many files a change names.
const maxFiles = 5

// explain says of every step that ran why, and remembers what there is now. since
// is when the run began.
func (r *run) explain(result *Result, since time.Time) error {
	history := r.opt.History
	if history == nil {
		return nil
	}
	sum, idle := r.sum()
	if idle && sum != "" && history.unchanged(sum, since) {
		return nil
	}
	history.forget(since)
	var errs []string
	reasons := make(map[*node]Explanation)
	chapters, err := history.chapters(r.plan)
	if err != nil {
		r.warn(nil, err)
	}
	for _, c := range chapters {
		now := make([]pastStage, len(c.stages))
		for i, st := range c.stages {
			old := c.before(st)
			now[i].Targets = st.Targets
			steps := stageSteps(st)
			was := old.align(steps)
			for j, s := range steps {
				n := r.nodes[s]
				reasons[n] = r.why(n, was[j])
				now[i].Steps = append(now[i].Steps, n.present(was[j], since))
			}
		}
		if err := c.write(now); err != nil {
			errs = append(errs, err.Error())
		}
	}
	for _, n := range r.order {
		if e, ok := reasons[n]; ok && n.started {
			result.Explanations = append(result.Explanations, e)
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("what steps were made of cannot be remembered: %s", strings.Join(errs, "; "))
	}
	if sum != "" {
		history.remember(sum)
	}
	return nil
}

// sum stands for all that the history is to say of this run; it is empty if a step has not
// come to its end. idle says that no step was started, so that there is nothing to explain.
func (r *run) sum() (sum digest.Digest, idle bool) {
	idle = true
	whole := true
	of := digest.Canonical.Digester()
	for _, st := range r.plan.Stages {
		steps := stageSteps(st)
		if len(steps) == 0 {
			continue
		}
		fmt.Fprintf(of.Hash(), "%s %q\n", stagePlace(st), st.Targets)
		for _, s := range steps {
			n := r.nodes[s]
			idle = idle && !n.started
			whole = whole && n.ended()
			fmt.Fprintln(of.Hash(), n.key.Digest)
		}
	}
	if !whole {
		return "", idle
	}
	return of.Digest(), idle
}

// ended reports whether a step was done, or did not have to be.
func (n *node) ended() bool {
	return n.keyErr == nil && (n.unit == nil || n.unit.state == unitDone)
}

// present is what the history is to say of a step: what it was, if it has not
// come to its end.
func (n *node) present(was pastStep, since time.Time) pastStep {
	if !n.ended() || n.key.Digest == was.Key {
		return was
	}
	return pastStep{Name: n.step.Name, Key: n.key.Digest, Parts: n.key.Parts, Env: envParts(n.step), Since: since.UTC()}
}

// why compares a step with what stood in its place.
func (r *run) why(n *node, was pastStep) Explanation {
	e := Explanation{Step: n.step}
	switch {
	case !n.started:
	case n.step.NoCache:
		e.Reason = ReasonNoCache
	case n.noCache:
		e.Reason = ReasonInputNoCache
	case n.lost:
		e.Reason = ReasonGone
	case n.astray:
		e.Reason = ReasonAstray
	case was.Key == "":
		e.Reason = ReasonNew
	case was.Key == n.key.Digest && len(n.differs) == 0:
		e.Reason = ReasonForgotten
	default:
		e.Reason = ReasonChanged
		e.Changes = append(r.changes(n, was), n.contentChanges()...)
	}
	return e
}

// changes lists the parts of a key that are not what they were.
func (r *run) changes(n *node, was pastStep) []Change {
	old := make(map[string]Part, len(was.Parts))
	for _, p := range was.Parts {
		old[role(p.Name)] = p
	}
	var out []Change
	for i, p := range n.key.Parts {
		o, there := old[role(p.Name)]
		delete(old, role(p.Name))
		if there && n.compared && n.selective(i-1) {
			continue // its content tells
		}
		c := Change{What: inWords(p.Name)}
		switch {
		case there && o.Digest == p.Digest:
			continue
		case p.Name == partInstruction:
			out = append(out, instructionChanges(n.step, was)...)
			continue
		case !there:
			c.New = c.What
		case strings.HasPrefix(p.Name, partFiles):
			c.Files, c.More = r.changedFiles(n.step, p.Name, was.Since)
		}
		out = append(out, c)
	}
	for _, p := range was.Parts {
		if _, left := old[role(p.Name)]; left {
			out = append(out, Change{What: inWords(p.Name), Old: inWords(p.Name)})
		}
	}
	return out
}

// inWords is a part's name for somebody who does not know how steps are numbered.
func inWords(part string) string {
	if part == partFiles {
		return partFiles + "." // the whole context
	}
	if numbered := role(part); numbered != part {
		return "its input" + strings.TrimPrefix(part, numbered)
	}
	return part
}

// contentChanges says what the step takes of other steps' outputs and is not what
// it was.
func (n *node) contentChanges() []Change {
	var out []Change
	for _, d := range n.differs {
		c := Change{
			What: fmt.Sprintf("%s of its input (%s)", path.Join("/", d.sel.Path), n.step.Inputs[d.input].Step.Name),
			Old:  shortDigest(d.old), New: shortDigest(d.now),
		}
		if d.old == "" {
			c.Old, c.New, c.Unknown = "", "", true
		}
		out = append(out, c)
	}
	return out
}

// shortDigest is enough of a digest to tell it from another one.
func shortDigest(d digest.Digest) string {
	const digits = 12
	hex := d[strings.IndexByte(string(d), ':')+1:]
	return string(hex[:min(digits, len(hex))])
}

// role is what a part is to a step: an input may be another step than it was.
func role(part string) string {
	if role, _, ok := strings.Cut(part, " ("); ok && strings.HasPrefix(part, partInput) {
		return role
	}
	return part
}

// instructionChanges says what is different about an instruction: its text, or
// the variables that it is given.
func instructionChanges(step *planner.Step, was pastStep) []Change {
	var out []Change
	if step.Name != was.Name {
		out = append(out, Change{What: partInstruction, Old: was.Name, New: step.Name})
	}
	old := make(map[string]digest.Digest, len(was.Env))
	for _, p := range was.Env {
		old[p.Name] = p.Digest
	}
	env := envParts(step)
	for _, p := range env {
		d, there := old[p.Name]
		switch {
		case !there:
			out = append(out, Change{What: "variable " + p.Name, New: p.Name})
		case d != p.Digest:
			out = append(out, Change{What: "variable " + p.Name})
		}
	}
	for _, p := range was.Env {
		if !slices.ContainsFunc(env, func(q Part) bool { return q.Name == p.Name }) {
			out = append(out, Change{What: "variable " + p.Name, Old: p.Name})
		}
	}
	if len(out) == 0 {
		out = append(out, Change{What: partInstruction})
	}
	return out
}

// changedFiles names files of a selection that have changed since a time: those
// that had to be read in this run.
func (r *run) changedFiles(step *planner.Step, part string, since time.Time) (names []string, more int) {
	for _, s := range selections(step) {
		if s.partName() != part || len(s.sel.Include)+len(s.sel.Exclude) > 0 {
			continue
		}
		for _, f := range r.keyer.hasher.Changed(since) {
			if rel, ok := s.takes(f); ok && !slices.Contains(names, rel) {
				names = append(names, rel)
			}
		}
	}
	slices.Sort(names)
	if len(names) > maxFiles {
		names, more = names[:maxFiles], len(names)-maxFiles
	}
	return names, more
}

// takes reports whether a file is what the selection names, or lies in it, and
// what it is called in the context.
func (s selection) takes(file string) (string, bool) {
	rel, err := filepath.Rel(s.tree.Dir, file)
	if err != nil || !filepath.IsLocal(rel) {
		return "", false
	}
	want := filepath.Clean(strings.TrimPrefix(filepath.FromSlash(s.sel.Path), string(filepath.Separator)))
	for p := rel; ; p = filepath.Dir(p) {
		matched := p == want
		if s.sel.Wildcard && !matched {
			matched, _ = filepath.Match(want, p)
		}
		if matched {
			return filepath.ToSlash(rel), true
		}
		if p == "." {
			return "", false
		}
	}
}
