//go:build linux

package buildah

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestStoreCannotBeLocked has something else be where the store's locks are, while the
// store is open. That is told, and nothing is done after it.
func TestStoreCannotBeLocked(t *testing.T) {
	dir := t.TempDir()
	told := make(chan error, 1)
	e, err := Open(t.Context(), Options{
		Root: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), Driver: "vfs",
		Fatal: func(err error) {
			told <- err
			runtime.Goexit() // as the end of a process would
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, ".lock") || d.IsDir() {
			return err
		}
		return errors.Join(os.Remove(name), os.Mkdir(name, 0o700))
	})
	if err != nil {
		t.Fatal(err)
	}
	went := make(chan struct{})
	after := false
	go func() {
		defer close(went)
		e.Has(t.Context(), "whatever")
		after = true
	}()
	<-went
	select {
	case err := <-told:
		var unusable *UnusableError
		if !errors.As(err, &unusable) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "the next start cleans up") {
			t.Errorf("told was %v", err)
		}
	default:
		t.Error("nothing was told")
	}
	if after {
		t.Error("it went on")
	}
}
