//go:build linux

package buildah

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/buildah"
	"go.podman.io/storage/pkg/unshare"

	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

func TestMain(m *testing.M) {
	if buildah.InitReexec() {
		return
	}
	unshare.MaybeReexecUsingUserNamespace(false)
	os.Exit(m.Run())
}

// open makes an engine on a store of its own.
func open(t *testing.T, opt Options) *Engine {
	t.Helper()
	dir := t.TempDir()
	opt.Root, opt.RunRoot = filepath.Join(dir, "root"), filepath.Join(dir, "run")
	if opt.Driver == "" {
		opt.Driver = "overlay"
	}
	e, err := Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("closing the engine: %v", err)
		}
		unmountBelow(dir)
	})
	return e
}

// busybox is the directory of Debian's busybox-static.
func busybox(t *testing.T) *planner.Local {
	t.Helper()
	p, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal("busybox is missing: install the package busybox-static")
	}
	dir := t.TempDir()
	raw, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "busybox"), raw, 0o755); err != nil {
		t.Fatal(err)
	}
	return &planner.Local{Dir: dir}
}

func copyOp(src, dest string) *pb.Op {
	return &pb.Op{
		Inputs: []*pb.Input{{}},
		Op: &pb.Op_File{File: &pb.FileOp{Actions: []*pb.FileAction{{
			Input: -1, SecondaryInput: 0, Output: 0,
			Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{
				Src: src, Dest: dest, Mode: -1, CreateDestPath: true, FollowSymlink: true, DirCopyContents: true, Timestamp: -1,
			}},
		}}}},
	}
}

func execOp(mounts []*pb.Mount, args ...string) *pb.Op {
	root := &pb.Mount{Input: 0, Dest: "/", Output: 0}
	return &pb.Op{
		Inputs: []*pb.Input{{}},
		Op: &pb.Op_Exec{Exec: &pb.ExecOp{
			Meta:   &pb.Meta{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}},
			Mounts: append([]*pb.Mount{root}, mounts...),
		}},
	}
}

func job(op *pb.Op, out *bytes.Buffer, inputs ...runner.Input) runner.Job {
	step := &planner.Step{Op: op, Name: "test"}
	for range inputs {
		step.Inputs = append(step.Inputs, planner.Input{Step: &planner.Step{}})
	}
	return runner.Job{
		Step: step, Inputs: inputs, Stdout: out, Stderr: out,
		Secret: func(string) ([]byte, error) { return nil, fs.ErrNotExist },
	}
}

func do(t *testing.T, e *Engine, op *pb.Op, inputs ...runner.Input) (runner.Snapshot, string) {
	t.Helper()
	var out bytes.Buffer
	s, err := e.Do(t.Context(), job(op, &out, inputs...))
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return s[0], out.String()
}

// tinyRoot is a snapshot that has busybox in it.
func tinyRoot(t *testing.T, e *Engine) runner.Snapshot {
	t.Helper()
	s, _ := do(t, e, copyOp("/busybox", "/bin/busybox"), runner.Input{Local: busybox(t)})
	s, _ = do(t, e, execOp(nil, "/bin/busybox", "--install", "-s", "/bin"), runner.Input{Snapshot: s})
	return s
}

