package graphview

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/containerd/platforms"

	"github.com/zbuild/zbuild/planner"
)

// maxName is how much of an instruction is shown.
const maxName = 72

// tree is a drawing in the making.
type tree struct {
	View
	plan  *planner.Plan
	multi bool
	files int // number of Dockerfiles
	drawn map[*planner.Stage]bool
	met   []*planner.Stage // those that had been drawn already
	lines []line
}

// Tree draws the plan as text. Each target is a tree of the stages that it
// needs; a stage that several need is drawn once, where it is met first. Targets
// whose trees would look the same share one.
func (v View) Tree(w io.Writer, p *planner.Plan) error {
	t := &tree{View: v, plan: p, drawn: make(map[*planner.Stage]bool), multi: multiPlatform(p), files: dockerfiles(p)}
	for _, alike := range t.alike() {
		t.targets(alike)
		t.add("", "")
	}
	t.add(total(p), "")
	return t.write(w)
}

// alike groups targets whose trees look the same if a shared stage is taken for
// a name.
func (t *tree) alike() [][]*planner.Target {
	var out [][]*planner.Target
	at := make(map[string]int)
	for _, target := range t.plan.Targets {
		sketch := &tree{View: t.View, plan: t.plan, drawn: make(map[*planner.Stage]bool), multi: t.multi, files: t.files}
		for _, s := range t.plan.Stages {
			sketch.drawn[s] = len(s.Targets) > 1
		}
		sketch.add("", t.targetNote(target))
		sketch.target(target)
		var b strings.Builder
		for _, l := range sketch.lines {
			fmt.Fprintf(&b, "%s\n%s\n", l.text, l.note)
		}
		for _, s := range sketch.met {
			b.WriteString(s.ID + "\n")
		}
		i, ok := at[b.String()]
		if !ok {
			i = len(out)
			at[b.String()] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], target)
	}
	return out
}

// line is a line of the drawing and what is said about it, in a column of its own.
type line struct{ text, note string }

func (t *tree) add(text, note string) { t.lines = append(t.lines, line{text, note}) }

// write aligns the notes.
func (t *tree) write(w io.Writer) error {
	const widest = 48 // a long line shall not move all notes
	column := 0
	for _, l := range t.lines {
		if n := utf8.RuneCountInString(l.text); l.note != "" && n <= widest {
			column = max(column, n)
		}
	}
	out := bufio.NewWriter(w)
	for _, l := range t.lines {
		text := l.text
		if l.note != "" {
			pad := max(0, column-utf8.RuneCountInString(l.text))
			text += strings.Repeat(" ", pad+2) + l.note
		}
		fmt.Fprintln(out, text)
	}
	return out.Flush()
}

// targets draws targets whose trees look the same.
func (t *tree) targets(alike []*planner.Target) {
	const width = 76
	note := t.targetNote(alike[0])
	if len(alike) > 1 {
		note = strings.TrimSuffix(plural(len(alike), "target")+"; "+note, "; ")
	}
	text := ""
	for i, target := range alike {
		name := target.Name
		if i < len(alike)-1 {
			name += ","
		}
		if text != "" && utf8.RuneCountInString(text)+1+utf8.RuneCountInString(name) > width {
			t.add(text, "")
			text = ""
		}
		text = strings.TrimPrefix(text+" "+name, " ")
	}
	t.add(text, note)
	t.target(alike[0])
}

// targetNote is what there is to say about a target.
func (t *tree) targetNote(target *planner.Target) string {
	notes := platformsOf(target)
	if len(notes) > 0 {
		notes = []string{strings.Join(notes, ", ")}
	}
	if t.files > 1 && len(target.Results) > 0 && target.Results[0].Stage != nil {
		notes = append(notes, target.Results[0].Stage.Dockerfile)
	}
	if !target.Requested {
		if by := neededBy(t.plan, target.Name); len(by) > 0 {
			notes = append(notes, "for "+targetsOf(by))
		}
	}
	return strings.Join(notes, "; ")
}

