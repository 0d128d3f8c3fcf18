// Command bench compares zbuild with its peers and writes docs/performance.md.
//
// It makes the workloads, starts a registry with their base image and a
// buildkitd, gives each tool a store of its own, and lets the tools take turns. It
// needs root, as the peers do here; `make bench` builds the programs it runs.
package main

import (
	"context"
	"debug/buildinfo"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

type options struct {
	bin, docs, work string
	rounds          int
	budget          time.Duration
	only, tools     string
	sizes           int
	render          bool
	watch, bake     bool
	edits           int
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "`directory` of the programs: zbuild, buildah, buildx, buildctl, buildkitd, fill")
	flag.StringVar(&o.docs, "docs", "../docs", "`directory` of the report")
	flag.StringVar(&o.work, "work", "/var/tmp", "`directory` for stores and projects, not on overlayfs")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of W1 to W4; series take one in two of them")
	flag.DurationVar(&o.budget, "budget", time.Minute, "what one build may take before its tool is left out of larger sizes")
	flag.StringVar(&o.only, "only", "", "comma-separated `parts` to measure again: W1, …, RUN, targets, context, layer, store; else all")
	flag.StringVar(&o.tools, "tools", "", "comma-separated `names` of tools to measure: zbuild, BuildKit, …; else all")
	flag.IntVar(&o.sizes, "sizes", 0, "how many sizes of a series are measured, the smallest first; 0 means all")
	flag.BoolVar(&o.render, "render", false, "write the report of what was measured before; measure nothing")
	flag.BoolVar(&o.watch, "watch", false, "measure watching, and nothing else; writes watch-performance.md")
	flag.BoolVar(&o.bake, "bake", false, "measure loading and printing projects, and nothing else; writes bake-performance.md")
	flag.IntVar(&o.edits, "edits", 200, "edits of each workload, with -watch")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := o.run(ctx); err != nil {
		slog.Error(err.Error())
		os.Exit(1)
	}
}

func (o *options) wants(name string) bool {
	return o.only == "" || slices.Contains(strings.Split(o.only, ","), name)
}

func (o *options) uses(t tool) bool {
	return o.tools == "" || slices.Contains(strings.Split(o.tools, ","), t.name())
}

func (o *options) run(ctx context.Context) error {
	switch {
	case o.watch:
		return o.runWatch(ctx)
	case o.bake:
		return o.runBake(ctx)
	}
	data := filepath.Join(o.docs, "performance", "results.json")
	r, err := load(data)
	if err != nil {
		return err
	}
	if !o.render {
		if err := o.measure(ctx, r, func() error { return r.save(data) }); err != nil {
			return err
		}
	}
	return r.write(o.docs)
}

// measure fills in what is wanted; save is called whenever a part is done.
func (o *options) measure(ctx context.Context, r *results, save func() error) (err error) {
	bench, tearDown, err := o.setUp(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if e := tearDown(); err == nil {
			err = e
		}
	}()
	r.Machine = thisMachine()
	r.Tools = o.notes(ctx, bench.tools)
	bench.tools = slices.DeleteFunc(bench.tools, func(t tool) bool { return !o.uses(t) })
	stamp := run{Date: time.Now().UTC().Format(time.DateOnly), Commit: output(ctx, "git", "describe", "--always", "--dirty")}
	keep := func(name string, rounds int, sec *section, ser *series) error {
		part := stamp
		part.Rounds, part.Section, part.Series = rounds, sec, ser
		r.Runs[name] = part
		return save()
	}
	for _, w := range []*workload{w1(), w2(), w3(), w4()} {
		if !o.wants(w.name) {
			continue
		}
		s, err := bench.measure(ctx, w, map[string]string{}, nil)
		if err != nil {
			return err
		}
		if err := keep(w.name, s.rounds(), s, nil); err != nil {
			return err
		}
	}
	if o.wants("RUN") {
		s, err := bench.runCost(ctx)
		if err != nil {
			return err
		}
		if err := keep("RUN", bench.rounds, s, nil); err != nil {
			return err
		}
	}
	bench.rounds = max(1, bench.rounds/2)
	for _, p := range plans() {
		if !o.wants(p.name) {
			continue
		}
		if o.sizes > 0 {
			p.sizes = p.sizes[:min(o.sizes, len(p.sizes))]
		}
		s, err := bench.series(ctx, p)
		if err != nil {
			return err
		}
		if err := keep(p.name, bench.rounds, nil, s); err != nil {
			return err
		}
	}
	return nil
}

func (o *options) notes(ctx context.Context, tools []tool) []toolNote {
	of := map[string][]string{
		"zbuild":  {"zbuild", "github.com/zbuild/zbuild"},
		"buildah": {"buildah", "go.podman.io/buildah"},
	}
	var notes []toolNote
	for _, t := range tools {
		program := of[t.name()]
		if program == nil {
			program = []string{"buildkitd", "github.com/moby/buildkit"}
		}
		v := moduleVersion(filepath.Join(o.bin, program[0]), program[1])
		if t.name() == "zbuild" {
			v = output(ctx, "git", "describe", "--always", "--dirty")
		}
		notes = append(notes, toolNote{Name: t.name(), About: t.about(), Version: v})
	}
	return notes
}

// moduleVersion is the version of a module that a program was built from.
func moduleVersion(program, module string) string {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return err.Error()
	}
	for _, dep := range info.Deps {
		if dep.Path == module {
			return dep.Version
		}
	}
	return info.Main.Version
}

// output is what a program prints, or why it does not.
func output(ctx context.Context, argv ...string) string {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(out))
}

func thisMachine() machine {
	field := func(name, key string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			return "unknown"
		}
		for line := range strings.Lines(string(text)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == key {
				return strings.TrimSpace(v)
			}
		}
		return "unknown"
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		kernel = []byte("unknown")
	}
	return machine{
		CPU:    fmt.Sprintf("%d cores of %s", runtime.NumCPU(), field("/proc/cpuinfo", "model name")),
		Memory: field("/proc/meminfo", "MemTotal"),
		Kernel: strings.TrimSpace(string(kernel)),
	}
}
