//go:build unix

package remote

import (
	"context"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// runGroup runs a command in a session of its own, without a terminal to ask for
// passwords at, and ends it with all that it has started.
func runGroup(ctx context.Context, cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err := cmd.Wait()
	if !stop() {
		return context.Cause(ctx)
	}
	return err
}

// setTime sets the time of a file, or of a link and not of what it points to.
func setTime(p string, at time.Time) error {
	ts := []unix.Timeval{unix.NsecToTimeval(at.UnixNano()), unix.NsecToTimeval(at.UnixNano())}
	return unix.Lutimes(p, ts)
}
