package session

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/zbuild/zbuild/internal/source"
	"github.com/zbuild/zbuild/internal/vcs"
)

// narrow leaves of a plan the requested targets that are made of something that has
// changed since a commit, and what they need.
func (s *Session) narrow(ctx context.Context, g *Generation) {
	refuse := func(format string, args ...any) {
		g.Diagnostics = append(g.Diagnostics, &hcl.Diagnostic{
			Severity: hcl.DiagError, Summary: "Cannot tell what has changed since " + s.opt.Since, Detail: fmt.Sprintf(format, args...),
		})
	}
	root := vcs.Root(g.Project.Dir)
	if root == "" {
		refuse("%s is not in a git repository.", g.Project.Dir)
		return
	}
	paths, err := vcs.Changed(ctx, root, s.opt.Since)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		refuse("git says: %v. In a shallow clone old commits are missing: git fetch --unshallow.", err)
		return
	}
	paths = withoutLinks(root, paths)
	sc := newScope(g.Project, g.Plan, s.opt.Load.Dir)
	memory := source.NewMemory()
	var affected []string
	for _, t := range g.Plan.Targets {
		switch {
		case !t.Requested:
		case sc.targets[t.Name].elsewhere(root) || len(sc.concerned(t.Name, paths, memory)) > 0:
			affected = append(affected, t.Name)
		default:
			g.Unaffected = append(g.Unaffected, t.Name)
		}
	}
	g.Plan = g.Plan.Only(affected)
}

// withoutLinks adds to paths below a directory what they are if the directory is
// reached by links: what a build reads may be known by either.
func withoutLinks(root string, paths []string) []string {
	real, err := filepath.EvalSymlinks(root)
	if err != nil || real == root {
		return paths
	}
	all := slices.Clone(paths)
	for _, p := range paths {
		all = append(all, real+strings.TrimPrefix(p, root))
	}
	return all
}

// elsewhere reports whether a context of the target, or of one that it needs, or a
// Dockerfile lies on this host outside of a directory: what has changed there nobody
// knows.
func (t *targetScope) elsewhere(root string) bool {
	return slices.ContainsFunc(t.files, func(file string) bool { return filepath.IsAbs(file) && !contains(root, file) })
}