func TestRunAndCommit(t *testing.T) {
	fuse, err := exec.LookPath("fuse-overlayfs")
	if err != nil {
		t.Fatal("fuse-overlayfs is missing: install the package fuse-overlayfs")
	}
	for _, tt := range []struct{ name, driver, isolation, option string }{
		{"overlay", "overlay", "", ""},
		{"vfs", "vfs", "", ""},
		{"fuse-overlayfs", "overlay", "", "overlay.mount_program=" + fuse},
		{"chroot", "overlay", "chroot", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opt := Options{Driver: tt.driver, Isolation: tt.isolation}
			if tt.option != "" {
				opt.DriverOptions = []string{tt.option}
			}
			e := open(t, opt)
			base := tinyRoot(t, e)
			s, out := do(t, e, execOp(nil, "sh", "-c", "echo hello; echo data > /file; id -u"), runner.Input{Snapshot: base})
			if out != "hello\n0\n" {
				t.Errorf("output %q", out)
			}
			img, err := e.Commit(t.Context(), runner.ImageSpec{
				Layers: []runner.Snapshot{base, s}, Config: []byte(`{"architecture":"amd64","os":"linux","config":{"Cmd":["cat","/file"]}}`),
				Format: planner.FormatOCI, Created: []time.Time{time.Unix(1, 0), time.Unix(2, 0)},
				Platform: ocispecs.Platform{OS: "linux", Architecture: "amd64"},
			})
			if err != nil {
				t.Fatal(err)
			}
			if img.Layers != 2 || img.Size == 0 {
				t.Errorf("%d layers of %d bytes", img.Layers, img.Size)
			}
			if err := e.Tag(t.Context(), img, []string{"app:1"}); err != nil {
				t.Fatal(err)
			}
			stored, err := e.store.Image("localhost/app:1")
			if err != nil {
				t.Fatal(err)
			}
			if stored.ID != img.ID.Encoded() {
				t.Errorf("the tag points to %s, the image is %s", stored.ID, img.ID)
			}
			v, err := e.view(runner.Snapshot(stored.TopLayer))
			if err != nil {
				t.Fatal(err)
			}
			defer v.close()
			if raw, err := os.ReadFile(filepath.Join(v.root, "file")); err != nil || string(raw) != "data\n" {
				t.Errorf("the image's file has %q, %v", raw, err)
			}
		})
	}
}

