//go:build linux

package buildah

// Calls of the OCI runtime that end with a container. They take moments, unless something
// is wrong with the runtime: one that hangs is given up, for who calls it wants an end.

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// errHangs says that a runtime was given up.
var errHangs = errors.New("the runtime does not come to an end")

// runtimeCommand is a call of a runtime that ends with its context, and all that it has
// started with it: who has its output open would be waited for.
func runtimeCommand(ctx context.Context, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

// callRuntime calls a runtime, whose state is in a directory, and gives what it prints.
func callRuntime(ctx context.Context, patience time.Duration, path, state string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errHangs)
	defer cancel()
	out, err := runtimeCommand(ctx, path, append([]string{"--root", state}, args...)...).CombinedOutput()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return out, err
}

// errReset says that somebody has removed what is only there for this process.
var errReset = errors.New("another program has removed the files of this build from the run directory, as 'podman system reset' does; start it again")

// whileThere gives a context that ends when a directory is gone. A runtime whose files are
// removed may wait for ever.
func whileThere(ctx context.Context, dir string) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	looking := make(chan struct{})
	go func() {
		defer close(looking)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
			if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
				cancel(errReset)
			}
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-looking
	}
}

// kill ends a container whose runtime is a process that is waited for until ended is
// closed. One that has not come to making the container, or does not end with it, is
// killed as well.
func (e *Engine) kill(x *execJob, state, id string, process *os.Process, ended <-chan struct{}) {
	const often, tries = 20 * time.Millisecond, 50
	ctx, cancel := context.WithTimeout(context.Background(), e.hang)
	defer cancel()
	sent := false
	for try := 0; ctx.Err() == nil && (sent || try < tries); try++ {
		if !sent {
			out, err := callRuntime(ctx, e.hang, x.iso.runtime, state, "kill", id, "KILL")
			if sent = err == nil; !sent && !bytes.Contains(out, []byte("does not exist")) {
				e.log.Debug("killing a container", "error", err, "output", strings.TrimSpace(string(out)))
			}
		}
		select {
		case <-ended:
			return
		case <-ctx.Done():
		case <-time.After(often):
		}
	}
	_ = syscall.Kill(-process.Pid, syscall.SIGKILL) // it is a group of its own
	killMounted(x.bundle, ended)
}

// delete removes what a runtime keeps of a container, and the container if it runs. The
// runtime may wait for ten seconds until its processes are gone.
func (e *Engine) delete(path, state, id string) {
	if _, err := os.Stat(filepath.Join(state, id)); err != nil {
		return
	}
	if out, err := callRuntime(context.Background(), 2*e.hang, path, state, "delete", "--force", id); err != nil {
		e.log.Warn("a container cannot be removed", "container", id, "error", err, "output", strings.TrimSpace(string(out)))
	}
}
