//go:build linux

package buildah

// RUNs that are stopped in the middle: by whoever started the build, by the system, or
// together with the whole process. Nothing of them may be left.

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zbuild/zbuild/runner"
)

// nap is how many seconds a process of a test sleeps that is looked for by that when the
// test is over. No other test has the same, nor has another run of this one that is under
// way on the machine.
func nap(test int) string { return strconv.Itoa(10_000 + 10*os.Getpid() + test) }

// wantNobodyNaps checks that no process sleeps for that long.
func wantNobodyNaps(t *testing.T, length string) {
	t.Helper()
	out, err := exec.Command("pgrep", "-f", "sleep "+length+"([^0-9]|$)").Output()
	const none = 1 // pgrep's status
	var exit *exec.ExitError
	switch {
	case err == nil:
		t.Errorf("processes are left: %s", out)
	case !errors.As(err, &exit) || exit.ExitCode() != none:
		t.Errorf("looking for processes: %v", err)
	}
}

// TestCancelEarly stops a RUN before its process has come to anything.
func TestCancelEarly(t *testing.T) {
	for _, isolation := range []string{"", "chroot"} {
		t.Run("isolation="+isolation, func(t *testing.T) {
			e := open(t, Options{Isolation: isolation})
			base := tinyRoot(t, e)
			length := nap(1)
			for i := range 15 {
				ctx, cancel := context.WithCancel(t.Context())
				timer := time.AfterFunc(time.Duration(i)*4*time.Millisecond, cancel)
				var out bytes.Buffer
				_, err := e.Do(ctx, job(execOp(nil, "sleep", length), &out, runner.Input{Snapshot: base}))
				if !errors.Is(err, context.Canceled) {
					t.Errorf("after %d ms: %v", 4*i, err)
				}
				timer.Stop()
				cancel()
			}
			wantNobodyNaps(t, length)
		})
	}
}

func TestCancel(t *testing.T) {
	for _, isolation := range []string{"", "chroot"} {
		t.Run("isolation="+isolation, func(t *testing.T) {
			e := open(t, Options{Isolation: isolation})
			base := tinyRoot(t, e)
			layers := countLayers(t, e)
			ctx, cancel := context.WithCancel(t.Context())
			started := make(chan struct{})
			w := writerFunc(func(p []byte) (int, error) {
				if strings.Contains(string(p), "started") {
					close(started)
				}
				return len(p), nil
			})
			length := nap(2)
			j := job(execOp(nil, "sh", "-c", "echo started; sleep "+length), nil, runner.Input{Snapshot: base})
			j.Stdout, j.Stderr = w, w
			go func() { <-started; cancel() }()
			begin := time.Now()
			if _, err := e.Do(ctx, j); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
			if d := time.Since(begin); d > 30*time.Second {
				t.Errorf("stopping took %v", d)
			}
			if n := countLayers(t, e); n != layers {
				t.Errorf("%d layers are left, there were %d", n, layers)
			}
			wantNobodyNaps(t, length)
			if left, _ := os.ReadDir(e.proc.path(runtimeName)); len(left) > 0 {
				t.Errorf("containers are left: %v", left)
			}
		})
	}
}

// TestRuntimeKilled kills the runtime in the middle of a RUN, as the system does when
// memory is short: the container does not outlive it.
func TestRuntimeKilled(t *testing.T) {
	e := open(t, Options{Isolation: runtimeKind()})
	base := tinyRoot(t, e)
	layers := countLayers(t, e)
	w := writerFunc(func(p []byte) (int, error) {
		procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			return 0, err
		}
		for _, proc := range procs {
			line, _ := os.ReadFile(proc)
			if !bytes.Contains(line, []byte("\x00--root\x00"+e.proc.path(runtimeName)+"\x00")) {
				continue
			}
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(proc)))
			if err == nil {
				err = syscall.Kill(pid, syscall.SIGKILL)
			}
			if err != nil {
				t.Error(err)
			}
		}
		return len(p), nil
	})
	length := nap(3)
	j := job(execOp(nil, "sh", "-c", "echo started; exec sleep "+length), nil, runner.Input{Snapshot: base})
	j.Stdout, j.Stderr = w, w
	_, err := e.Do(t.Context(), j)
	var exit *runner.ExitError
	if !errors.As(err, &exit) || exit.Code != 128+int(syscall.SIGKILL) {
		t.Errorf("error %v", err)
	}
	wantNobodyNaps(t, length)
	if left, _ := os.ReadDir(e.proc.path(runtimeName)); len(left) > 0 {
		t.Errorf("containers are left: %v", left)
	}
	if n := countLayers(t, e); n != layers {
		t.Errorf("%d layers are left, there were %d", n, layers)
	}
}

// TestSweep kills a process in the middle of a RUN, as kill -9 would, and looks
// whether the next one finds and clears away what it left.
func TestSweep(t *testing.T) {
	if dir := os.Getenv("ZBUILD_TEST_VICTIM"); dir != "" {
		victim(t, dir, os.Getenv("ZBUILD_TEST_ISOLATION"), os.Getenv("ZBUILD_TEST_NAP"))
		return
	}
	for _, isolation := range []string{"oci", "chroot"} {
		t.Run(isolation, func(t *testing.T) { sweepAfterKill(t, isolation) })
	}
}

func sweepAfterKill(t *testing.T, isolation string) {
	dir := t.TempDir()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestSweep$", "-test.v")
	length := nap(4)
	// Killed, it removes nothing.
	cmd.Env = append(os.Environ(), "ZBUILD_TEST_VICTIM="+dir, "ZBUILD_TEST_ISOLATION="+isolation, "ZBUILD_TEST_NAP="+length, "TMPDIR="+t.TempDir())
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var seen strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(seen.String(), "started") {
		n, err := pipe.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v\n%s", err, seen.String())
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()

	e, err := Open(t.Context(), Options{Root: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), Driver: "overlay"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close(); unmountBelow(dir) })
	if n := countLayers(t, e); n != 2 {
		t.Errorf("%d layers are left; 2 were finished", n)
	}
	entries, err := os.ReadDir(e.processDir())
	if err != nil || len(entries) != 1 {
		t.Errorf("directories of processes: %v, %v", entries, err)
	}
	wantNobodyNaps(t, length)
}

func victim(t *testing.T, dir, isolation, length string) {
	e, err := Open(t.Context(), Options{
		Root: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), Driver: "overlay", Isolation: isolation,
	})
	if err != nil {
		t.Fatal(err)
	}
	base := tinyRoot(t, e)
	j := job(execOp(nil, "sh", "-c", "echo started; exec sleep "+length), nil, runner.Input{Snapshot: base})
	j.Stdout, j.Stderr = os.Stdout, os.Stderr
	_, err = e.Do(t.Context(), j)
	t.Fatalf("the victim survived: %v", err)
}
