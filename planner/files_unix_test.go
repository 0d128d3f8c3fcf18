//go:build unix

package planner

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestReadFile(t *testing.T) {
	tmp := t.TempDir()
	path := func(name string) string { return filepath.Join(tmp, name) }
	if err := os.WriteFile(path("good"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path("pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path("huge"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(1<<40), f.Close()); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadFile(path("good")); err != nil || string(got) != "text" {
		t.Errorf("good: %q, %v", got, err)
	}
	for name, want := range map[string]string{
		"none": "it does not exist", "": "it is a directory", "pipe": "it is not a regular file", "huge": "it is larger than 16 MB",
	} {
		_, err := ReadFile(path(name))
		if err == nil || reason(err) != want {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
	}
}
