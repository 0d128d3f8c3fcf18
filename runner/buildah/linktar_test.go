//go:build linux

package buildah

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"github.com/vbatts/tar-split/tar/asm"
	tarsplit "github.com/vbatts/tar-split/tar/storage"
	graphdriver "go.podman.io/storage/drivers"
	"go.podman.io/storage/pkg/archive"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/runner"
)

// layerOf makes a snapshot by what fn does to a tree.
func layerOf(t *testing.T, e *Engine, below runner.Snapshot, fn func(root string)) runner.Snapshot {
	t.Helper()
	l, err := e.newLayer(below)
	if err != nil {
		t.Fatal(err)
	}
	defer l.drop()
	fn(l.root)
	s, err := l.freeze()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// strange fills a tree with everything that a layer may have.
func strange(t *testing.T, root string) {
	t.Helper()
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string) string {
		p := filepath.Join(root, name)
		try(os.MkdirAll(filepath.Dir(p), 0o755))
		try(os.WriteFile(p, []byte(text), 0o640))
		return p
	}
	for i := range 3 * pieceFiles {
		write(fmt.Sprintf("many/d%d/f%d", i%7, i), strings.Repeat("x", i*13))
	}
	write("big", strings.Repeat("0123456789abcdef", pieceSize/16)+"more")
	write("bigger", strings.Repeat("0123456789abcdef", pieceSize/8))
	write("empty", "")
	write(strings.Repeat("long/", 30)+strings.Repeat("n", 200), "a long name")
	write("naïve \xff name", "not UTF-8")
	write("gone/file", "1")
	write("hidden/below", "1")
	one := write("links/one", "several names")
	try(os.Link(one, filepath.Join(root, "links/two")))
	try(os.Link(one, filepath.Join(root, "many/three")))
	try(os.Symlink("one", filepath.Join(root, "links/symbolic")))
	try(os.Link(filepath.Join(root, "links/symbolic"), filepath.Join(root, "links/symbolic2")))
	try(unix.Mkfifo(filepath.Join(root, "fifo"), 0o600))
	try(os.Chmod(write("setuid", "x"), 0o755|os.ModeSetuid))
	try(os.Chmod(filepath.Join(root, "links"), 0o1777|os.ModeSticky))
	try(os.Lchown(write("owned", "x"), 1234, 3_000_000))
	capability := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // cap_net_bind_service+ep
	try(unix.Setxattr(write("capable", "x"), "security.capability", capability, 0))
	try(unix.Mknod(filepath.Join(root, "socket"), unix.S_IFSOCK|0o600, 0))
	if err := unix.Mknod(filepath.Join(root, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil && !errors.Is(err, unix.EPERM) {
		t.Fatal(err)
	}
}

// TestLinkTar compares with the tar that the store makes of a layer, and makes the
// tar again of what was linked and split.
func TestLinkTar(t *testing.T) {
	e := open(t, Options{})
	if !e.native {
		t.Fatal("overlay does not work here, and with it nothing of this")
	}
	base := layerOf(t, e, "", func(root string) { strange(t, root) })
	changed := layerOf(t, e, base, func(root string) {
		for _, err := range []error{
			os.RemoveAll(filepath.Join(root, "gone")), os.Remove(filepath.Join(root, "big")), os.Remove(filepath.Join(root, "links/two")),
			os.RemoveAll(filepath.Join(root, "hidden")), os.Mkdir(filepath.Join(root, "hidden"), 0o700),
			os.WriteFile(filepath.Join(root, "hidden/new"), nil, 0o600), os.Chmod(filepath.Join(root, "empty"), 0o600),
			os.Mkdir(filepath.Join(root, "new"), 0o711),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	})
	again := layerOf(t, e, changed, func(root string) {
		if err := errors.Join(os.RemoveAll(filepath.Join(root, "hidden")), os.MkdirAll(filepath.Join(root, "hidden/new"), 0o755)); err != nil {
			t.Fatal(err)
		}
	})
	nothing := layerOf(t, e, again, func(string) {})
	for _, pair := range []struct {
		name     string
		below, s runner.Snapshot
	}{{"all kinds of files", "", base}, {"whiteouts", base, changed}, {"opaque again", changed, again}, {"nothing", again, nothing}} {
		t.Run(pair.name, func(t *testing.T) {
			tar, err := e.diff(t.Context(), pair.below, pair.s)
			if err != nil {
				t.Fatal(err)
			}
			want, err := io.ReadAll(tar)
			if err = errors.Join(err, tar.Close()); err != nil {
				t.Fatal(err)
			}
			dirs, err := e.lowerDirs(string(pair.s))
			if err != nil {
				t.Fatal(err)
			}
			dest, long := filepath.Join(filepath.Dir(dirs[0]), "one"), filepath.Join(filepath.Dir(dirs[0]), "other") // below the same mount
			if err := errors.Join(os.Mkdir(dest, 0o700), os.Mkdir(long, 0o700)); err != nil {
				t.Fatal(err)
			}
			var split bytes.Buffer
			var out graphdriver.DriverWithDifferOutput
			l := &linkTar{ctx: t.Context(), src: dirs[0], dest: dest, convert: archive.GetWhiteoutConverter(archive.OverlayWhiteoutFormat, dirs[1:])}
			if err := l.run(&split, &out); err != nil {
				t.Fatal(err)
			}
			if d := digest.FromBytes(want); out.UncompressedDigest != d || out.Size != int64(len(want)) {
				t.Errorf("digest %s of %d bytes, want %s of %d", out.UncompressedDigest, out.Size, d, len(want))
			}
			made := asm.NewOutputTarStream(tarsplit.NewPathFileGetter(dest), tarsplit.NewJSONUnpacker(&split))
			defer made.Close()
			got, err := io.ReadAll(made)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("made again it is another tar, of %d bytes (%v), want %d", len(got), err, len(want))
			}
			var other graphdriver.DriverWithDifferOutput
			if err := linkTree(dirs[0], long, &other); err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(out.UIDs, out.GIDs) != fmt.Sprint(other.UIDs, other.GIDs) {
				t.Errorf("owners %v %v, want %v %v", out.UIDs, out.GIDs, other.UIDs, other.GIDs)
			}
			sameTrees(t, dest, long)
		})
	}
}

// sameTrees compares two trees of links to the same files.
func sameTrees(t *testing.T, a, b string) {
	t.Helper()
	look := func(dir string) string {
		var out strings.Builder
		err := filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
			var st unix.Stat_t
			if err = errors.Join(err, unix.Lstat(p, &st)); err != nil {
				return err
			}
			ino := st.Ino
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				ino = 0
			}
			attrs := make([]byte, 1<<10)
			n, err := unix.Llistxattr(p, attrs)
			fmt.Fprintf(&out, "%s %o %d %d %d %d %q\n", strings.TrimPrefix(p, dir), st.Mode, st.Uid, st.Gid, ino, st.Mtim.Nano(), attrs[:max(0, n)])
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if x, y := look(a), look(b); x != y {
		t.Errorf("linked:\n%s\nwant:\n%s", x, y)
	}
}

// TestLinkTarCanceled stops in the middle.
func TestLinkTarCanceled(t *testing.T) {
	src, dest := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out graphdriver.DriverWithDifferOutput
	l := &linkTar{ctx: ctx, src: src, dest: dest, convert: archive.GetWhiteoutConverter(archive.OverlayWhiteoutFormat, nil)}
	if err := l.run(io.Discard, &out); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
}
