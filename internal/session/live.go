package session

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/zbuild/zbuild/internal/source"
	"github.com/zbuild/zbuild/internal/watch"
	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

// live is what is kept between the generations of a watched project. One
// generation at a time works on it.
type live struct {
	s   *Session
	opt WatchOptions
	w   *watch.Watcher

	// good are the project and the plan that were loaded last without errors;
	// mending says that something has been written since that cannot be loaded.
	good    *Generation
	mending bool
	scope   *scope
	marks   []*source.Footprint // what the watcher was told of
	files   []string
	stats   watch.Stats

	memory *source.Memory

	// built has the targets whose images are up to date, failed those whose build
	// came to a failure of their own, with what they were made of then. synced are
	// those whose containers have newer files than their images.
	built, failed, synced map[string]runner.Fingerprint
	// owed are those whose last build did not come to an image: of what their containers
	// lack the last changes are only a part, so copying these would not do.
	owed map[string]bool

	images replaced

	store string // where the engine keeps what it makes

	mu      sync.Mutex
	texts   texts
	current *work // of the generation that runs; nil until it is known what to build
}

// work is what a running generation is building. It is immutable.
type work struct {
	scope  *scope
	plan   *planner.Plan
	prints map[string]runner.Fingerprint
}

// order is what a generation is made for.
type order struct {
	batch watch.Batch
	// everything looks at all anew and builds all targets, failed tries again what
	// has failed.
	everything, failed bool
}

func (o order) empty() bool {
	return !o.everything && !o.failed && !o.batch.Rescan && len(o.batch.Paths) == 0
}

func (o *order) merge(p order) {
	o.batch.Merge(p.batch)
	o.everything = o.everything || p.everything
	o.failed = o.failed || p.failed
}

// outcome is what came of a generation.
type outcome struct {
	order    order
	canceled bool
	fatal    error // there is no point in going on
}

func newLive(s *Session, opt WatchOptions, w *watch.Watcher) *live {
	return &live{
		s: s, opt: opt, w: w, memory: source.NewMemory(), texts: make(texts),
		built: make(map[string]runner.Fingerprint), failed: make(map[string]runner.Fingerprint), synced: make(map[string]runner.Fingerprint),
		owed: make(map[string]bool),
	}
}

// generate makes one generation.
func (l *live) generate(ctx context.Context, o order) outcome {
	out := outcome{order: o}
	start := l.s.opt.Now()
	l.s.number++
	l.begin(nil)
	engine, err := l.s.engine.get(ctx)
	if err != nil {
		if out.canceled = ctx.Err() != nil; !out.canceled {
			out.fatal = err
		}
		return out
	}
	l.store = filepath.Dir(engine.StateDir())
	if o.everything || o.batch.Rescan {
		l.memory.Forget()
	} else {
		l.memory.Dirty(o.batch.Paths)
		l.memory.Dirty(o.batch.Passive)
	}
	g, err := l.prepare(ctx, o)
	if ctx.Err() != nil {
		out.canceled = true
		return out
	}
	var unusable *EngineError
	switch {
	case errors.As(err, &unusable):
		out.fatal = err
		return out
	case err != nil || !g.OK():
		l.opt.observe(Broken{Generation: g, Err: err, Changed: l.names(o.batch), LastGood: l.good != nil, Time: start})
		if l.good == nil || err != nil || !l.others(o.batch) {
			return out
		}
	}
	l.build(ctx, o, start, &out)
	return out
}

// others reports whether anything but what is loaded and planned has changed.
func (l *live) others(b watch.Batch) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return b.Rescan || slices.ContainsFunc(b.Paths, func(p string) bool { _, text := l.texts[p]; return !text })
}

// begin says what the generation at work builds.
func (l *live) begin(w *work) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current = w
}

// prepare loads and plans as far as that is needed, and has all of it watched
// before any of it is read for good. The generation is that of the attempt; what
// to build is in l.good.
func (l *live) prepare(ctx context.Context, o order) (*Generation, error) {
	changed := l.changedTexts(o.batch.Paths, o.everything || o.batch.Rescan)
	reload := l.good == nil || o.everything || l.mending && len(changed) > 0 ||
		slices.ContainsFunc(changed, func(f string) bool { return slices.Contains(l.good.Project.Files, f) }) ||
		relabel(ctx, l.good.Project)
	replan := len(changed) > 0
	var g *Generation
	// Until nothing changes between the reading and the watching.
	for range 5 {
		if reload || replan {
			g = l.load(ctx, reload)
			if ctx.Err() != nil {
				return g, context.Cause(ctx)
			}
			if g.Err != nil {
				return g, g.Err
			}
		}
		if g == nil {
			g = l.good
		}
		if err := l.watch(g); err != nil {
			return g, err
		}
		again := l.changedTexts(nil, true)
		if len(again) == 0 {
			return g, nil
		}
		reload, replan = true, true
	}
	return g, nil
}

