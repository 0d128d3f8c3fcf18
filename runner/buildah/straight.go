//go:build linux

package buildah

// What can be copied straight into a layer's own directory, past the overlay and on all
// cores: a directory, to a place where nothing of it has to be looked at on the way.
// reuse.go does so with what comes of a build context, graft.go of a stage.

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/moby/buildkit/solver/pb"
	mode "github.com/tonistiigi/dchapes-mode"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/internal/source"
)

// unaltered reports whether a copy of a directory leaves files as they are, but for
// their owner and mode.
func unaltered(a *pb.FileActionCopy) bool { return a.DirCopyContents && a.Timestamp == -1 }

// modeChange is what a copy makes of files' modes, as fsutil does it; nil if nothing.
func modeChange(a *pb.FileActionCopy) (func(fs.FileMode) fs.FileMode, error) {
	switch {
	case a.ModeStr != "":
		set, err := mode.ParseWithUmask(a.ModeStr, 0)
		if err != nil {
			return nil, err
		}
		return set.Apply, nil
	case a.Mode == -1:
		return nil, nil // no change
	}
	fixed := fs.FileMode(a.Mode).Perm() // the bits of a mode
	for bit, flag := range map[int32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if a.Mode&bit != 0 {
			fixed |= flag
		}
	}
	return func(fs.FileMode) fs.FileMode { return fixed }, nil
}

// plain reports whether a match is ordinary and none of its files has two names.
func plain(m *source.Match) bool {
	for i := range m.Files {
		if m.Files[i].Twin != "" {
			return false
		}
	}
	return ordinary(m)
}

// ordinary reports whether a match is a directory of nothing but files, links and
// directories.
func ordinary(m *source.Match) bool {
	if !m.Files[0].Mode.IsDir() {
		return false
	}
	for i := range m.Files {
		if m.Files[i].Mode&fs.ModeType&^(fs.ModeDir|fs.ModeSymlink) != 0 {
			return false
		}
	}
	return true
}

// occupied is what of a match has something of its name where it comes to lie.
type occupied struct {
	dirs  map[string]bool // directories that are merged
	files map[string]bool // what takes the place of something else
}

// room looks whether a match can be put into dest without an eye on what lies there: at
// the most, files take the place of files, and directories that of directories.
func room(m *source.Match, dest string) (there occupied, ok bool) {
	info, err := os.Lstat(dest)
	if errors.Is(err, fs.ErrNotExist) {
		return there, true
	}
	if err != nil || !info.IsDir() {
		return there, false
	}
	there = occupied{dirs: make(map[string]bool), files: make(map[string]bool)}
	for i := range m.Files[1:] {
		f := &m.Files[1+i]
		if in := path.Dir(f.Name); in != "." && !there.dirs[in] {
			continue // the directory that it is in comes with it
		}
		info, err := os.Lstat(filepath.Join(dest, f.Name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil || info.IsDir() != f.Mode.IsDir():
			return there, false
		case info.IsDir():
			there.dirs[f.Name] = true
		default:
			there.files[f.Name] = true
		}
	}
	return there, true
}

// liftDirs brings directories into the layer that is mounted, as they are.
func liftDirs(dest string, names map[string]bool) error {
	for n := range names {
		p := filepath.Join(dest, n)
		var st unix.Stat_t
		err := unix.Lstat(p, &st)
		if err == nil {
			err = unix.Chmod(p, st.Mode&^unix.S_IFMT) // to what it is
		}
		if err != nil {
			return &fs.PathError{Op: "chmod", Path: p, Err: err}
		}
	}
	return nil
}
