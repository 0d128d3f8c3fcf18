package watch

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// register makes the directories of all anchors watched, and no others.
func (l *loop) register() {
	if !l.tryRegister() {
		l.tryRegister() // by polling, now
	}
}

func (l *loop) tryRegister() bool {
	for _, d := range l.dirs {
		d.keep = false
	}
	l.top = locate(l.set.Top).real
	l.byPivot, l.byRoot = make(map[string][]*anchor), make(map[string][]*anchor)
	polling := l.polling
	for _, a := range l.anchors {
		l.anchor(a)
		if l.polling != polling {
			return false
		}
	}
	for path, d := range l.dirs {
		if !d.keep {
			l.drop(path)
		}
	}
	return true
}

// anchor registers what one anchor needs.
func (l *loop) anchor(a *anchor) {
	polling := l.polling
	l.byRoot[a.where.real] = without(l.byRoot[a.where.real], a)
	for range 10 {
		a.where = a.locate()
		before := len(l.dirs)
		for _, p := range a.where.moving(l.top) {
			if !slices.Contains(l.byPivot[p], a) {
				l.byPivot[p] = append(l.byPivot[p], a)
			}
			l.watch(filepath.Dir(p))
		}
		// What moved before the registration was not told.
		if len(l.dirs) == before || a.where.same(a.locate()) {
			break
		}
	}
	if a.tree == nil || l.polling != polling {
		return
	}
	l.byRoot[a.where.real] = append(l.byRoot[a.where.real], a)
	if a.where.exists {
		l.walk(a.where.real, false)
	}
}

func without(list []*anchor, a *anchor) []*anchor {
	return slices.DeleteFunc(list, func(o *anchor) bool { return o == a })
}

// watch registers one directory. It reports whether the directory is there.
func (l *loop) watch(dir string) bool {
	if d := l.dirs[dir]; d != nil {
		d.keep = true
		return true
	}
	if !l.polling {
		if kind := remote(dir); kind != "" {
			l.degrade(fmt.Sprintf("%s is on a network file system (%s), which does not tell of all changes", dir, kind), "")
			return true
		}
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return false
	}
	if err := l.n.add(dir); err != nil {
		if !l.polling && exhausted(err) {
			reason, advice := advise(err, l.count())
			l.degrade(reason, advice)
			return true
		}
		return false
	}
	l.dirs[dir], l.concern = &directory{info: info, keep: true}, true
	for child := dir; ; child = filepath.Dir(child) {
		parent := filepath.Dir(child)
		if _, linked := l.below[parent][child]; linked || parent == child {
			return true
		}
		if l.below[parent] == nil {
			l.below[parent] = make(map[string]struct{})
		}
		l.below[parent][child] = struct{}{}
	}
}

// walk registers a directory and those below it that matter, and with tell notes
// everything in them that does. A directory is registered before it is read: what
// comes later is told, what came before is found. One that is gone by now, or may not be
// read, is no mistake here: a build that needs it says so.
func (l *loop) walk(dir string, tell bool) {
	polling := l.polling
	if !l.descend(dir) || !l.watch(dir) || polling != l.polling { // then all is begun anew
		return
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if tell {
			l.match(path, true, false)
		}
		if e.IsDir() {
			l.walk(path, tell)
		}
		if polling != l.polling {
			return
		}
	}
}

// count is how many directories are to be watched, for advice.
func (l *loop) count() int {
	seen := make(map[string]bool)
	for _, a := range l.anchors {
		for _, p := range a.locate().pivots {
			seen[filepath.Dir(p)] = true
		}
		if a.tree == nil {
			continue
		}
		root := locate(a.path).real
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil //nolint:nilerr // what cannot be read is not watched
			}
			if !a.tree.Descend(a.path + path[len(root):]) {
				return fs.SkipDir
			}
			seen[path] = true
			return nil
		})
	}
	return len(seen)
}

// forget stops watching a directory and what is below it.
func (l *loop) forget(dir string) {
	for child := range l.below[dir] {
		l.forget(child)
	}
	if l.dirs[dir] != nil {
		l.drop(dir)
	}
}

// drop stops watching one directory.
func (l *loop) drop(dir string) {
	l.concern = true
	delete(l.dirs, dir)
	l.n.remove(dir)
	for child := dir; len(l.below[child]) == 0 && l.dirs[child] == nil; child = filepath.Dir(child) {
		parent := filepath.Dir(child)
		if parent == child {
			return
		}
		delete(l.below, child)
		delete(l.below[parent], child)
	}
}

// rescan begins anew because changes were lost.
func (l *loop) rescan() {
	// Watches may have gone unnoticed, too.
	for dir := range l.dirs {
		l.forget(dir)
	}
	l.lose()
	l.register()
}

// lose says that changes were lost.
func (l *loop) lose() {
	now := time.Now()
	l.settler.lost(now)
	l.unsettle(now)
}
