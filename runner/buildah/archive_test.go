//go:build linux

package buildah

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/moby/buildkit/solver/pb"
	"go.podman.io/storage/pkg/unshare"

	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

// addOp is ADD src dest.
func addOp(src, dest string) *pb.Op {
	op := copyOp(src, dest)
	op.GetFile().Actions[0].GetCopy().AttemptUnpackDockerCompatibility = true
	return op
}

func tarOf(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		text := ""
		if h.Typeflag == tar.TypeReg {
			text, h.Linkname = h.Linkname, ""
			h.Size = int64(len(text))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// file is a header for tarOf, which takes a file's content from Linkname.
func file(name, text string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: text}
}

func symlink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}

// pipe runs data through a program of the host.
func pipe(t *testing.T, data []byte, program ...string) []byte {
	t.Helper()
	cmd := exec.Command(program[0], program[1:]...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", program, err)
	}
	return out
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestAddUnpacks(t *testing.T) {
	e := open(t, Options{})
	headers := []tar.Header{
		{Typeflag: tar.TypeDir, Name: "dir", Mode: 0o711, Uid: 5, Gid: 6},
		{Typeflag: tar.TypeReg, Name: "dir/file", Linkname: "text", Mode: 0o4750, Uid: 7, Gid: 8, PAXRecords: map[string]string{"SCHILY.xattr.user.note": "x"}},
		{Typeflag: tar.TypeLink, Name: "hard", Linkname: "dir/file", Mode: 0o4750, Uid: 7, Gid: 8},
		symlink("soft", "dir/file"),
		{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o600},
	}
	if !unshare.IsRootless() {
		headers = append(headers, tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3})
	}
	plain := tarOf(t, headers...)
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"tar": plain, "gzip": gzipped(t, plain), "zstd": z.EncodeAll(plain, nil),
		"bzip2": pipe(t, plain, "bzip2"), "xz": pipe(t, plain, "xz"),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "a"), data, 0o644); err != nil {
				t.Fatal(err)
			}
			// What unpacks must need nothing of the host's.
			t.Setenv("PATH", "/nonexistent")
			s, _ := do(t, e, addOp("/a", "/to/"), runner.Input{Local: &planner.Local{Dir: dir}})
			v, err := e.view(s)
			if err != nil {
				t.Fatal(err)
			}
			defer v.close()
			at := func(name string) (fs.FileInfo, *syscall.Stat_t) {
				info, err := os.Lstat(filepath.Join(v.root, "to", name))
				if err != nil {
					t.Fatal(err)
				}
				return info, info.Sys().(*syscall.Stat_t)
			}
			if info, st := at("dir"); info.Mode().Perm() != 0o711 || st.Uid != 5 || st.Gid != 6 {
				t.Errorf("the directory is %s of %d:%d", info.Mode(), st.Uid, st.Gid)
			}
			info, st := at("dir/file")
			if info.Mode() != 0o750|fs.ModeSetuid || st.Uid != 7 || st.Gid != 8 || st.Nlink != 2 {
				t.Errorf("the file is %s of %d:%d with %d links", info.Mode(), st.Uid, st.Gid, st.Nlink)
			}
			if _, hard := at("hard"); hard.Ino != st.Ino {
				t.Error("the hard link is another file")
			}
			if info, _ := at("soft"); info.Mode()&fs.ModeSymlink == 0 {
				t.Errorf("the link is %s", info.Mode())
			}
			if info, _ := at("fifo"); info.Mode()&fs.ModeNamedPipe == 0 {
				t.Errorf("the pipe is %s", info.Mode())
			}
			if !unshare.IsRootless() {
				if info, st := at("null"); info.Mode()&fs.ModeCharDevice == 0 || st.Rdev != 1<<8|3 {
					t.Errorf("the device is %s, %x", info.Mode(), st.Rdev)
				}
			}
		})
	}
}

// TestAddBadArchives has archives that lead outside, and such as are none. Nothing
// outside of the tree is touched, and nothing half made is left.
func TestAddBadArchives(t *testing.T) {
	e := open(t, Options{})
	outside := t.TempDir()
	base, _ := do(t, e, addOp("/a", "/"), runner.Input{Local: localWith(t, tarOf(t, symlink("way-out", outside), symlink("up", "../../../../../../.."+outside)))})
	whole := gzipped(t, tarOf(t, file("big", strings.Repeat("0123456789abcdef", 1<<14))))
	for _, tt := range []struct {
		name, dest string
		data       []byte
		fails      bool
	}{
		{"dots", "/", tarOf(t, file("../../../../../../.."+outside+"/x", "evil")), false},
		{"absolute", "/", tarOf(t, file(outside+"/x", "evil")), false},
		{"through its own link", "/", tarOf(t, symlink("l", outside), file("l/x", "evil")), true},
		{"through its own link upwards", "/", tarOf(t, symlink("l", "../../../../../.."+outside), file("l/x", "evil")), true},
		{"hard link to the host", "/", tarOf(t, tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "../../../../../../../etc/passwd"}), true},
		{"into a link", "/way-out/", tarOf(t, file("x", "evil")), false},
		{"into a link upwards", "/up/", tarOf(t, file("x", "evil")), false},
		{"copied into a link", "/way-out/x", []byte("evil"), false},
		{"cut off", "/", whole[:len(whole)-100], true},
		{"damaged", "/", append(append(bytes.Clone(whole[:200]), bytes.Repeat([]byte{0xff}, 100)...), whole[300:]...), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := countLayers(t, e)
			op := addOp("/a", tt.dest)
			op.Inputs = append(op.Inputs, &pb.Input{})
			op.GetFile().Actions[0].Input, op.GetFile().Actions[0].SecondaryInput = 0, 1
			var out bytes.Buffer
			_, err := e.Do(t.Context(), job(op, &out, runner.Input{Snapshot: base}, runner.Input{Local: localWith(t, tt.data)}))
			if tt.fails != (err != nil) {
				t.Errorf("error %v", err)
			}
			if err != nil {
				if strings.Contains(err.Error(), e.store.GraphRoot()) {
					t.Errorf("the error names the store: %v", err)
				}
				if n := countLayers(t, e); n != before {
					t.Errorf("%d layers are left, there were %d", n, before)
				}
			}
			if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
				t.Errorf("outside there is %v, %v", left, err)
			}
		})
	}
}

// localWith is a context with one file, a.
func localWith(t *testing.T, data []byte) *planner.Local {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	return &planner.Local{Dir: dir}
}

// TestAddDiskFull unpacks more than there is room for.
func TestAddDiskFull(t *testing.T) {
	if unshare.IsRootless() {
		t.Skip("only root can mount a small file system")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	e, err := Open(t.Context(), Options{Root: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), Driver: "overlay"})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close() //nolint:errcheck // the file system goes with it
	before := countLayers(t, e)
	var out bytes.Buffer
	big := gzipped(t, tarOf(t, file("big", strings.Repeat("0", 40<<20))))
	_, err = e.Do(t.Context(), job(addOp("/a", "/"), &out, runner.Input{Local: localWith(t, big)}))
	if err == nil || !errors.Is(err, syscall.ENOSPC) && !strings.Contains(err.Error(), "no space left") {
		t.Errorf("error %v", err)
	}
	if n := countLayers(t, e); n != before {
		t.Errorf("%d layers are left, there were %d", n, before)
	}
	// The store is as good as before, once the kernel has given the room back: what
	// was unpacked into had a mount namespace of its own.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		_, err := e.Do(t.Context(), job(addOp("/a", "/"), &out, runner.Input{Local: localWith(t, []byte("small"))}))
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("afterwards: %v", err)
		}
	}
}
