package sealed

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOdd reads what is no file of ours, and writes where it is.
func TestOdd(t *testing.T) {
	for what, put := range map[string]func(name string) error{
		"a pipe":      func(name string) error { return unix.Mkfifo(name, 0o600) },
		"a socket":    func(name string) error { return unix.Mknod(name, unix.S_IFSOCK|0o600, 0) },
		"a directory": func(name string) error { return os.MkdirAll(filepath.Join(name, "sub"), 0o700) },
		"a link":      func(name string) error { return os.Symlink(name, name) },
		"a huge file": func(name string) error {
			return errors.Join(os.WriteFile(name, nil, 0o600), os.Truncate(name, 1<<40))
		},
		"an empty file": func(name string) error { return os.WriteFile(name, nil, 0o600) },
	} {
		name := filepath.Join(t.TempDir(), "note")
		if err := put(name); err != nil {
			t.Fatal(err)
		}
		var got string
		if _, err := Read(name, &got); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
		if err := Write(name, "value"); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := Read(name, &got); err != nil || got != "value" {
			t.Errorf("%s: after writing %q, %v", what, got, err)
		}
	}
}
