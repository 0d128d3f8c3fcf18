package runner

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"github.com/pmezard/go-difflib/difflib"

	"github.com/zbuild/zbuild/internal/sealed"
	"github.com/zbuild/zbuild/planner"
)

// History remembers what the keys of a project's steps were made of at the last run, by
// the place where the steps stand, and so can tell what has changed. No decision
// depends on it.
type History struct {
	all string // the directory of all projects' histories
	dir string
}

const (
	// historyAge is how long the history of a project is kept that is not built any more.
	historyAge = 90 * 24 * time.Hour
	// lastName is the file that says what the last run came to; see History.unchanged.
	lastName = "last"
)

// NewHistory makes the history of a project in a directory that many projects share, and
// that need not exist. Two projects may have the same names for everything, so project is
// what tells them apart: the absolute path of its directory.
func NewHistory(dir, project string) *History {
	return &History{all: dir, dir: filepath.Join(dir, digest.FromString(project).Encoded()[:32])}
}

// unchanged reports whether the last run came to the same, which sum stands for: then the
// history says already what it is to say, and need not be read. now is when this run began.
func (h *History) unchanged(sum digest.Digest, now time.Time) bool {
	var last digest.Digest
	at, err := sealed.Read(filepath.Join(h.dir, lastName), &last)
	if err != nil || last != sum {
		return false
	}
	if now.Sub(at).Abs() > historyAge/10 {
		h.remember(sum) // that it is in use
	}
	return true
}

// forget says that the history is about to change: whoever is stopped in the middle of
// that has not come to anything.
func (h *History) forget(now time.Time) {
	if err := os.Remove(filepath.Join(h.dir, lastName)); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return
	}
	if _, err := os.Lstat(h.dir); err == nil {
		return
	}
	// A new project: a good time to let go of old ones. Those of the future were made while
	// the clock was wrong.
	entries, _ := os.ReadDir(h.all)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && now.Sub(info.ModTime()).Abs() > historyAge {
			_ = os.RemoveAll(filepath.Join(h.all, e.Name()))
		}
	}
}

// remember says what a run came to. That it cannot be said only costs time.
func (h *History) remember(sum digest.Digest) {
	_ = sealed.Write(filepath.Join(h.dir, lastName), sum)
}

// pastStage is a stage of a Dockerfile as it was. Targets that give it different
// arguments have one each.
type pastStage struct {
	Targets []string   `json:"targets"`
	Steps   []pastStep `json:"steps"` // in order; one without a key was never done
}

// pastStep is what a step's key was made of.
type pastStep struct {
	Name  string        `json:"name,omitempty"`
	Key   digest.Digest `json:"key,omitempty"`
	Parts []Part        `json:"parts,omitempty"`
	// Env are the variables of a RUN, as digests: their values are nobody's
	// business here.
	Env []Part `json:"env,omitempty"`
	// Since is when the run began that first had this key.
	Since time.Time `json:"since,omitzero"`
}

// chapter is what one file of the history is about: all variants of a stage.
type chapter struct {
	file   string
	raw    []byte
	past   []pastStage
	exact  map[string]*pastStage // of past, by their targets
	stages []*planner.Stage      // of the plan at hand
}

// chapters reads what there is to know of a plan's stages. The error says what of
// it is damaged, and is no reason to stop.
func (h *History) chapters(plan *planner.Plan) (all []*chapter, err error) {
	byFile := make(map[string]*chapter)
	for _, st := range plan.Stages {
		if len(stageSteps(st)) == 0 {
			continue
		}
		file := filepath.Join(h.dir, stagePlace(st))
		c := byFile[file]
		if c == nil {
			c = &chapter{file: file}
			_, readErr := sealed.Read(file, (*json.RawMessage)(&c.raw))
			if readErr == nil {
				readErr = json.Unmarshal(c.raw, &c.past)
			}
			if readErr != nil {
				c.past, c.raw = nil, nil
				if !errors.Is(readErr, fs.ErrNotExist) {
					err = fmt.Errorf("the history of a stage is damaged and made anew: %s", file)
				}
			}
			c.exact = make(map[string]*pastStage, len(c.past))
			for i := range c.past {
				c.exact[targetsID(c.past[i].Targets)] = &c.past[i]
			}
			byFile[file] = c
			all = append(all, c)
		}
		c.stages = append(c.stages, st)
	}
	return all, err
}

