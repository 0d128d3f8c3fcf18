//go:build linux

package buildah

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOpenNames opens stores in directories with names that mount options have a meaning
// for.
func TestOpenNames(t *testing.T) {
	for _, name := range []string{"a,b", "a:b", `a\b`} {
		root := filepath.Join(t.TempDir(), name)
		opt := Options{Root: filepath.Join(root, "root"), RunRoot: filepath.Join(root, "run"), Driver: "overlay"}
		_, err := Open(t.Context(), opt)
		var unusable *UnusableError
		if !errors.As(err, &unusable) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "vfs") {
			t.Errorf("%s: %v, want what to do about it", name, err)
		}
		if _, err := os.Stat(root); err == nil {
			t.Errorf("%s: something was made there", name)
		}
		opt.Driver = "vfs"
		e, err := Open(t.Context(), opt)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestOpenAdvice checks that who cannot open a store is told what is wrong with what they
// have asked for, and nothing of what is in order.
func TestOpenAdvice(t *testing.T) {
	dir := t.TempDir()
	opt := Options{Root: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), Driver: "nonsense"}
	if _, err := Open(t.Context(), opt); err == nil || !strings.Contains(err.Error(), `drivers are overlay and vfs, and this one is "nonsense"`) {
		t.Errorf("a driver that does not exist: %v", err)
	}
	denied := fmt.Errorf("opening: %w", &fs.PathError{Op: "mkdir", Path: "/somebody/root", Err: unix.EACCES})
	if advice := writable(denied, "/somebody/root"); !strings.Contains(advice, "--root") {
		t.Errorf("a directory of somebody else's: %q", advice)
	}
	mount := fmt.Errorf("mounting: %w", unix.EACCES)
	if advice := writable(mount, "/store"); advice != "" {
		t.Errorf("a mount that is not permitted: %q", advice)
	}
}
