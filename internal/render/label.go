package render

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/zbuild/zbuild/planner"
)

// labels knows what the steps of a plan are called.
type labels struct {
	style Style
	// platforms is set if the plan has stages for more than one platform: a
	// label then says which.
	platforms bool
	targets   map[*planner.Step][]string // sorted
	position  map[*planner.Step]position
	stages    map[string]int // number of stages that a target needs
	requested map[string]bool
}

type position struct{ index, of int }

func newLabels(plan *planner.Plan, style Style) *labels {
	l := &labels{
		style:     style,
		targets:   make(map[*planner.Step][]string),
		position:  make(map[*planner.Step]position),
		stages:    make(map[string]int),
		requested: make(map[string]bool),
	}
	if plan == nil {
		return l
	}
	seen := make(map[string]bool)
	for _, stage := range plan.Stages {
		seen[platform(stage.Platform)] = true
		for _, name := range stage.Targets {
			l.stages[name]++
		}
		for _, step := range stage.Steps {
			l.targets[step] = append(l.targets[step], stage.Targets...)
		}
		l.count(stage)
	}
	l.platforms = len(seen) > 1
	for step, names := range l.targets {
		slices.Sort(names)
		l.targets[step] = slices.Compact(names)
	}
	for _, t := range plan.Targets {
		l.requested[t.Name] = t.Requested
	}
	return l
}

// count numbers the instructions of a stage. What no instruction stands for,
// such as a build context, has no number.
func (l *labels) count(stage *planner.Stage) {
	var numbered []*planner.Step
	for _, step := range stage.Steps {
		if step.Local == nil && (step.Location != nil || step.Image != nil) {
			numbered = append(numbered, step)
		}
	}
	for i, step := range numbered {
		if step.Stage == stage {
			l.position[step] = position{i + 1, len(numbered)}
		}
	}
}

// name is what a step is called: "[api build 2/5] RUN make".
func (l *labels) name(step *planner.Step) string {
	if step.Local != nil {
		return "[internal] load build context (" + l.style.path(step.Local.Dir) + ")"
	}
	name := foreign(strings.Join(strings.Fields(step.Name), " "))
	if label := l.label(step); label != "" {
		return "[" + label + "] " + name
	}
	return name
}

// label says where a step belongs, without brackets.
func (l *labels) label(step *planner.Step) string {
	if step.Stage == nil {
		return ""
	}
	var words []string
	if l.platforms {
		words = append(words, platform(step.Stage.Platform))
	}
	words = append(words, l.place(step)...)
	if p, ok := l.position[step]; ok {
		words = append(words, fmt.Sprintf("%d/%d", p.index, p.of))
	}
	return strings.Join(words, " ")
}

// unnamed reports whether a stage has a number for a name, because it has none of its own.
func unnamed(stage string) bool {
	number, ok := strings.CutPrefix(stage, "stage-")
	return ok && number != "" && strings.Trim(number, "0123456789") == ""
}

// place is the target and the stage of a step, or the stage and its targets if
// there are several.
func (l *labels) place(step *planner.Step) []string {
	stage, targets := step.Stage.Name, l.targets[step]
	switch {
	case len(targets) == 0:
		return []string{stage}
	case len(targets) > 1 && l.onlyStage(stage, targets):
		return []string{several(targets)}
	case len(targets) > 1:
		return []string{stage, "(" + several(targets) + ")"}
	case targets[0] == stage:
		return []string{stage}
	case l.onlyStage(stage, targets):
		return targets
	default:
		return []string{targets[0], stage}
	}
}

// onlyStage reports whether a stage is without a name and the only one that the
// targets need: there is nothing to tell it from.
func (l *labels) onlyStage(stage string, targets []string) bool {
	return unnamed(stage) && !slices.ContainsFunc(targets, func(t string) bool { return l.stages[t] > 1 })
}

// several names a few targets, or says how many there are.
func several(targets []string) string {
	const longest = 30
	if s := strings.Join(targets, ", "); len(targets) <= 3 && len(s) <= longest {
		return s
	}
	return fmt.Sprintf("%d targets", len(targets))
}

// affected are the targets that cannot be had without the step: the requested
// ones of them, or all if none of them was requested.
func (l *labels) affected(step *planner.Step) []string {
	all := l.targets[step]
	var requested []string
	for _, name := range all {
		if l.requested[name] {
			requested = append(requested, name)
		}
	}
	if len(requested) == 0 {
		return all
	}
	return requested
}

func platform(p ocispecs.Platform) string { return platforms.Format(platforms.Normalize(p)) }
