package torture

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system of so many megabytes: ext4 in a file where that
// may be mounted, else one in memory.
func smallDisk(t *testing.T, megabytes int64) string {
	t.Helper()
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	must(t, os.Mkdir(disk, 0o755))
	t.Cleanup(func() {
		unmountBelow(dir)
	})
	image := filepath.Join(dir, "image")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, megabytes<<20))
	if mkfs, err := exec.LookPath("mkfs.ext4"); err == nil {
		if out, err := exec.Command(mkfs, "-q", "-F", "-m", "0", image).CombinedOutput(); err != nil {
			t.Fatalf("mkfs: %v\n%s", err, out)
		}
		out, err := exec.Command("mount", "-o", "loop", image, disk).CombinedOutput()
		if err == nil {
			return disk
		}
		t.Logf("no loop devices, a file system in memory does it, too: %s", out)
	}
	must(t, unix.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%dm", megabytes)))
	return disk
}

// free says how many bytes are left on a file system.
func free(t *testing.T, dir string) int64 {
	t.Helper()
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	return int64(st.Bavail) * st.Bsize
}

// scarcity is something that a file system may run out of.
type scarcity struct {
	disk  func(t *testing.T) string
	free  func(t *testing.T, disk string) int64
	waste func(t *testing.T, disk string, n int64) (giveBack func())
}

var scarcities = map[string]scarcity{
	"bytes": {
		disk: func(t *testing.T) string { return smallDisk(t, 120) },
		free: free,
		waste: func(t *testing.T, disk string, n int64) func() {
			filler := filepath.Join(disk, "filler")
			fill(t, filler, n)
			return func() { must(t, os.Remove(filler)) }
		},
	},
	"inodes": {
		disk: func(t *testing.T) string {
			disk := t.TempDir()
			must(t, unix.Mount("tmpfs", disk, "tmpfs", 0, "size=400m,nr_inodes=5000"))
			t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
			return disk
		},
		free: func(t *testing.T, disk string) int64 {
			var st unix.Statfs_t
			must(t, unix.Statfs(disk, &st))
			return int64(st.Ffree)
		},
		waste: func(t *testing.T, disk string, n int64) func() {
			dir := filepath.Join(disk, "filler")
			must(t, os.Mkdir(dir, 0o700))
			for i := range n - 1 { // the directory is one, too
				must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600))
			}
			return func() { must(t, os.RemoveAll(dir)) }
		},
	},
}

// TestFull lets bakes run out of space, or of inodes, at random places.
func TestFull(t *testing.T) {
	rnd := random(t)
	p := newProject(t, 3, 30)
	want := make(map[int]map[string]string)
	for base := range versions {
		p.base(base)
		clean := newPlace(t)
		clean.zbuild(p.dir, "bake", "--progress", "plain")
		want[base] = clean.fingerprints()
		unmountBelow(clean.dir)
	}
	for what, scarce := range scarcities {
		t.Run(what, func(t *testing.T) { runOut(t, rnd, p, want, scarce) })
	}
}

func runOut(t *testing.T, rnd *rand.Rand, p *project, want map[int]map[string]string, scarce scarcity) {
	disk := scarce.disk(t)
	s := newPlaceIn(t, filepath.Join(disk, "place"))
	p.base(0)
	before := scarce.free(t, disk)
	s.zbuild(p.dir, "bake", "--progress", "plain")
	s.same(want[0])
	needs := before - scarce.free(t, disk)
	failed := 0
	for i := range times(3, 150) {
		base := i % versions
		p.base(base)
		s.zbuild(p.dir, "cache", "prune", "--all")
		if rnd.IntN(2) == 0 {
			if out, err := s.tool(t.Context(), "podman", "rmi", "--all", "--force"); err != nil {
				t.Fatalf("podman rmi: %v\n%s", err, out)
			}
		}
		old := s.fingerprints()
		leave := rnd.Int64N(needs)
		giveBack := scarce.waste(t, disk, scarce.free(t, disk)-leave)
		out, err := s.command(p.dir, "bake", "--progress", "plain").CombinedOutput()
		if bytes.Contains(out, []byte("goroutine ")) {
			t.Fatalf("a stack trace:\n%s", out)
		}
		if err != nil {
			failed++
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 && exit.ExitCode() != 125 {
				t.Errorf("%v\n%s", err, tail(out))
			}
			if !strings.Contains(strings.ToLower(string(out)), "no space left") {
				t.Errorf("nothing is said of the disk:\n%s", tail(out))
			}
			if !strings.Contains(string(out), "make room") && !strings.Contains(string(out), "makes room") {
				t.Errorf("it is not said what to do:\n%s", tail(out))
			}
		}
		giveBack()
		for name, got := range s.fingerprints() {
			if got != old[name] && got != want[base][name] {
				t.Errorf("bake %d with %d left: %s is %s, neither the old image nor the new one", i, leave, name, got)
			}
		}
		s.zbuild(p.dir, "bake", "--progress", "plain")
		s.same(want[base])
		s.clean()
		if t.Failed() {
			t.Fatalf("bake %d, with %d left of %d", i, leave, needs)
		}
	}
	t.Logf("%d bakes failed", failed)
}

// fill makes a file of a size that really takes it.
func fill(t *testing.T, name string, size int64) {
	t.Helper()
	f, err := os.Create(name)
	must(t, err)
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, max(size, 1)); err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// TestReadOnly bakes on a store that cannot be written, and with a cache that
// cannot.
func TestReadOnly(t *testing.T) {
	p := newProject(t, 1, 5)
	disk := smallDisk(t, 100)
	s := newPlaceIn(t, filepath.Join(disk, "place"))
	s.zbuild(p.dir, "bake", "--progress", "plain")
	want := s.fingerprints()
	must(t, unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	p.base(1)
	cmd := s.command(p.dir, "bake", "--progress", "plain")
	cmd.Env = append(cmd.Env, "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 125 {
		t.Errorf("on a read-only store: %v\n%s", err, tail(out))
	}
	if !strings.Contains(string(out), "read-only file system") {
		t.Errorf("it is not said why:\n%s", tail(out))
	}
	must(t, unix.Mount("", disk, "", unix.MS_REMOUNT, ""))
	p.base(0)
	s.zbuild(p.dir, "bake", "--progress", "plain")
	s.same(want)
	s.clean()

	// Only what zbuild keeps for itself: the build succeeds, and says what it could
	// not do.
	state := filepath.Join(s.root, "zbuild")
	must(t, unix.Mount(state, state, "", unix.MS_BIND, ""))
	must(t, unix.Mount("", state, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	p.write("Dockerfile", "FROM scratch\nARG SERVICE\nCOPY rootfs /\nCOPY base.txt /\nRUN [\"/bin/busybox\", \"echo\", \"hello\"]\n", 0o644)
	text := s.zbuild(p.dir, "bake", "--progress", "plain")
	if !strings.Contains(text, "read-only file system") {
		t.Errorf("nothing is said of the cache that cannot be written:\n%s", text)
	}
	must(t, unix.Unmount(state, unix.MNT_DETACH))
	s.clean()
}