func (t *tree) target(target *planner.Target) {
	var stages []*planner.Stage
	for _, r := range target.Results {
		switch {
		case r.SBOMStage != nil: // which needs the other
			stages = append(stages, r.SBOMStage)
		case r.Stage != nil:
			stages = append(stages, r.Stage)
		}
	}
	var children []child
	for _, g := range grouped(stages) {
		children = append(children, child{group: g})
	}
	t.children(target, "", children)
}

// child is what hangs below a target or a stage.
type child struct {
	group  *group
	target string // a target that stands for itself, instead of a stage
	image  string
	step   string
}

func (t *tree) children(target *planner.Target, indent string, children []child) {
	for i, c := range children {
		branch, below := "├── ", "│   "
		if i == len(children)-1 {
			branch, below = "└── ", "    "
		}
		switch {
		case c.step != "":
			t.add(indent+branch+c.step, "")
		case c.image != "":
			t.add(indent+branch+c.image, "image")
		case c.target != "":
			t.add(indent+branch+c.target, "target")
		default:
			t.group(target, indent+branch, indent+below, c.group)
		}
	}
}

// group draws stages that look the same, and what they need.
func (t *tree) group(target *planner.Target, first, indent string, g *group) {
	again := true
	for _, s := range g.stages {
		again = again && t.drawn[s]
		t.drawn[s] = true
	}
	if again {
		t.met = append(t.met, g.stages...)
		t.add(first+g.name, "(see above)")
		return
	}
	t.add(first+g.name, t.note(target, g))
	var children []child
	if t.Steps {
		for _, step := range steps(g) {
			children = append(children, child{step: step})
		}
	}
	t.children(target, indent, append(children, t.needs(g)...))
}

// steps are the names of the steps of stages that look the same, each once.
func steps(g *group) []string {
	var out []string
	for _, s := range g.stages {
		for _, step := range work(s) {
			if name := clean(step.Name, maxName); !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// needs is what the stages of a group start and copy from.
func (t *tree) needs(g *group) []child {
	var out []child
	var stages []*planner.Stage
	for _, s := range g.stages {
		for _, n := range s.Needs {
			if name := t.linked(s, n); name == "" {
				stages = append(stages, n)
			} else if !slices.ContainsFunc(out, func(c child) bool { return c.target == name }) {
				out = append(out, child{target: name})
			}
		}
	}
	for _, n := range grouped(sortedStages(t.plan, stages)) {
		out = append(out, child{group: n})
	}
	for _, s := range g.stages {
		for _, name := range images(s) {
			if !slices.ContainsFunc(out, func(c child) bool { return c.image == name }) {
				out = append(out, child{image: name})
			}
		}
	}
	return out
}

// linked is the name of the target whose result a stage needs, if the need
// leaves the Dockerfile. The target has a tree of its own.
func (t *tree) linked(from, to *planner.Stage) string {
	if from.Dockerfile == to.Dockerfile {
		return ""
	}
	for _, other := range t.plan.Targets {
		for _, r := range other.Results {
			if r.Stage == to {
				return other.Name
			}
		}
	}
	return ""
}

func (t *tree) note(target *planner.Target, g *group) string {
	most := 0
	var shared, on []string
	for _, s := range g.stages {
		most = max(most, len(work(s)))
		for _, name := range s.Targets {
			if !slices.Contains(shared, name) {
				shared = append(shared, name)
			}
		}
		if p := platforms.FormatAll(s.Platform); !slices.Contains(on, p) {
			on = append(on, p)
		}
	}
	notes := []string{plural(most, "step")}
	if t.multi {
		notes = append(notes, strings.Join(on, ", "))
	}
	if len(g.stages) > len(on) { // one for each platform, all on the same
		notes[len(notes)-1] += " → " + strings.Join(platformsOf(target), ", ")
	}
	// Who else needs a stage is of interest; that its own target does is not.
	slices.Sort(shared)
	if len(shared) > 1 || len(shared) == 1 && shared[0] != target.Name {
		notes = append(notes, "shared by "+targetsOf(shared))
	}
	return strings.Join(notes, "; ")
}
