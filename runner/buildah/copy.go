//go:build linux

package buildah

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	rootfs "github.com/containerd/continuity/fs"
	"github.com/moby/buildkit/solver/pb"
	fscopy "github.com/tonistiigi/fsutil/copy"

	"github.com/zbuild/zbuild/internal/source"
)

// copy does COPY and ADD. What comes of a build context is taken in first.
func (f *fileJob) copy(layer *stepLayer, a *pb.FileActionCopy, from int) (err error) {
	root := layer.root
	tree, err := f.open(from)
	if err != nil {
		return err
	}
	local := from >= 0 && f.refs[from].input.Local != nil
	defer func() {
		var none *source.NotFoundError
		if errors.As(err, &none) && !local {
			none.In = "the stage or image that it is copied from"
		}
	}()
	asked, err := f.owner(a.Owner, root)
	if err != nil {
		return err
	}
	owner := asked
	if owner == nil && local {
		owner = &fscopy.User{} // files of the host come as root's, whoever owns them there
	}
	dest := cleanPath(a.Dest)
	if !a.CreateDestPath {
		if err := needDir(root, path.Dir(strings.TrimSuffix(dest, "/"))); err != nil {
			return err
		}
	}
	matches, err := tree.Resolve(source.Selection{Path: a.Src, Wildcard: a.AllowWildcard, FollowLinks: a.FollowSymlink})
	if err != nil {
		var none *source.NotFoundError
		if errors.As(err, &none) && none.Pattern && a.AllowEmptyWildcard {
			return f.named(tree, a.Src, from)
		}
		return err
	}
	for _, p := range a.RequiredPaths {
		if err := f.require(tree, a, p); err != nil {
			return err
		}
	}
	for _, m := range matches {
		if err := layer.back(); err != nil {
			return err
		}
		if err := f.followTop(tree, a, m); err != nil {
			return err
		}
		unpacked, err := f.unpackMatch(layer, a, tree, m, asked)
		switch {
		case unpacked || err != nil:
		case local:
			err = f.copyLocal(layer, a, tree, m, owner)
		default:
			err = f.copyFrozen(layer, a, tree, m, owner, from)
		}
		if err != nil {
			return hideRoots(err, tree.Dir, layer.root)
		}
	}
	return nil
}

// named makes sure that the directory in which nothing matches a pattern is one that
// BuildKit would have: it has of a build context what the Dockerfile names, if that is
// there, with the directories that lead to it.
func (f *fileJob) named(tree source.Tree, pattern string, from int) error {
	if from < 0 || f.refs[from].input.Local == nil || len(f.refs[from].input.Local.Follow) == 0 {
		return nil
	}
	dir := source.BeforeWildcard(pattern)
	there, err := tree.Named(f.ctx, dir, f.refs[from].input.Local.Follow)
	if err == nil && !there {
		err = &source.NotFoundError{Path: dir}
	}
	return err
}

// unpackMatch unpacks a match if ADD does so with it.
func (f *fileJob) unpackMatch(layer *stepLayer, a *pb.FileActionCopy, tree source.Tree, match string, owner *fscopy.User) (bool, error) {
	if !a.AttemptUnpackDockerCompatibility {
		return false, nil
	}
	unpacked, err := unpack(tree, match, layer.root, cleanPath(a.Dest), owner)
	if err != nil {
		return false, fmt.Errorf("unpacking %s: %w", match, err)
	}
	if unpacked {
		f.spoil(layer)
	}
	return unpacked, nil
}

// require makes sure that a path is there, and among what is copied: as with BuildKit
// it is an error to exclude what is asked for by its name.
func (f *fileJob) require(tree source.Tree, a *pb.FileActionCopy, p string) error {
	if err := tree.Require(p); err != nil {
		return err
	}
	if through, err := throughLink(tree.Dir, a.Src, p); err != nil || through {
		return errors.Join(err, &source.NotFoundError{Path: p})
	}
	nothing := slices.Contains(a.IncludePatterns, "") // a path ends in its pivot point
	if !nothing && len(a.ExcludePatterns) == 0 {
		return nil
	}
	none := &source.NotFoundError{Path: p}
	if nothing {
		return none
	}
	files, err := (&source.Hasher{}).List(f.ctx, tree, source.Selection{
		Path: a.Src, Wildcard: a.AllowWildcard, FollowLinks: a.FollowSymlink, Include: a.IncludePatterns, Exclude: a.ExcludePatterns,
	})
	if err != nil {
		return err
	}
	for _, m := range files.Matches {
		for _, file := range m.Files {
			if strings.HasPrefix(path.Join("/", m.Path, file.Name), p) {
				return nil
			}
		}
	}
	return none
}

// throughLink reports whether a path leads through a link after src, from where paths
// are matched with patterns: those go by names.
func throughLink(dir, src, p string) (bool, error) {
	src = path.Clean("/" + src)
	at, err := rootfs.RootPath(dir, src)
	if err != nil {
		return false, hideRoots(err, dir)
	}
	for part := range strings.SplitSeq(strings.Trim(path.Dir(strings.TrimPrefix(path.Clean("/"+p), src)), "/."), "/") {
		at = filepath.Join(at, part)
		info, err := os.Lstat(at)
		if err != nil {
			return false, hideRoots(err, dir)
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			return true, nil
		}
	}
	return false, nil
}

