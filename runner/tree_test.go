package runner

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tonistiigi/fsutil"
)

// TestUnion has the trees of two platforms leave as one: every file has its own
// content, whichever platform it is of.
func TestUnion(t *testing.T) {
	u := &union{owners: make(map[string]owner)}
	want := map[string]string{"amd64": "of amd64", "arm64": "of arm64", "d/amd64": "of amd64", "d/arm64": "of arm64"}
	for _, platform := range []string{"amd64", "arm64"} {
		if err := u.add(t.Context(), treeOf(t, platform, "d/"+platform), platform, true); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := fsutil.WriteTar(t.Context(), u, &b); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for archive := tar.NewReader(&b); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			got[h.Name] = string(content)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}

	err := u.add(t.Context(), treeOf(t, "d/amd64"), "s390x", true)
	if err == nil || !strings.Contains(err.Error(), "d/amd64 is in the trees of amd64 and of s390x") {
		t.Errorf("a file of two platforms: %v", err)
	}
}

// TestRemoveOthers has everything go that a tree does not have: directories beside one
// another, a directory in a file's place, links and not what they lead to.
func TestRemoveOthers(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	for _, name := range []string{"a", "d/kept", "d/other", "e/x", "f/x", "f/y/z", "g", "h/x"} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(outside, "x"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "d/link"} {
		if err := os.Symlink(outside, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	dest, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dest.Close() })
	if err := removeOthers(t.Context(), treeOf(t, "a", "d/kept", "h", "new"), dest); err != nil {
		t.Fatal(err)
	}
	var left []string
	err = fs.WalkDir(dest.FS(), ".", func(p string, _ fs.DirEntry, err error) error {
		left = append(left, p)
		return err
	})
	if got := strings.Join(left, " "); err != nil || got != ". a d d/kept h" {
		t.Errorf("left: %s, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(outside, "x")); err != nil {
		t.Error(err)
	}
}

// treeOf is a tree with some files, which say whose they are.
func treeOf(t *testing.T, names ...string) fsutil.FS {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("of "+filepath.Base(name)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := fsutil.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}
