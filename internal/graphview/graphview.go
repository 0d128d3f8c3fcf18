// Package graphview draws a plan: its targets, the stages that they need and the
// images that these start from, as text, for Mermaid and for Graphviz.
//
// It only looks at the plan, and draws the same plan the same way every time.
package graphview

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"

	"github.com/zbuild/zbuild/planner"
)

// View says what is drawn. The zero value draws stages without their steps.
type View struct {
	// Steps draws the steps of each stage, too.
	Steps bool
}

// image is what people call an image: without what goes without saying.
func image(img *planner.BaseImage) string {
	named, err := reference.ParseNormalizedNamed(img.Ref)
	if err != nil {
		return img.Ref
	}
	return reference.FamiliarString(named)
}

// images are the images that a stage reads from, that of its FROM first.
func images(s *planner.Stage) []string {
	var out []string
	for _, step := range s.Steps {
		if step.Image == nil {
			continue
		}
		if name := image(step.Image); !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// isBase reports whether a stage starts from the image, instead of copying from it.
func isBase(s *planner.Stage, name string) bool {
	all := images(s)
	return s.From == nil && s.Base != "scratch" && len(all) > 0 && all[0] == name
}

// work are the steps of a stage that do something: that is neither an image nor
// a part of another step.
func work(s *planner.Stage) []*planner.Step {
	var out []*planner.Step
	for _, step := range s.Steps {
		if step.Image == nil && step.Location != nil {
			out = append(out, step)
		}
	}
	return out
}

// plural is a number of things.
func plural(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

// targetsOf names the targets that a stage is for, or says how many they are.
func targetsOf(s []string) string {
	const most = 4
	if len(s) > most {
		return plural(len(s), "target")
	}
	return strings.Join(s, ", ")
}

// clean makes text from elsewhere fit for one line of at most n characters.
func clean(text string, n int) string {
	runes := []rune(strings.Join(strings.Fields(text), " "))
	for i, r := range runes {
		if !unicode.IsPrint(r) {
			runes[i] = unicode.ReplacementChar
		}
	}
	if len(runes) > n {
		runes = append(runes[:n-1], '…')
	}
	return string(runes)
}

// platformsOf are the platforms of a target's results, if it was asked for any.
func platformsOf(t *planner.Target) []string {
	if t.Config == nil || len(t.Config.Platforms) == 0 {
		return nil
	}
	var out []string
	for _, r := range t.Results {
		out = append(out, platforms.FormatAll(r.Platform))
	}
	return out
}

// neededBy are the targets that need a target, by name.
func neededBy(p *planner.Plan, name string) []string {
	var out []string
	for _, t := range p.Targets {
		if slices.Contains(t.Needs, name) {
			out = append(out, t.Name)
		}
	}
	return out
}

// multiPlatform reports whether a plan has stages for several platforms, so that
// it must be said which stage is for which.
func multiPlatform(p *planner.Plan) bool {
	for _, s := range p.Stages {
		if platforms.FormatAll(s.Platform) != platforms.FormatAll(p.Stages[0].Platform) {
			return true
		}
	}
	return false
}

// dockerfiles counts the Dockerfiles of a plan.
func dockerfiles(p *planner.Plan) int {
	seen := make(map[string]bool)
	for _, s := range p.Stages {
		seen[s.Dockerfile] = true
	}
	return len(seen)
}

// total sums a plan up.
func total(p *planner.Plan) string {
	steps, shared := 0, 0
	for _, s := range p.Steps {
		if s.Image == nil && s.Location != nil {
			steps++
		}
	}
	for _, s := range p.Stages {
		if len(s.Targets) > 1 {
			shared++
		}
	}
	out := fmt.Sprintf("%s, %s, %s", plural(len(p.Targets), "target"), plural(len(p.Stages), "stage"), plural(steps, "step"))
	if shared > 0 {
		out += "; " + plural(shared, "stage") + " shared"
	}
	return out
}

// group is the stages that look the same to people: those of one target that
// come from one stage of a Dockerfile, for different platforms or arguments.
type group struct {
	name, dockerfile string
	stages           []*planner.Stage
}

// grouped groups stages, in the order of their first ones.
func grouped(stages []*planner.Stage) []*group {
	var out []*group
	for _, s := range stages {
		i := slices.IndexFunc(out, func(g *group) bool { return g.name == s.Name && g.dockerfile == s.Dockerfile })
		if i < 0 {
			i = len(out)
			out = append(out, &group{name: s.Name, dockerfile: s.Dockerfile})
		}
		if !slices.Contains(out[i].stages, s) {
			out[i].stages = append(out[i].stages, s)
		}
	}
	return out
}

func sortedStages(p *planner.Plan, stages []*planner.Stage) []*planner.Stage {
	at := make(map[*planner.Stage]int, len(p.Stages))
	for i, s := range p.Stages {
		at[s] = i
	}
	slices.SortFunc(stages, func(a, b *planner.Stage) int { return cmp.Compare(at[a], at[b]) })
	return slices.Compact(stages)
}