// followTop makes sure that no link at the top of a tree leads nowhere, if patterns
// select it: to BuildKit such a link is named then, and what is named is followed.
func (f *fileJob) followTop(tree source.Tree, a *pb.FileActionCopy, match string) error {
	if !a.FollowSymlink || !isRootDir(match) || len(a.IncludePatterns)+len(a.ExcludePatterns) == 0 {
		return nil
	}
	entries, err := os.ReadDir(tree.Dir)
	if err != nil {
		return hideRoots(err, tree.Dir)
	}
	var nowhere []string
	for _, entry := range entries {
		if entry.Type()&fs.ModeSymlink == 0 {
			continue
		}
		if _, err := tree.Resolve(source.Selection{Path: entry.Name(), FollowLinks: true}); errors.Is(err, fs.ErrNotExist) {
			nowhere = append(nowhere, entry.Name())
		}
	}
	if len(nowhere) == 0 {
		return nil
	}
	files, err := (&source.Hasher{}).List(f.ctx, tree, source.Selection{Path: match, Include: a.IncludePatterns, Exclude: a.ExcludePatterns})
	if err != nil {
		return err
	}
	for _, file := range files.Matches[0].Files {
		if slices.Contains(nowhere, file.Name) {
			return &source.NotFoundError{Path: "/" + file.Name}
		}
	}
	return nil
}

// copyLocal copies a match of a build context: all of it into the layer's own
// directory, when that is not mounted any more, or file by file.
func (f *fileJob) copyLocal(layer *stepLayer, a *pb.FileActionCopy, tree source.Tree, match string, owner *fscopy.User) error {
	implied, err := tree.Implied(match)
	if err != nil {
		return err
	}
	list := f.list
	if list == nil {
		list = (&source.Hasher{}).List
	}
	files, err := list(f.ctx, tree, source.Selection{
		Path: match, FollowLinks: a.FollowSymlink, Include: a.IncludePatterns, Exclude: a.ExcludePatterns,
	})
	if err != nil {
		return err
	}
	m := &files.Matches[0]
	if there, ok := f.fillable(layer, a, m); ok && len(implied) == 0 {
		if err := f.copyTaken(layer, a, tree, m, owner, nil, true); err != nil {
			return err
		}
		fill, err := f.filling(layer, a, tree, files, owner, there)
		if err != nil {
			return err
		}
		if fill != nil {
			return f.fillWith(layer, fill)
		}
	}
	f.others = true
	f.spoilAt(layer, tree, match, a.Dest)
	return f.copyTaken(layer, a, tree, m, owner, implied, false)
}

// copyFrozen copies a match of a stage or image: grafted, if that can be done, or file
// by file.
func (f *fileJob) copyFrozen(layer *stepLayer, a *pb.FileActionCopy, tree source.Tree, match string, owner *fscopy.User, from int) error {
	if unaltered(a) && from >= 0 && f.e.native {
		if grafted, err := f.grafted(layer, a, tree, match, owner, f.refs[from]); grafted || err != nil {
			return err
		}
	}
	f.spoilAt(layer, tree, match, a.Dest)
	return fscopy.Copy(f.ctx, tree.Dir, match, layer.root, cleanPath(a.Dest), copyOptions(a, nil, owner))
}

// copyTaken takes a match in and copies it from there; if it is a directory then
// perhaps nothing but the directory itself.
func (f *fileJob) copyTaken(layer *stepLayer, a *pb.FileActionCopy, tree source.Tree, m *source.Match, owner *fscopy.User, implied []string, empty bool) error {
	root, dest := layer.root, cleanPath(a.Dest)
	// Who owns a file of the host is nobody's business here, and not in the image.
	from, err := f.e.takeIn(f.ctx, m, &fscopy.User{}, empty)
	if err != nil {
		return err
	}
	defer from.close()
	taken := source.Tree{Dir: from.dir, Exclude: tree.Exclude}
	target, err := copyTarget(taken.Dir, m.Path, root, dest, a)
	if err != nil {
		return err
	}
	err = fscopy.Copy(f.ctx, taken.Dir, m.Path, root, dest, copyOptions(a, tree.Below(m.Path), owner))
	if err == nil && a.Timestamp == -1 && len(a.IncludePatterns)+len(a.ExcludePatterns) == 0 {
		err = timesOfImplied(taken, m.Path, target, implied)
	}
	if err == nil && isRootDir(m.Path) {
		err = afterContextRoot(taken.Dir, root, dest, a)
	}
	return hideRoots(err, taken.Dir, root)
}

// copyOptions says how one match is copied. ignored are the ignore file's
// patterns, as they read from inside of it.
func copyOptions(a *pb.FileActionCopy, ignored []string, owner *fscopy.User) fscopy.Opt {
	return func(ci *fscopy.CopyInfo) {
		ci.IncludePatterns = a.IncludePatterns
		ci.ExcludePatterns = slices.Concat(ignored, a.ExcludePatterns)
		ci.Chown = chowner(owner)
		ci.Utime = timestamp(a.Timestamp)
		if a.ModeStr != "" {
			ci.ModeStr = a.ModeStr
		} else if mode := int(a.Mode); mode != -1 {
			ci.Mode = &mode
		}
		ci.CopyDirContents = a.DirCopyContents
		ci.FollowLinks = a.FollowSymlink
		ci.AlwaysReplaceExistingDestPaths = a.AlwaysReplaceExistingDestPaths
		// A file system that cannot hold an attribute is no reason to fail.
		ci.XAttrErrorHandler = func(string, string, string, error) error { return nil }
	}
}