func (l *live) changedTexts(paths []string, all bool) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.texts.changed(paths, all)
}

// load loads the project, or takes it as it is, and plans it.
func (l *live) load(ctx context.Context, reload bool) *Generation {
	g := &Generation{Number: l.s.number}
	read := make(texts)
	defer func() {
		l.mu.Lock()
		l.texts = read
		l.mu.Unlock()
	}()
	if !reload {
		g.Project, g.Diagnostics = l.good.Project, l.good.loading
	} else {
		g.Project, g.Diagnostics = l.s.Load(ctx)
	}
	g.loading = slices.Clip(g.Diagnostics)
	for _, f := range g.Project.Files {
		read[f] = textOf(f)
	}
	for name, text := range g.Project.Sources {
		if slices.Contains(l.s.opt.Load.VarFiles, name) {
			continue // its values are left out of that
		}
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(l.s.opt.Load.Dir, name)
		}
		if _, ok := read[path]; ok {
			read[path] = textID(text, nil) // what was read, whatever it is by now
		}
	}
	if !g.OK() {
		l.mending = true
		l.keepWatching(read)
		return g
	}
	r := reads{texts: read}
	l.s.planWith(ctx, g, r.file, r.context)
	for _, f := range g.Plan.Files {
		if _, ok := read[f]; !ok {
			read[f] = textOf(f)
		}
	}
	l.mending = !g.OK()
	if l.mending {
		l.keepWatching(read)
		return g
	}
	l.good = g
	l.scope = newScope(g.Project, g.Plan, l.s.opt.Load.Dir)
	return g
}

// keepWatching adds the files of the last good plan to those that are watched.
func (l *live) keepWatching(read texts) {
	if l.good == nil {
		return
	}
	for _, f := range l.scope.files {
		if _, ok := read[f]; !ok {
			read[f] = textOf(f)
		}
	}
}

// watch has everything watched that the generation reads.
func (l *live) watch(g *Generation) error {
	for range 5 {
		if again, err := l.watchOnce(g); err != nil || !again {
			return err
		}
	}
	return nil
}

// watchOnce reports whether to do it again: something else was to be watched by the
// time when all was.
func (l *live) watchOnce(g *Generation) (again bool, err error) {
	var set watch.Set
	var marks []*source.Footprint
	if l.scope != nil {
		if set, marks, err = l.scope.watchSet(l.memory); err != nil {
			return false, err
		}
	}
	l.mu.Lock()
	files := slices.Sorted(maps.Keys(l.texts))
	l.mu.Unlock()
	if l.marks != nil && slices.Equal(marks, l.marks) && slices.Equal(files, l.files) && g.Number != l.s.number {
		return false, nil
	}
	set.Files = append(set.Files, files...)
	slices.Sort(set.Files)
	set.Files = slices.Compact(set.Files)
	set.Top = l.s.opt.Load.Dir
	if dir := g.Project.Dir; contains(dir, set.Top) {
		set.Top = dir
	}
	if l.opt.Quiet > 0 {
		set.Quiet = l.opt.Quiet
	}
	if l.opt.Ceiling > 0 {
		set.Ceiling = l.opt.Ceiling
	}
	if passive, store := set.Passive, l.store; passive != nil {
		set.Passive = func(p string) bool { return l.opt.written(p) || contains(store, p) || passive(p) }
	}
	stats, err := l.w.Set(set)
	if err != nil {
		return false, err
	}
	l.marks, l.files, l.stats = marks, files, stats
	return !l.scope.stands(l.memory), nil
}

// build builds what the last good plan asks for and is not up to date.
func (l *live) build(ctx context.Context, o order, start time.Time, out *outcome) {
	hasher, err := l.s.hasher(ctx)
	if err != nil {
		if out.canceled = ctx.Err() != nil; !out.canceled {
			out.fatal = err
		}
		return
	}
	plan := l.good.Plan
	prints, err := runner.Fingerprints(ctx, plan, hasher, l.memory)
	if err != nil {
		out.canceled = ctx.Err() != nil
		if !out.canceled {
			out.fatal = err
		}
		return
	}
	l.memory.Sweep()
	l.begin(&work{scope: l.scope, plan: plan, prints: prints})
	affected, rest := l.affected(plan, prints, o)
	started := Started{
		Number: l.s.number, Changed: l.names(o.batch), Affected: affected, Unaffected: rest,
		First: o.everything && len(l.built) == 0, Rebuild: o.everything, Retry: o.failed, Rescan: o.batch.Rescan, Time: start,
		Concerns: make(map[string][]string),
	}
	for _, t := range affected {
		started.Concerns[t] = l.relative(l.scope.concerned(t, o.batch.Paths, l.memory))
	}
	if len(affected) == 0 {
		if len(started.Changed) > 0 || o.everything || o.failed || o.batch.Rescan {
			l.opt.observe(Unchanged{Started: started, Duration: l.s.opt.Now().Sub(start)})
		}
		return
	}
	if affected = l.sync(ctx, o, affected, prints, &started); len(affected) == 0 {
		return
	}
	started.Affected = affected
	l.opt.observe(started)
	g := &Generation{Number: l.s.number, Project: l.good.Project, Plan: plan.Only(affected), Diagnostics: l.good.Diagnostics}
	l.s.runWith(ctx, g, hasher, l.memory)
	out.canceled = ctx.Err() != nil
	l.settle(g, affected, prints)
	for _, t := range affected {
		switch {
		case l.built[t] == prints[t]:
			delete(l.owed, t)
		case !out.canceled: // or the next generation has this one's changes, too
			l.owed[t] = true
		}
	}
	l.opt.observe(Finished{Started: started, Generation: g, Canceled: out.canceled, Duration: l.s.opt.Now().Sub(start)})
	if l.opt.Prune {
		l.images.note(g.Result)
		l.prune(ctx)
	}
}

