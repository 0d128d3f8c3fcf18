// Package vcs asks git about a directory: which commit is checked out there, where
// that comes from, and what has changed. It changes nothing.
package vcs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/buildx/util/gitutil"
	bkgitutil "github.com/moby/buildkit/util/gitutil"
)

// Checkout is what git says of a working tree.
type Checkout struct {
	// Root is the directory of the working tree, absolute and without links.
	Root string
	// Revision is the commit; empty before the first one. "-dirty" follows it if
	// that was asked for and the tree has more than the commit.
	Revision string
	// Source is the URL of the repository that it was cloned from, without
	// credentials; empty if there is none.
	Source string
}

// Root is the closest directory at or above dir that has a .git entry, or empty.
func Root(dir string) string {
	for {
		if _, err := os.Lstat(filepath.Join(dir, ".git")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}

// Look asks git about the working tree whose Root is root, and whether it is dirty
// if markDirty is set: files that git ignores count, as with buildx.
func Look(ctx context.Context, root string, markDirty bool) (*Checkout, error) {
	git, err := open(root)
	if err != nil {
		return nil, err
	}
	top, err := git.WorkTree(ctx)
	if err != nil {
		return nil, problem(err)
	}
	c := &Checkout{Root: top}
	if c.Root, err = filepath.EvalSymlinks(top); err != nil {
		return nil, err
	}
	switch c.Revision, err = git.FullCommit(ctx); {
	case gitutil.IsUnknownRevision(err):
		c.Revision = ""
	case err != nil:
		return nil, problem(err)
	case markDirty && git.IsDirty(ctx):
		c.Revision += "-dirty"
	}
	if source, err := git.RemoteURL(ctx); err == nil { // that there is none is no problem
		c.Source = source
	}
	return c, nil
}

// Changed lists the files of the working tree whose Root is root that are not as in
// the commit at which it parted from a revision, as absolute paths: changed, new and
// removed ones, and those that git does not track yet. What it ignores is not among
// them. Of a submodule it is the directory.
func Changed(ctx context.Context, root, revision string) ([]string, error) {
	git, err := open(root)
	if err != nil {
		return nil, err
	}
	commit, err := git.Run(ctx, "rev-parse", "--verify", "--end-of-options", revision+"^{commit}")
	if err != nil {
		return nil, problem(err)
	}
	base := strings.TrimSpace(string(commit))
	if parted, err := git.Run(ctx, "merge-base", base, "HEAD"); err == nil { // else they have nothing in common
		base = strings.TrimSpace(string(parted))
	}
	tracked, err := git.Run(ctx, "diff", "--name-only", "--no-renames", "--no-relative", "--ignore-submodules=none", "-z", base, "--")
	if err != nil {
		return nil, problem(err)
	}
	untracked, err := git.Run(ctx, "ls-files", "--others", "--exclude-standard", "-z")
	if err != nil {
		return nil, problem(err)
	}
	var paths []string
	for name := range strings.SplitSeq(string(tracked)+string(untracked), "\x00") {
		if name != "" {
			paths = append(paths, filepath.Join(root, filepath.FromSlash(name)))
		}
	}
	return paths, nil
}

// open is git in a working tree. It takes no lock to do better next time: somebody
// else may want to work there.
func open(root string) (*gitutil.GitCLI, error) {
	git, err := gitutil.New(bkgitutil.WithDir(root), bkgitutil.WithArgs("--no-optional-locks"))
	if err != nil {
		return nil, fmt.Errorf("git cannot be run: %w", err)
	}
	return git, nil
}

// problem is what git itself says, in one line.
func problem(err error) error {
	text := strings.TrimPrefix(err.Error(), "git stderr:\n")
	text, _, _ = strings.Cut(text, "\n")
	return errors.New(strings.TrimPrefix(text, "fatal: "))
}

// Rel is the path of a file below the working tree, with slashes; it is not ok for
// one that lies elsewhere. The file need not exist.
func (c *Checkout) Rel(file string) (rel string, ok bool) {
	dir, err := filepath.EvalSymlinks(filepath.Dir(file))
	if err != nil {
		return "", false
	}
	rel, err = filepath.Rel(c.Root, filepath.Join(dir, filepath.Base(file)))
	if err != nil || !filepath.IsLocal(rel) {
		return "", false
	}
	return filepath.ToSlash(rel), true
}
