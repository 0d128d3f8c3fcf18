package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"text/template"
	"time"
)

// bakeSizes are the numbers of targets of the projects that are printed.
var bakeSizes = []int{1, 10, 100, 1000, 10_000}

// bakeReport is what loading and printing cost, as it is kept beside its page.
type bakeReport struct {
	Machine            machine
	Date, Commit, Peer string
	Points             []bakePoint
}

// bakePoint is one size: by tool, the seconds and the megabytes of each round.
type bakePoint struct {
	Targets, Bytes  int
	Seconds, Memory map[string][]float64
	// Same says that both printed the same of all targets.
	Same bool
	// Left says that the peer took longer than the budget.
	Left bool `json:",omitempty"`
}

//go:embed bake.md.tmpl
var bakePage string

const bakeTool, bakePeer = "zbuild", "buildx"

// printBudget is how long one of them may print.
const printBudget = 4 * time.Minute

// runBake measures what loading and printing a project costs, beside what it costs
// `docker buildx bake`, and writes bake-performance.md.
func (o *options) runBake(ctx context.Context) error {
	data := filepath.Join(o.docs, "performance", "bake.json")
	var report bakeReport
	if o.render {
		text, err := os.ReadFile(data)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(text, &report); err != nil {
			return err
		}
		return report.write(o.docs)
	}
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		return err
	}
	report = bakeReport{
		Machine: thisMachine(), Date: time.Now().UTC().Format(time.DateOnly), Commit: output(ctx, "git", "describe", "--always", "--dirty"),
		Peer: moduleVersion(filepath.Join(bin, bakePeer), "github.com/docker/buildx"),
	}
	left := false
	for _, n := range bakeSizes {
		p, err := o.printing(ctx, bin, n, left)
		if err != nil {
			return err
		}
		left = left || p.Left
		report.Points = append(report.Points, p)
	}
	if err := keep(data, report); err != nil {
		return err
	}
	return report.write(o.docs)
}

// printing has both tools print a project of n targets, in turns.
func (o *options) printing(ctx context.Context, bin string, n int, left bool) (p bakePoint, err error) {
	dir, err := os.MkdirTemp(o.work, "zbuild-bench-")
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	text := bakeProject(n)
	if err := os.WriteFile(filepath.Join(dir, "docker-bake.hcl"), []byte(text), 0o644); err != nil {
		return p, err
	}
	p = bakePoint{Targets: n, Bytes: len(text), Seconds: map[string][]float64{}, Memory: map[string][]float64{}, Same: true, Left: left}
	for round := range o.rounds {
		printed := map[string]any{}
		for _, tool := range []string{bakeTool, bakePeer} {
			// The peer takes minutes for the largest size: once has to do.
			if tool == bakePeer && (p.Left || round > 0 && n > 1000) {
				continue
			}
			seconds, memory, targets, err := printOnce(ctx, filepath.Join(bin, tool), dir)
			if errors.Is(err, errBudget) && tool == bakePeer {
				p.Left = true
				continue
			}
			if err != nil {
				return p, fmt.Errorf("%s: %w", tool, err)
			}
			if len(targets) < n {
				return p, fmt.Errorf("%s printed %d of %d targets", tool, len(targets), n)
			}
			printed[tool] = targets
			p.Seconds[tool], p.Memory[tool] = append(p.Seconds[tool], seconds), append(p.Memory[tool], memory)
			slog.Info("print", "targets", n, "tool", tool, "seconds", fmt.Sprintf("%.3f", seconds), "MB", fmt.Sprintf("%.0f", memory))
		}
		if peer, ok := printed[bakePeer]; ok && !reflect.DeepEqual(printed[bakeTool], peer) {
			p.Same = false
		}
	}
	return p, nil
}