// stagePlace identifies a stage by where it stands, and not by what it does.
func stagePlace(st *planner.Stage) string {
	file := st.Dockerfile
	for _, s := range st.Steps {
		if s.Location != nil {
			file = s.Location.Filename
			break
		}
	}
	text := fmt.Sprintf("%q%q%q", file, st.Name, platforms.FormatAll(st.Platform))
	return digest.FromString(text).Encoded()[:32]
}

// stageSteps are the steps of a stage that do something, in order.
func stageSteps(st *planner.Stage) []*planner.Step {
	var out []*planner.Step
	for _, s := range st.Steps {
		if s.Stage == st && s.Local == nil && s.Image == nil {
			out = append(out, s)
		}
	}
	return out
}

// before finds what a stage was at the last run: for the same targets, or else
// for some of them; nil if it was never built.
func (c *chapter) before(st *planner.Stage) *pastStage {
	if p := c.exact[targetsID(st.Targets)]; p != nil {
		return p
	}
	var best *pastStage
	most := 0
	for i := range c.past {
		p := &c.past[i]
		if n := len(common(p.Targets, st.Targets)); n > most {
			best, most = p, n
		}
	}
	return best
}

// align finds for each step of a stage what it was at the last run: the step of the same
// name, or between two of these the next one of the same kind. Positions alone would not
// do: one instruction more, or one that targets do not share any more, and every step
// would be compared with its neighbour.
func (p *pastStage) align(steps []*planner.Step) []pastStep {
	was := make([]pastStep, len(steps))
	if p == nil {
		return was
	}
	past := slices.DeleteFunc(slices.Clone(p.Steps), func(s pastStep) bool { return s.Key == "" })
	before := make([]string, len(past))
	for i, s := range past {
		before[i] = s.Name
	}
	now := make([]string, len(steps))
	for i, s := range steps {
		now[i] = s.Name
	}
	for _, op := range difflib.NewMatcher(before, now).GetOpCodes() {
		i := op.I1
		for j := op.J1; j < op.J2; j++ {
			of := slices.IndexFunc(past[i:op.I2], func(s pastStep) bool { return instruction(s.Name) == instruction(now[j]) })
			if of >= 0 {
				was[j] = past[i+of]
				i += of + 1
			}
		}
	}
	return was
}

// instruction is what a step is an instance of: RUN, COPY.
func instruction(name string) string {
	word, _, _ := strings.Cut(name, " ")
	return word
}

func targetsID(names []string) string { return strings.Join(names, "\x00") }

// common is what is in both.
func common(a, b []string) []string {
	var out []string
	for _, s := range a {
		if slices.Contains(b, s) {
			out = append(out, s)
		}
	}
	return out
}

// write replaces the file if it is to say something else than it did. now are the
// plan's stages as they are now, parallel to c.stages.
func (c *chapter) write(now []pastStage) error {
	// Targets that were not asked for this time keep what is known for them: under
	// the stage that they shared with those that were.
	claimed := make(map[string]bool)
	for _, st := range c.stages {
		for _, t := range st.Targets {
			claimed[t] = true
		}
	}
	free := func(names []string) []string {
		return slices.DeleteFunc(slices.Clone(names), func(t string) bool { return claimed[t] })
	}
	all := slices.Clone(now)
	for i, st := range c.stages {
		if p := c.before(st); p != nil {
			rest := free(p.Targets)
			all[i].Targets = append(slices.Clone(all[i].Targets), rest...)
			slices.Sort(all[i].Targets)
			for _, t := range rest {
				claimed[t] = true
			}
		}
	}
	for _, p := range c.past {
		if p.Targets = free(p.Targets); len(p.Targets) > 0 {
			all = append(all, p)
		}
	}
	slices.SortStableFunc(all, func(a, b pastStage) int { return slices.Compare(a.Targets, b.Targets) })
	raw, err := json.Marshal(all)
	if err != nil || bytes.Equal(raw, c.raw) {
		return err
	}
	return sealed.Write(c.file, json.RawMessage(raw))
}

// envParts are the variables of a RUN, in the order of their names.
func envParts(step *planner.Step) []Part {
	exec, ok := step.Op.Op.(*pb.Op_Exec)
	if !ok || exec.Exec.Meta == nil {
		return nil
	}
	var parts []Part
	for _, v := range exec.Exec.Meta.Env {
		name, value, _ := bytes.Cut([]byte(v), []byte("="))
		parts = append(parts, Part{Name: string(name), Digest: digest.FromBytes(value)})
	}
	slices.SortStableFunc(parts, func(a, b Part) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	return parts
}
