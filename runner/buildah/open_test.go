//go:build linux

package buildah

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
