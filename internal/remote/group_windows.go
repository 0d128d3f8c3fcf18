package remote

import (
	"context"
	"os"
	"os/exec"
	"time"
)

// runGroup runs a command and ends it with the context.
func runGroup(ctx context.Context, cmd *exec.Cmd) error {
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !stop() {
		return context.Cause(ctx)
	}
	return err
}

// setTime sets the time of a file.
func setTime(p string, at time.Time) error { return os.Chtimes(p, at, at) }
