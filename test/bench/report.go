package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
)

// results are everything that the report says, as it is kept beside the report:
// what is measured anew replaces its part, the rest stays as it was.
type results struct {
	Machine machine
	Tools   []toolNote
	Runs    map[string]run // by the name of the workload or series
}

type toolNote struct{ Name, About, Version string }

type machine struct{ CPU, Kernel, Memory string }

// A run is when and of what a part of the report was measured.
type run struct {
	Date, Commit string
	Rounds       int
	Section      *section `json:",omitempty"`
	Series       *series  `json:",omitempty"`
}

func load(name string) (*results, error) {
	r := &results{Runs: map[string]run{}}
	text, err := os.ReadFile(name)
	if os.IsNotExist(err) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	return r, json.Unmarshal(text, r)
}

func (r *results) save(name string) error {
	return keep(name, r)
}

// keep writes what was measured to a file, for later reports.
func keep(name string, measured any) error {
	text, err := json.MarshalIndent(measured, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, append(text, '\n'), 0o644)
}

// goals are what zbuild's time by BuildKit's is to be at most.
var goals = map[string]map[string]float64{
	"W1": {cold: 0.6, unchanged: 0.10, oneFile: 0.30},
	"W2": {cold: 0.9, unchanged: 0.40, oneFile: 0.60},
	"W3": {cold: 0.6, unchanged: 0.4, oneFile: 0.5},
	"W4": {cold: 0.6, unchanged: 0.25, oneFile: 0.20},
}

//go:embed performance.md.tmpl
var pageText string

// notes explain what the figures do not say by themselves: ratios that are not
// reached, and what limits them.
//
//go:embed notes.md
var notes string

func (r *results) Notes() string         { return notes }
func (r *results) Workloads() []string   { return []string{"W1", "W2", "W3", "W4"} }
func (r *results) SeriesNames() []string { return []string{"targets", "context", "layer", "store"} }

// write makes the page and its plots of what was measured.
func (r *results) write(dir string) error {
	page, err := template.New("page").Funcs(template.FuncMap{
		"table": func(name string) string { return r.table(name) },
		"growth": func(name string) (string, error) {
			run := r.Runs[name]
			if run.Series == nil {
				return "", fmt.Errorf("series %s was not measured", name)
			}
			return r.growth(run.Series), nil
		},
		"has":     func(name string) bool { _, ok := r.Runs[name]; return ok },
		"run":     func(name string) run { return r.Runs[name] },
		"runCost": r.runCost,
		"moments": func() []string { return []string{cold, unchanged, oneFile} },
		"file":    plotFile,
	}).Parse(pageText)
	if err != nil {
		return err
	}
	for _, run := range r.Runs {
		if run.Series == nil {
			continue
		}
		for _, moment := range []string{cold, unchanged, oneFile} {
			if err := plotSeries(run.Series, moment, filepath.Join(dir, "performance", plotFile(run.Series.Name, moment))); err != nil {
				return err
			}
		}
	}
	var b strings.Builder
	if err := page.Execute(&b, r); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "performance.md"), []byte(b.String()), 0o644)
}

// table compares all tools on a workload.
func (r *results) table(name string) string {
	s := r.Runs[name].Section
	var b strings.Builder
	b.WriteString("| |")
	for _, t := range r.Tools {
		b.WriteString(" " + t.Name + " |")
	}
	b.WriteString(" zbuild / BuildKit | goal |\n|---|" + strings.Repeat("---|", len(r.Tools)+2) + "\n")
	for _, moment := range []string{cold, unchanged, oneFile} {
		by := s.Seconds[moment]
		b.WriteString("| " + moment + " |")
		for _, t := range r.Tools {
			b.WriteString(" " + cell(moment, by[t.Name]) + " |")
		}
		fmt.Fprintf(&b, " %s | %.2f |\n", compared(moment, by), goals[name][moment])
	}
	if by := s.Seconds[cold]; len(s.Alone) > 0 && len(by["zbuild"]) > 0 && len(by["BuildKit"]) > 0 {
		least := slices.Min(s.Alone)
		fmt.Fprintf(&b, "\nThe programs of the big RUNs alone, on an overlay and without a builder, take %s s of a cold build: %.0f%% of zbuild's time and %.0f%% of BuildKit's. No builder's ratio can be below %.2f.\n",
			significant(least), 100*least/slices.Min(by["zbuild"]), 100*least/slices.Min(by["BuildKit"]), least/slices.Min(by["BuildKit"]))
	}
	return b.String()
}

func cell(moment string, seconds []float64) string {
	if len(seconds) == 0 {
		return "–"
	}
	return significant(typical(moment, seconds))
}

func compared(moment string, by map[string][]float64) string {
	z, k := by["zbuild"], by["BuildKit"]
	if len(z) == 0 || len(k) == 0 {
		return "–"
	}
	return fmt.Sprintf("**%.2f**", ratio(moment, z, k))
}

// significant prints seconds with two digits that mean something.
func significant(v float64) string {
	switch {
	case v >= 10:
		return fmt.Sprintf("%.0f", v)
	case v >= 1:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.*f", int(math.Min(4, 1-math.Floor(math.Log10(v)))), v)
	}
}

// growth is a series as a table: a row a size, a column a tool and moment.
func (r *results) growth(s *series) string {
	var b strings.Builder
	left := map[string]string{}
	b.WriteString("| " + s.Unit + " | moment |")
	for _, t := range r.Tools {
		b.WriteString(" " + t.Name + " |")
	}
	b.WriteString(" zbuild / BuildKit |\n|---|---|" + strings.Repeat("---|", len(r.Tools)+1) + "\n")
	for _, p := range s.Points {
		for _, moment := range []string{cold, unchanged, oneFile} {
			by := p.Seconds[moment]
			fmt.Fprintf(&b, "| %d | %s |", p.Size, moment)
			for _, t := range r.Tools {
				b.WriteString(" " + cell(moment, by[t.Name]) + " |")
			}
			fmt.Fprintf(&b, " %s |\n", compared(moment, by))
		}
		for name, why := range p.Left {
			left[name] = why
		}
	}
	for _, name := range slices.Sorted(maps.Keys(left)) {
		fmt.Fprintf(&b, "\n%s is left out where it has no figure: %s.\n", name, left[name])
	}
	return b.String()
}

// runCost is the table of what a RUN costs.
func (r *results) runCost() string {
	by := r.Runs["RUN"].Section.Seconds[cold]
	runtime := median(by["runc run"])
	var b strings.Builder
	b.WriteString("| | ms | of `runc run` |\n|---|---|---|\n")
	for _, name := range append([]string{"runc run"}, toolNames(r.Tools)...) {
		if seconds := by[name]; len(seconds) > 0 {
			fmt.Fprintf(&b, "| %s | %.0f | %.1f |\n", name, median(seconds)*1000, median(seconds)/runtime)
		}
	}
	return b.String()
}

func toolNames(tools []toolNote) []string {
	var names []string
	for _, t := range tools {
		names = append(names, t.Name)
	}
	return names
}
