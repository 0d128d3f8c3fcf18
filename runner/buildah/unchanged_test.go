//go:build linux

package buildah

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/runner"
)

// TestUnchanged looks at what is in a layer when files are made to be what they are,
// and makes sure that the two ways to its tar are the same.
func TestUnchanged(t *testing.T) {
	e := open(t, Options{})
	if !e.native {
		t.Fatal("overlay does not work here, and with it nothing of this")
	}
	try := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	base := layerOf(t, e, "", func(root string) {
		for _, name := range []string{"touched/inside", "owned/a", "owned/b", "mixed/same", "mixed/other", "named", "away", "older/f", "emptied/f"} {
			p := filepath.Join(root, name)
			try(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(name), 0o640))
		}
		try(os.Symlink("touched", filepath.Join(root, "link")), os.Symlink("/etc", filepath.Join(root, "etc")))
	})
	old := time.Unix(1_000_000_000, 0)
	s := layerOf(t, e, base, func(root string) {
		at := func(name string) string { return filepath.Join(root, name) }
		try(os.WriteFile(at("touched/new"), nil, 0o600), os.Remove(at("touched/new")))
		for _, name := range []string{"owned", "owned/a", "owned/b", "mixed/same", "link"} {
			try(os.Lchown(at(name), 1, 1), os.Lchown(at(name), 0, 0))
		}
		try(os.Chmod(at("mixed/other"), 0o600), os.Chtimes(at("older"), old, old))
		try(os.Link(at("named"), at("name 2")), os.Link(at("named"), at("name 3")))
		try(os.Remove(at("emptied/f")), os.Remove(at("away")), os.Remove(at("etc")), os.Mkdir(at("etc"), 0o755), os.WriteFile(at("etc/passwd"), nil, 0o600))
	})

	want := []string{".wh.away", "emptied/", "emptied/.wh.f", "etc/", "etc/.wh..wh..opq", "etc/passwd", "mixed/", "mixed/other", "name 2", "name 3=name 2"}
	in, err := e.own(t.Context(), base, s)
	try(err)
	var got []string
	sum := digest.Canonical.Digester()
	all := io.TeeReader(in, sum.Hash())
	r := tar.NewReader(all)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		try(err)
		name := h.Name
		if h.Typeflag == tar.TypeLink {
			name += "=" + h.Linkname
		}
		got = append(got, name)
	}
	_, err = io.Copy(io.Discard, all)
	try(err, in.Close())
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the layer has %q, want %q", got, want)
	}

	try(os.MkdirAll(e.StateDir(), 0o700))
	parent, err := e.adopt(t.Context(), "", "", base, nil)
	try(err)
	staged, err := e.adoptStaged(t.Context(), parent.ID, base, s)
	try(err)
	if staged.DiffID != sum.Digest() {
		t.Errorf("the staged layer is %s, the stream %s", staged.DiffID, sum.Digest())
	}

	// What follows sees all of it.
	v, err := e.view(s)
	try(err)
	defer v.close()
	info, err := os.Stat(filepath.Join(v.root, "older"))
	try(err)
	if !info.ModTime().Equal(old) {
		t.Errorf("the directory's time is %v, want %v", info.ModTime(), old)
	}
	var st unix.Stat_t
	try(unix.Stat(filepath.Join(v.root, "named"), &st))
	if st.Nlink < 3 {
		t.Errorf("the file has %d names, want 3", st.Nlink)
	}
}

// TestStreamStops closes a layer's tar in the middle.
func TestStreamStops(t *testing.T) {
	e := open(t, Options{})
	s := layerOf(t, e, "", func(root string) { strange(t, root) })
	in, err := e.own(t.Context(), runner.Snapshot(""), s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(in, make([]byte, 1024)); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
}
