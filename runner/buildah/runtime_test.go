//go:build linux

package buildah

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/runner"
)

// hangs writes a runtime that does nothing and comes to no end, nor does what it starts.
func hangs(t *testing.T, nap string) (path, begun string) {
	t.Helper()
	dir := t.TempDir()
	path, begun = filepath.Join(dir, "runtime"), filepath.Join(dir, "begun")
	if err := os.WriteFile(path, []byte("#!/bin/sh\ntouch "+begun+"\nsleep "+nap+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path, begun
}

// stopped stops a RUN when something is there, and makes sure that it ends.
func stopped(t *testing.T, e *Engine, root runner.Snapshot, op *pb.Op, begun func() bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := e.Do(ctx, job(op, &bytes.Buffer{}, runner.Input{Snapshot: root}))
		ended <- err
	}()
	for !begun() {
		select {
		case err := <-ended:
			t.Fatalf("it has ended by itself: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(2 * time.Minute):
		t.Error("it does not end")
	}
}

// TestHangingRuntime stops a RUN whose runtime does not react to anything.
func TestHangingRuntime(t *testing.T) {
	length := nap(6)
	path, begun := hangs(t, length)
	e := open(t, Options{})
	e.hang = 100 * time.Millisecond
	root := tinyRoot(t, e)
	e.isolations = isolations{opt: Options{Runtime: path}, note: func(isolation) error { return nil }}
	stopped(t, e, root, execOp(nil, "true"), func() bool {
		_, err := os.Stat(begun)
		return err == nil
	})
	wantNobodyNaps(t, length)
}

// TestStoppedRuntime stops a RUN whose runtime was itself stopped by a signal.
func TestStoppedRuntime(t *testing.T) {
	length := nap(7)
	e := open(t, Options{Runtime: "runc"})
	e.hang = 2 * time.Second
	root := tinyRoot(t, e)
	stopped(t, e, root, execOp(nil, "sleep", length), func() bool {
		if exec.Command("pgrep", "-f", "^sleep "+length).Run() != nil {
			return false
		}
		out, err := exec.Command("pgrep", "-f", "run --bundle "+e.proc.path(bundlesName)).Output()
		if err != nil {
			return false
		}
		for line := range strings.Lines(string(out)) {
			pid, err := strconv.Atoi(strings.TrimSpace(line))
			if err == nil {
				err = syscall.Kill(pid, syscall.SIGSTOP)
			}
			if err != nil {
				t.Error(err)
			}
		}
		return true
	})
	wantNobodyNaps(t, length)
	if left, err := os.ReadDir(e.proc.path(runtimeName)); err != nil || len(left) > 0 {
		t.Errorf("the runtime still knows of %v, %v", left, err)
	}
}

// TestReset removes the files of a RUN, as who resets the store does, while its runtime
// waits for something that will never be there again.
func TestReset(t *testing.T) {
	length := nap(9)
	path, begun := hangs(t, length)
	e := open(t, Options{})
	e.hang = 100 * time.Millisecond
	root := tinyRoot(t, e)
	e.isolations = isolations{opt: Options{Runtime: path}, note: func(isolation) error { return nil }}
	ended := make(chan error, 1)
	go func() {
		_, err := e.Do(t.Context(), job(execOp(nil, "true"), &bytes.Buffer{}, runner.Input{Snapshot: root}))
		ended <- err
	}()
	for _, err := os.Stat(begun); err != nil; _, err = os.Stat(begun) {
		time.Sleep(10 * time.Millisecond)
	}
	if err := os.RemoveAll(e.proc.dir); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, errReset) {
			t.Error(err)
		}
	case <-time.After(2 * time.Minute):
		t.Error("it does not end")
	}
	wantNobodyNaps(t, length)
	if _, err := e.Do(t.Context(), job(execOp(nil, "true"), &bytes.Buffer{}, runner.Input{Snapshot: root})); !errors.Is(err, errReset) {
		t.Error(err)
	}
}

// TestSweepHangs clears away after a process whose runtime hangs, once interrupted and
// once to the end.
func TestSweepHangs(t *testing.T) {
	length := nap(6)
	path, _ := hangs(t, length)
	died, err := newProcess(filepath.Join(t.TempDir(), "zbuild"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(died.usesRuntime(path), os.Mkdir(died.path(runtimeName, "container"), 0o700), died.lock.Close()); err != nil {
		t.Fatal(err)
	}
	e := &Engine{hang: 100 * time.Millisecond, log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if e.sweepOne(ctx, died.dir) {
		t.Error("it was interrupted, and done")
	}
	if _, err := os.Stat(died.path(runtimeName, "container")); err != nil {
		t.Errorf("nobody will know of the container: %v", err)
	}
	if !e.sweepOne(t.Context(), died.dir) {
		t.Error("it is not done")
	}
	if left, err := os.ReadDir(died.dir); err != nil || len(left) != 1 {
		t.Errorf("left are %v, %v", left, err)
	}
	wantNobodyNaps(t, length)
}

// TestTryHangs tries a runtime whose child keeps its output open.
func TestTryHangs(t *testing.T) {
	length := nap(6)
	path, _ := hangs(t, length)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := tryRuntime(ctx, path); err == nil {
		t.Error("it works")
	}
	wantNobodyNaps(t, length)
}

// TestOthersLive has a process that is none of ours see what a RUN has mounted: a service
// of the machine with a mount namespace that is told of all mounts, as many are.
func TestOthersLive(t *testing.T) {
	length := nap(8)
	dir := t.TempDir()
	if err := errors.Join(unix.Mount(dir, dir, "", unix.MS_BIND, ""), unix.Mount("", dir, "", unix.MS_SHARED, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	opt := Options{Root: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), Driver: "overlay", Isolation: "chroot"}
	e, err := Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close(); unmountBelow(dir) })
	root := tinyRoot(t, e)
	service := exec.Command("unshare", "--mount", "--propagation", "slave", "sleep", length)
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	for exec.Command("pgrep", "-f", "^sleep "+length).Run() != nil {
		time.Sleep(10 * time.Millisecond)
	}
	cache := func(selector string) *pb.Mount {
		return &pb.Mount{Input: -1, Output: -1, Dest: "/cache", MountType: pb.MountType_CACHE, Selector: selector, CacheOpt: &pb.CacheOpt{ID: "c"}}
	}
	do(t, e, execOp([]*pb.Mount{cache("")}, "mkdir", "/cache/part"), runner.Input{Snapshot: root})
	do(t, e, execOp([]*pb.Mount{cache("part")}, "true"), runner.Input{Snapshot: root})
	_ = service.Process.Signal(syscall.SIGTERM)
	_ = service.Wait()
	if status, ok := service.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGTERM {
		t.Errorf("the service was killed: %v", service.ProcessState)
	}
}
