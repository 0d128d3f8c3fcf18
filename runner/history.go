package runner

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/internal/sealed"
	"github.com/zbuild/zbuild/planner"
)

// History remembers what the keys of steps were made of at the last run, by the
// place where the steps stand, and so can tell what has changed. No decision
// depends on it.
type History struct{ dir string }

// NewHistory makes a history in a directory, which need not exist.
func NewHistory(dir string) *History { return &History{dir: dir} }

// pastStage is a stage of a Dockerfile as it was. Targets that give it different
// arguments have one each.
type pastStage struct {
	Targets []string   `json:"targets"`
	Steps   []pastStep `json:"steps"` // by position; one without a key was never done
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