func TestRunFails(t *testing.T) {
	e := open(t, Options{})
	base := tinyRoot(t, e)
	layers := countLayers(t, e)
	var out bytes.Buffer
	_, err := e.Do(t.Context(), job(execOp(nil, "sh", "-c", "echo trouble >&2; exit 7"), &out, runner.Input{Snapshot: base}))
	var exit *runner.ExitError
	if !errors.As(err, &exit) || exit.Code != 7 {
		t.Errorf("error %v", err)
	}
	if out.String() != "trouble\n" {
		t.Errorf("output %q", out.String())
	}
	_, err = e.Do(t.Context(), job(execOp(nil, "/no/such/program"), &out, runner.Input{Snapshot: base}))
	if !errors.As(err, &exit) || exit.Code != 127 {
		t.Errorf("a missing program: %v", err)
	}
	if n := countLayers(t, e); n != layers {
		t.Errorf("%d layers are left, there were %d", n, layers)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func countLayers(t *testing.T, e *Engine) int {
	t.Helper()
	layers, err := e.store.Layers()
	if err != nil {
		t.Fatal(err)
	}
	return len(layers)
}

func TestMounts(t *testing.T) {
	e := open(t, Options{})
	base := tinyRoot(t, e)
	local := &planner.Local{Dir: t.TempDir(), Exclude: []string{"hidden"}}
	for _, name := range []string{"shown", "hidden"} {
		if err := os.WriteFile(filepath.Join(local.Dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	op := execOp([]*pb.Mount{
		{Input: 1, Dest: "/ctx", Output: -1, MountType: pb.MountType_BIND, Readonly: true},
		{Input: -1, Dest: "/cache", Output: -1, MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "c"}},
		{Input: -1, Dest: "/tmp", Output: -1, MountType: pb.MountType_TMPFS, TmpfsOpt: &pb.TmpfsOpt{Size: 1 << 20}},
		{Input: -1, Dest: "/run/secrets/s", Output: -1, MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "s", Mode: 0o400}},
	}, "sh", "-c", "ls /ctx; cat /run/secrets/s; echo x >> /cache/n; wc -l < /cache/n; touch /tmp/f; df -m /tmp | tail -1 | awk '{print $2}'; touch /ctx/no 2>/dev/null || echo readonly")
	for i, want := range []string{"shown\nhush1\n1\nreadonly\n", "shown\nhush2\n1\nreadonly\n"} {
		var out bytes.Buffer
		j := job(op, &out, runner.Input{Snapshot: base}, runner.Input{Local: local})
		j.Secret = func(string) ([]byte, error) { return []byte("hush"), nil }
		s, err := e.Do(t.Context(), j)
		if err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		if out.String() != want {
			t.Errorf("run %d: output %q, want %q", i, out.String(), want)
		}
		v, err := e.view(s[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, stub := range []string{"/cache", "/run/secrets/s", "/ctx"} {
			if _, err := os.Lstat(v.root + stub); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the mount point %s stayed behind: %v", stub, err)
			}
		}
		v.close()
	}
}

func TestManifestIsReadable(t *testing.T) {
	e := open(t, Options{})
	base := tinyRoot(t, e)
	for _, format := range []string{planner.FormatOCI, planner.FormatDocker} {
		img, err := e.Commit(t.Context(), runner.ImageSpec{
			Layers: []runner.Snapshot{base}, Config: []byte(`{"architecture":"amd64","os":"linux","config":{},"history":[{"created_by":"COPY"},{"created_by":"CMD","empty_layer":true}]}`),
			Format: format, Created: []time.Time{time.Unix(1, 0)}, Platform: ocispecs.Platform{OS: "linux", Architecture: "amd64"},
		})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := e.store.ImageBigData(img.ID.Encoded(), "manifest")
		if err != nil {
			t.Fatal(err)
		}
		var m ocispecs.Manifest
		if err := json.Unmarshal(raw, &m); err != nil || len(m.Layers) != 1 {
			t.Errorf("%s: manifest %s, %v", format, raw, err)
		}
	}
}

// TestMetacopy has a store as Fedora and RHEL set it up: a file that got another mode
// has its content in the layer below.
func TestMetacopy(t *testing.T) {
	if unshare.IsRootless() {
		t.Skip("the kernel has it for root only")
	}
	e := open(t, Options{DriverOptions: []string{"overlay.mountopt=nodev,metacopy=on"}})
	if !e.thin {
		t.Skip("this kernel does not have it")
	}
	base := tinyRoot(t, e)
	s, _ := do(t, e, execOp(nil, "/bin/chmod", "711", "/bin/busybox"), runner.Input{Snapshot: base})
	copied, _ := do(t, e, copyOp("/bin/busybox", "/copied"), runner.Input{Snapshot: s})
	img, err := e.Commit(t.Context(), runner.ImageSpec{
		Layers: []runner.Snapshot{base, s}, Config: []byte(`{"architecture":"amd64","os":"linux"}`), Format: planner.FormatOCI,
		Created: []time.Time{time.Unix(1, 0), time.Unix(2, 0)},
	})
	if err != nil {
		t.Fatal(err)
	}
	stored, err := e.store.Image(img.ID.Encoded())
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(busybox(t).Dir, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]runner.Snapshot{"bin/busybox": s, "copied": copied, "./bin/busybox": runner.Snapshot(stored.TopLayer)} {
		v, err := e.view(at)
		if err != nil {
			t.Fatal(err)
		}
		defer v.close()
		info, err := os.Stat(filepath.Join(v.root, name))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(filepath.Join(v.root, name))
		if err != nil || !bytes.Equal(raw, want) || info.Mode() != 0o711 {
			t.Errorf("%s is %s of %d bytes, %v", name, info.Mode(), len(raw), err)
		}
	}
}

// TestMountProgramOfStore has a store whose layers fuse-overlayfs has mounted before,
// which no option says: what it has hidden stays hidden, for whoever reads it.
func TestMountProgramOfStore(t *testing.T) {
	dir := t.TempDir()
	opt := Options{Root: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), Driver: "overlay"}
	note := filepath.Join(opt.Root, "overlay", ".has-mount-program")
	if err := errors.Join(os.MkdirAll(filepath.Dir(note), 0o700), os.WriteFile(note, []byte("true"), 0o600)); err != nil {
		t.Fatal(err)
	}
	e, err := Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		unmountBelow(dir)
	})
	s := tinyRoot(t, e)
	for _, script := range []string{"mkdir -p /d/x && touch /d/x/f /gone", "rm -r /gone /d && mkdir -p /d/y && touch /d/y/g"} {
		s, _ = do(t, e, execOp(nil, "sh", "-c", script), runner.Input{Snapshot: s})
	}
	copied, _ := do(t, e, copyOp("/", "/e"), runner.Input{Snapshot: s})
	for at, root := range map[runner.Snapshot]string{s: "", copied: "/e"} {
		v, err := e.view(at)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		err = filepath.WalkDir(v.root+root, func(p string, _ fs.DirEntry, err error) error {
			p = strings.TrimPrefix(p, v.root+root)
			if err == nil && (p == "/gone" || strings.HasPrefix(p+"/", "/d/") || strings.Contains(p, ".wh.")) {
				got = append(got, p)
			}
			return err
		})
		if want := []string{"/d", "/d/y", "/d/y/g"}; err != nil || !slices.Equal(got, want) {
			t.Errorf("there are %v, %v, want %v", got, err, want)
		}
		v.close()
	}
}
