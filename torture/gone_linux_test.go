package torture

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// shutDown makes an ext4 file system fail whatever is asked of it, and drops what is not
// on the disk yet: to those who use it the disk is broken, and who mounts it again finds
// what a loss of power leaves.
func shutDown(t *testing.T, disk string) {
	t.Helper()
	const (
		ext4Shutdown = 0x8004587d // _IOR('X', 125, __u32), of the kernel's fs/ext4/ext4.h
		noLogFlush   = 2
	)
	f, err := os.Open(disk)
	must(t, err)
	defer f.Close()
	must(t, unix.IoctlSetPointerInt(int(f.Fd()), ext4Shutdown, noLogFlush))
}

// TestGone has the disk fail at random moments of bakes. They end and say why, without a
// stack trace, though not even the store's locks can be had any more. After the disk has
// been mounted again everything is as after a loss of power: a start sweeps, and a bake
// makes what a clean store would have.
func TestGone(t *testing.T) {
	rnd := random(t)
	p := newProject(t, 2, 20)
	clean := newPlace(t)
	clean.zbuild(p.dir, "bake", "--progress", "plain")
	want := clean.fingerprints()
	disk := smallDisk(t, 200)
	var st unix.Statfs_t
	must(t, unix.Statfs(disk, &st))
	if st.Type != unix.EXT4_SUPER_MAGIC {
		t.Skip("no file system can be shut down here: no loop devices, or no mkfs.ext4")
	}
	s := newPlaceIn(t, filepath.Join(disk, "place"))
	start := time.Now()
	s.zbuild(p.dir, "bake", "--progress", "plain")
	longest := time.Since(start)
	s.same(want)
	for i := range times(1, 100) {
		if rnd.IntN(2) == 0 {
			s.zbuild(p.dir, "cache", "prune", "--all")
		}
		cmd, out := s.start(p.dir, "bake", "--progress", "plain", "--no-cache")
		after := time.Duration(rnd.Float64() * float64(longest))
		time.Sleep(after)
		shutDown(t, disk)
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case err := <-done:
			var exit *exec.ExitError
			if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1 && exit.ExitCode() != 125) {
				t.Errorf("%v", err)
			}
			if bytes.Contains(out.Bytes(), []byte("goroutine ")) || bytes.Contains(out.Bytes(), []byte("panic: ")) {
				t.Errorf("there is a stack trace")
			}
			if exit != nil && exit.ExitCode() == 125 && !bytes.Contains(bytes.ToLower(out.Bytes()), []byte("input/output error")) {
				t.Errorf("nothing is said of the disk")
			}
		case <-time.After(5 * time.Minute):
			must(t, cmd.Process.Signal(unix.SIGQUIT))
			t.Errorf("it does not end: %v", <-done)
		}
		if t.Failed() {
			t.Fatalf("bake %d, after %v:\n%s", i, after, out.Bytes()[:min(out.Len(), 40000)])
		}
		remount(t, s, disk)
		s.nextBoot(p.dir)
		s.zbuild(p.dir, "bake", "--progress", "plain")
		s.known = map[string]string{} // what was there before the disk failed may be another
		s.same(want)
		s.clean()
		if t.Failed() {
			t.Fatalf("after %v of bake %d", after, i)
		}
	}
}

// nextBoot starts a zbuild to which the machine has been started again.
func (p *place) nextBoot(dir string) {
	p.t.Helper()
	id := filepath.Join(p.t.TempDir(), "boot_id")
	must(p.t, os.WriteFile(id, []byte("9d3c1f0e-0000-4000-8000-0123456789ab\n"), 0o600))
	cmd := exec.Command("unshare", "--mount", "sh", "-ec",
		`mount --bind "$1" /proc/sys/kernel/random/boot_id; exec "$2" cache du`, "sh", id, binary)
	cmd.Dir, cmd.Env = dir, p.env
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("the start after the next boot: %v\n%s", err, tail(out))
	}
}

// remount mounts a disk again that has failed, as the next boot would: nothing is left
// in the run directory.
func remount(t *testing.T, s *place, disk string) {
	t.Helper()
	for _, pid := range s.running() {
		_ = unix.Kill(pid, unix.SIGKILL) // containers, which do not live through that either
	}
	unmountBelow(s.run)
	unmountBelow(filepath.Dir(disk))
	must(t, os.RemoveAll(s.run))
	must(t, os.Mkdir(s.run, 0o700))
	image := filepath.Join(filepath.Dir(disk), "image")
	var err error
	var out []byte
	// The kernel lets go of what was mounted when the last user is gone.
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if out, err = exec.Command("mount", "-o", "loop", image, disk).CombinedOutput(); err != nil {
			continue
		}
		if _, err = os.ReadFile(s.conf); err == nil {
			return
		}
		must(t, unix.Unmount(disk, unix.MNT_DETACH)) // it is what was mounted before
	}
	t.Skipf("somebody else has the disk mounted, and it cannot be mounted again: %v\n%s", err, out)
}
