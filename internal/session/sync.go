package session

import (
	"context"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/runner"
)

// SyncRequest says which files to copy into which containers.
type SyncRequest struct {
	Target string
	Files  []SyncFile
}

// SyncFile is one file to be copied.
type SyncFile struct {
	// From is its absolute path here, To its path in the containers.
	From, To string
	// Removed says that it does not exist any more.
	Removed bool
	Rule    config.SyncRule
}

// sync has the changes of targets copied into their containers, if their rules
// cover all of the changes, and gives the targets that are to be built.
func (l *live) sync(ctx context.Context, o order, affected []string, prints map[string]runner.Fingerprint, started *Started) []string {
	if l.opt.Sync == nil || o.everything || o.failed || o.batch.Rescan {
		return affected
	}
	return slices.DeleteFunc(slices.Clone(affected), func(target string) bool {
		if l.built[target] == "" && l.synced[target] == "" {
			return false // there is no image, so no container either
		}
		if l.owed[target] {
			return false
		}
		files := l.syncFiles(target, l.scope.concerned(target, o.batch.Paths, l.memory))
		if len(files) == 0 || l.opt.Sync(ctx, SyncRequest{Target: target, Files: files}) != nil {
			return false
		}
		l.synced[target] = prints[target]
		l.opt.observe(Synced{Target: target, Files: started.Concerns[target], Time: l.s.opt.Now()})
		return true
	})
}

// syncFiles finds the rule of each changed path; none if one has no rule.
func (l *live) syncFiles(target string, changed []string) []SyncFile {
	t := l.good.Plan.Target(target)
	var all []config.SyncRule
	for _, w := range []*config.Watch{t.Config.Watch, l.good.Project.Watch} {
		if w != nil {
			all = append(all, w.Sync...)
		}
	}
	var out []SyncFile
	for _, p := range changed {
		found := false
		for _, r := range all {
			f, ok := syncFile(r, p)
			if !ok {
				continue
			}
			info, err := os.Lstat(p)
			switch {
			case err != nil:
				f.Removed = true
			case info.IsDir():
				// What is new in it has been told by itself.
				found = true
				continue
			}
			found = true
			out = append(out, f)
		}
		if !found {
			return nil
		}
	}
	return out
}

func syncFile(r config.SyncRule, p string) (SyncFile, bool) {
	if !contains(r.Path, p) {
		return SyncFile{}, false
	}
	rel, err := filepath.Rel(r.Path, p)
	if err != nil {
		return SyncFile{}, false
	}
	var ignore []config.IgnorePattern
	for _, pattern := range r.Ignore {
		ignore = append(ignore, config.IgnorePattern{Dir: r.Path, Pattern: pattern})
	}
	for _, rule := range rules(ignore) {
		if rule.match(p) {
			return SyncFile{}, false
		}
	}
	return SyncFile{From: p, To: path.Join(r.Target, filepath.ToSlash(rel)), Rule: r}, true
}