// affected are the requested targets that are to be built, and the others.
func (l *live) affected(plan *planner.Plan, prints map[string]runner.Fingerprint, o order) (yes, no []string) {
	for _, t := range plan.Targets {
		if !t.Requested {
			continue
		}
		f := prints[t.Name]
		have, synced := l.synced[t.Name] // newer than the image
		if !synced {
			have = l.built[t.Name]
		}
		build := have != f && (l.failed[t.Name] != f || o.failed)
		for _, p := range o.batch.Paths {
			build = build || l.scope.targets[t.Name].watchesToo(p)
		}
		if build || o.everything {
			yes = append(yes, t.Name)
		} else {
			no = append(no, t.Name)
		}
	}
	return yes, no
}

// settle remembers what came of a build.
func (l *live) settle(g *Generation, targets []string, prints map[string]runner.Fingerprint) {
	if g.Err == nil {
		for _, t := range targets {
			l.built[t] = prints[t]
			delete(l.failed, t)
			delete(l.synced, t)
		}
		return
	}
	if g.Result == nil || len(g.Result.Failures) == 0 {
		return // stopped from outside: all of it is still to be done
	}
	named := make(map[string]bool)
	for _, t := range g.Result.Targets {
		if t.Image != nil {
			l.built[t.Name], named[t.Name] = prints[t.Name], true
			delete(l.failed, t.Name)
		}
	}
	blamed := false
	for _, t := range targets {
		if !named[t] && blames(g, t) {
			l.failed[t], blamed = prints[t], true
			delete(l.built, t)
		}
	}
	for _, t := range targets {
		if !blamed && !named[t] {
			l.failed[t] = prints[t]
			delete(l.built, t)
		}
	}
}

// blames reports whether a target has a step that failed.
func blames(g *Generation, target string) bool {
	part := g.Plan.Only([]string{target})
	for _, err := range g.Result.Failures {
		var step *runner.StepError
		if errors.As(err, &step) && slices.Contains(part.Steps, step.Step) {
			return true
		}
	}
	return false
}

// matters reports whether a change makes a difference to the generation at work.
// It is called while that runs.
func (l *live) matters(ctx context.Context, b watch.Batch) bool {
	l.mu.Lock()
	w := l.current
	changed := l.texts.changed(b.Paths, b.Rescan)
	l.mu.Unlock()
	if w == nil || b.Rescan || len(changed) > 0 {
		return true
	}
	hasher, err := l.s.hasher(ctx)
	if err != nil {
		return true
	}
	l.memory.Dirty(b.Paths)
	l.memory.Dirty(b.Passive)
	prints, err := runner.Fingerprints(ctx, w.plan, hasher, l.memory)
	if err != nil || !maps.Equal(prints, w.prints) {
		return true
	}
	return slices.ContainsFunc(b.Paths, w.scope.watchesToo)
}

// names are the changed paths as people call them, without those that have come
// and gone.
func (l *live) names(b watch.Batch) []string {
	return l.relative(slices.DeleteFunc(slices.Clone(b.Paths), func(p string) bool {
		_, fleeting := slices.BinarySearch(b.Fleeting, p)
		return fleeting
	}))
}

func (l *live) relative(paths []string) []string {
	out := make([]string, 0, len(paths))
	for _, p := range paths {
		if rel, err := filepath.Rel(l.s.opt.Load.Dir, p); err == nil && filepath.IsLocal(rel) {
			p = rel
		}
		out = append(out, filepath.ToSlash(p))
	}
	return out
}

// waiting says how things stand while nothing is to be done.
func (l *live) waiting() Waiting {
	w := Waiting{Polling: l.stats.Polling, Directories: l.stats.Directories, Broken: l.mending, Failed: slices.Sorted(maps.Keys(l.failed)), Time: l.s.opt.Now()}
	if l.scope != nil {
		w.Targets = len(l.scope.targets)
	}
	return w
}
