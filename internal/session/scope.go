package session

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/patternmatcher"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/source"
	"github.com/zbuild/zbuild/internal/watch"
	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

// scope is what one plan reads: what has to be watched, and which target a change
// is about. It is immutable.
type scope struct {
	project *config.Project
	// files are those that loading and planning read or looked for.
	files   []string
	targets map[string]*targetScope // the requested ones
	rules   []ignoreRules           // of changes that do not count
	outputs []string                // what the build itself writes
	git     gitDirs
}

// targetScope is what one target is made of.
type targetScope struct {
	files    []string // its Dockerfile and ignore files, and those of what it needs
	selected []runner.Selected
	extra    []string // the watch block's paths
}

func newScope(project *config.Project, plan *planner.Plan, dir string) *scope {
	sc := &scope{project: project, targets: make(map[string]*targetScope)}
	sc.files = append(slices.Clone(project.Files), plan.Files...)
	slices.Sort(sc.files)
	sc.files = slices.Compact(sc.files)
	if project.Watch != nil {
		sc.rules = append(sc.rules, rules(project.Watch.Ignore)...)
	}
	dirs := []string{dir, project.Dir}
	for _, t := range plan.Targets {
		for _, o := range t.Config.Outputs {
			if o.Dest != "" && o.Dest != "-" {
				sc.outputs = append(sc.outputs, o.Dest)
			}
		}
		dirs = append(dirs, contextDirs(t.Config)...)
		if !t.Requested {
			continue
		}
		ts := &targetScope{selected: runner.SelectedBy(t)}
		ts.files = targetFiles(plan, t, make(map[string]bool))
		for _, w := range []*config.Watch{project.Watch, t.Config.Watch} {
			if w != nil {
				ts.extra = append(ts.extra, w.Paths...)
			}
		}
		sc.targets[t.Name] = ts
	}
	sc.git = findGit(dirs)
	return sc
}

// contextDirs are the directories of this host that are contexts of a target.
func contextDirs(t *config.Target) []string {
	var dirs []string
	for _, c := range append(slices.Collect(maps.Values(t.Contexts)), t.Context) {
		if c.Kind == config.ContextDir {
			dirs = append(dirs, c.Value)
		}
	}
	return dirs
}

func targetFiles(plan *planner.Plan, t *planner.Target, seen map[string]bool) []string {
	if t == nil || seen[t.Name] {
		return nil
	}
	seen[t.Name] = true
	files := []string{t.Config.Dockerfile, t.Config.Dockerfile + ".dockerignore"}
	for _, dir := range contextDirs(t.Config) {
		files = append(files, filepath.Join(dir, ".dockerignore"))
	}
	for _, n := range t.Needs {
		files = append(files, targetFiles(plan, plan.Target(n), seen)...)
	}
	return files
}

// watchSet says what to watch. Contexts are looked at through memory: what has not
// changed is the same pointer, and marks are all of them.
func (sc *scope) watchSet(memory *source.Memory) (set watch.Set, marks []*source.Footprint, err error) {
	set.Files = slices.Clone(sc.files)
	seen := make(map[*source.Footprint]bool)
	extra := make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(sc.targets)) {
		t := sc.targets[name]
		for _, s := range t.selected {
			f, err := memory.Footprint(s.Tree, s.Selection)
			if err != nil {
				return set, nil, err
			}
			if seen[f] {
				continue
			}
			seen[f] = true
			marks = append(marks, f)
			set.Points = append(set.Points, f.Points...)
			for _, t := range f.Trees {
				set.Trees = append(set.Trees, watch.Tree{Root: t.Root, Filter: t})
			}
		}
		for _, p := range t.extra {
			if !extra[p] {
				extra[p] = true
				set.Trees = append(set.Trees, watch.Tree{Root: p, Filter: everything{}})
			}
		}
	}
	slices.Sort(set.Points)
	set.Points = slices.Compact(set.Points)
	set.Passive = sc.passive
	set.Locks, set.Slow = sc.git.locks(), sc.git.slow()
	if w := sc.project.Watch; w != nil {
		set.Quiet, set.Ceiling = w.Debounce, w.Ceiling
	}
	return set, marks, nil
}

// stands reports whether what watchSet has found is still so: what has come before all
// of it was watched was told to nobody.
func (sc *scope) stands(memory *source.Memory) bool {
	if sc == nil {
		return true
	}
	for _, t := range sc.targets {
		for _, s := range t.selected {
			if same, err := memory.Look(s.Tree, s.Selection); err != nil || !same {
				return false // an error is found again, and told
			}
		}
	}
	return true
}

// everything is the filter of a tree that matters as a whole.
type everything struct{}

// Descend is part of watch.Filter.
func (everything) Descend(string) bool { return true }

// Match is part of watch.Filter.
func (everything) Match(string) bool { return true }