// printOnce runs bake --print, whole process, and gives what it took: seconds, and
// megabytes of resident memory at the most.
func printOnce(ctx context.Context, program, dir string) (seconds, memory float64, targets map[string]any, err error) {
	bounded, cancel := context.WithTimeoutCause(ctx, printBudget, errBudget)
	defer cancel()
	cmd := exec.CommandContext(bounded, program, "bake", "--print")
	cmd.Dir = dir
	out, err := os.CreateTemp(dir, "printed-")
	if err != nil {
		return 0, 0, nil, err
	}
	defer out.Close()
	cmd.Stdout = out
	start := time.Now()
	err = cmd.Run()
	seconds = time.Since(start).Seconds()
	if err != nil {
		if bounded.Err() != nil {
			err = context.Cause(bounded)
		}
		return 0, 0, nil, err
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0, 0, nil, errors.New("the system does not say what memory a process used")
	}
	text, err := os.ReadFile(out.Name())
	if err != nil {
		return 0, 0, nil, err
	}
	var printed struct{ Target map[string]any }
	err = json.Unmarshal(text, &printed)
	return seconds, float64(usage.Maxrss) / 1000, printed.Target, err
}

// bakeProject is a project of n targets as people write them: they inherit over two
// levels, call a function, use variables and refer to other targets; two in five
// come out of matrices of four.
func bakeProject(n int) string {
	var b strings.Builder
	b.WriteString(`variable "TAG" { default = "latest" }
variable "REGISTRY" { default = "registry.example.com/team" }
function "image" {
  params = [name]
  result = "${REGISTRY}/${name}:${TAG}"
}
target "_base" {
  args      = { VERSION = TAG, LEVEL = upper(TAG) }
  labels    = { "org.opencontainers.image.version" = TAG }
  platforms = ["linux/amd64", "linux/arm64"]
}
target "_service" {
  inherits   = ["_base"]
  cache-from = ["type=registry,ref=${image("cache")}"]
}
`)
	var names []string
	for i, made := 0, 0; made < n; i++ {
		name := fmt.Sprintf("t%d", i)
		names = append(names, fmt.Sprintf("%q", name))
		if i%7 == 6 && n-made >= 4 {
			fmt.Fprintf(&b, `target %q {
  name     = "%s-${os}-${variant}"
  matrix   = { os = ["debian", "alpine"], variant = ["slim", "full"] }
  inherits = ["_service"]
  context  = "services/%s"
  args     = { OS = os, VARIANT = variant }
  tags     = [image("%s-${os}-${variant}")]
}
`, name, name, name, name)
			made += 4
			continue
		}
		fmt.Fprintf(&b, `target %q {
  inherits = ["_service"]
  context  = "services/%s"
  args     = { NAME = "%s", LEVEL = target._base.args.VERSION }
  tags     = [image("%s"), "${REGISTRY}/%s:edge"]
}
`, name, name, name, name, name)
		made++
	}
	fmt.Fprintf(&b, "group \"default\" { targets = [%s] }\n", strings.Join(names, ", "))
	return b.String()
}

// write makes the page and its plot.
func (r *bakeReport) write(dir string) error {
	page, err := template.New("page").Funcs(template.FuncMap{
		"seconds": func(v []float64) string {
			if len(v) == 0 {
				return "–"
			}
			return significant(median(v))
		},
		"megabytes": func(v []float64) string {
			if len(v) == 0 {
				return "–"
			}
			return fmt.Sprintf("%.0f", slices.Max(v))
		},
		"each": func(p bakePoint) string { return significant(1e6 * median(p.Seconds[bakeTool]) / float64(p.Targets)) },
		"same": func(p bakePoint) string {
			switch {
			case len(p.Seconds[bakePeer]) == 0:
				return "–"
			case p.Same:
				return "yes"
			default:
				return "no"
			}
		},
		"rounds": func() int { return len(r.Points[0].Seconds[bakeTool]) },
	}).Parse(bakePage)
	if err != nil {
		return err
	}
	s := &series{Title: "bake --print", Unit: "targets"}
	for _, p := range r.Points {
		s.Points = append(s.Points, point{Size: p.Targets, section: section{Seconds: map[string]map[string][]float64{
			cold: p.Seconds,
		}}})
	}
	if err := plotSeries(s, cold, filepath.Join(dir, "performance", "bake-print.svg")); err != nil {
		return err
	}
	var b strings.Builder
	if err := page.Execute(&b, r); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "bake-performance.md"), []byte(b.String()), 0o644)
}