// passive reports whether a change does not count by itself: what the build writes
// must not start it again, what git keeps for itself and editors' temporary files
// come and go, and some the user does not want to count.
func (sc *scope) passive(path string) bool {
	if slices.Contains(sc.files, path) {
		return false
	}
	for _, o := range sc.outputs {
		if contains(o, path) {
			return true
		}
	}
	if strings.Contains(path, string(filepath.Separator)+".git"+string(filepath.Separator)) || temporary(filepath.Base(path)) {
		return true
	}
	for _, r := range sc.rules {
		if r.match(path) {
			return true
		}
	}
	return false
}

// temporary knows the names that editors give to files that they remove again.
func temporary(name string) bool {
	for _, suffix := range []string{"~", ".swp", ".swo", ".swx", ".swpx", ".kate-swp", "___jb_tmp___", "___jb_old___"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return name == "4913" || // Vim tries whether it may create files
		strings.HasPrefix(name, ".#") || strings.HasPrefix(name, "#") && strings.HasSuffix(name, "#") || // Emacs
		strings.HasPrefix(name, ".goutputstream-") // GTK
}

// concerned lists those of some paths that a target is made of, sorted.
func (sc *scope) concerned(target string, paths []string, memory *source.Memory) []string {
	t := sc.targets[target]
	if t == nil {
		return nil
	}
	var prints []*source.Footprint
	for _, s := range t.selected {
		if f, err := memory.Footprint(s.Tree, s.Selection); err == nil {
			prints = append(prints, f)
		}
	}
	var out []string
	for _, p := range paths {
		one := []string{p}
		set := map[string]bool{p: true}
		if slices.Contains(t.files, p) || slices.Contains(sc.project.Files, p) || t.watchesToo(p) ||
			slices.ContainsFunc(prints, func(f *source.Footprint) bool { return f.Touched(set, one) }) {
			out = append(out, p)
		}
	}
	return out
}

// watchesToo reports whether a path is watched although no step reads it.
func (sc *scope) watchesToo(path string) bool {
	for _, t := range sc.targets {
		if t.watchesToo(path) {
			return true
		}
	}
	return false
}

// watchesToo reports whether a path is one of those that are watched although no
// step reads them.
func (t *targetScope) watchesToo(path string) bool {
	return slices.ContainsFunc(t.extra, func(dir string) bool { return contains(dir, path) })
}

// contains reports whether a path is dir or lies in it.
func contains(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, string(filepath.Separator))+string(filepath.Separator))
}

// ignoreRules are patterns that are relative to the same directory.
type ignoreRules struct {
	dir     string
	matcher *patternmatcher.PatternMatcher
}

// rules makes rules of patterns. The patterns were checked when they were loaded.
func rules(patterns []config.IgnorePattern) []ignoreRules {
	var dirs []string
	byDir := make(map[string][]string)
	for _, p := range patterns {
		if byDir[p.Dir] == nil {
			dirs = append(dirs, p.Dir)
		}
		byDir[p.Dir] = append(byDir[p.Dir], p.Pattern)
	}
	var out []ignoreRules
	for _, dir := range dirs {
		if m, err := patternmatcher.New(byDir[dir]); err == nil {
			out = append(out, ignoreRules{dir: dir, matcher: m})
		}
	}
	return out
}

func (r ignoreRules) match(path string) bool {
	rel, err := filepath.Rel(r.dir, path)
	if err != nil || !filepath.IsLocal(rel) {
		return false
	}
	ok, err := r.matcher.MatchesOrParentMatches(rel)
	return err == nil && ok
}

// gitDirs are the directories in which git keeps what it knows of work trees.
type gitDirs []string

// findGit finds those of the repositories that some directories lie in.
func findGit(dirs []string) gitDirs {
	var out gitDirs
	seen := make(map[string]bool)
	for _, dir := range dirs {
		for ; dir != "" && !seen[dir]; dir = filepath.Dir(dir) {
			seen[dir] = true
			if git := gitDir(filepath.Join(dir, ".git")); git != "" {
				out = append(out, git)
				break
			}
		}
	}
	return out
}

// gitDir is where the .git of a work tree is: in a linked one it is a file that
// says so.
func gitDir(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	if info.IsDir() {
		return path
	}
	const most = 4 << 10
	raw, err := os.ReadFile(path)
	if err != nil || len(raw) > most {
		return ""
	}
	target, ok := strings.CutPrefix(strings.TrimSpace(string(raw)), "gitdir: ")
	if !ok {
		return ""
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(filepath.Dir(path), target)
	}
	return target
}

// locks are the files that exist while git changes the work tree.
func (g gitDirs) locks() []string {
	var out []string
	for _, dir := range g {
		out = append(out, filepath.Join(dir, "index.lock"))
	}
	return out
}

// slow exist while git goes through several states of the work tree.
func (g gitDirs) slow() []string {
	var out []string
	for _, dir := range g {
		out = append(out, filepath.Join(dir, "rebase-merge"), filepath.Join(dir, "rebase-apply"), filepath.Join(dir, "sequencer"))
	}
	return out
}
