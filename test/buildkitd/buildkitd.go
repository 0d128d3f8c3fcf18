//go:build linux

// Package buildkitd runs a real buildkitd, of the version that zbuild's planner
// is built with, as the peer that zbuild is compared with.
//
// The daemon works as root with its OCI worker: overlayfs snapshots, runc, and the
// host's network, because there is no CNI configuration for another. Everything
// that it has lies in one directory. It gets a mount namespace of its own, so that
// no mount can outlive it, however it ends.
package buildkitd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/buildkit/client"
)

const (
	startTimeout = time.Minute
	// After an interrupt the daemon cancels its builds, which may be a thousand, and closes
	// its databases.
	stopTimeout    = 3 * time.Minute
	restartTimeout = 15 * time.Second

	// Of files in its root.
	configName = "buildkitd.toml"
	stateName  = "state"
)

// Options say how a daemon runs.
type Options struct {
	// Bin is the directory with the programs buildkitd and buildx, which
	// `make tools` fills.
	Bin string
	// Root is a directory for the daemon to work in. It is made if it does not
	// exist, and left to the caller when the daemon has stopped. Its path should be
	// short: a socket's may have 107 bytes.
	Root string
	// Mirror is the address (host:port, plain HTTP) of a registry that is asked
	// in place of docker.io. Empty for none.
	Mirror string
}

// Daemon is a buildkitd that runs.
type Daemon struct {
	opt    Options
	cmd    *exec.Cmd
	log    lockedBuffer
	exited chan struct{}
	err    error // how it ended; to be read after exited is closed
}

// Start starts a daemon and waits until it answers. The context is for the start
// only: a daemon that runs is ended by Stop.
func Start(ctx context.Context, opt Options) (*Daemon, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("buildkitd: needs root")
	}
	if err := os.MkdirAll(opt.Root, 0o711); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(opt.Root, configName), []byte(configuration(opt.Mirror)), 0o600); err != nil {
		return nil, err
	}
	d := &Daemon{opt: opt}
	if err := d.start(ctx); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *Daemon) start(ctx context.Context) error {
	d.exited = make(chan struct{})
	d.cmd = exec.Command(filepath.Join(d.opt.Bin, "buildkitd"),
		"--config", filepath.Join(d.opt.Root, configName),
		"--root", filepath.Join(d.opt.Root, stateName),
		"--addr", d.Address(),
		"--otel-socket-path", filepath.Join(d.opt.Root, "otel.sock"),
		"--allow-insecure-entitlement", "network.host",
		"--allow-insecure-entitlement", "security.insecure",
		"--allow-insecure-entitlement", "device",
	)
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	d.cmd.WaitDelay = time.Second
	d.cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNS,
		Setpgid:      true,
		Pdeathsig:    syscall.SIGKILL,
	}
	started := make(chan error, 1)
	go d.run(started)
	if err := <-started; err != nil {
		return fmt.Errorf("buildkitd: %w (`make -C test tools` builds it)", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := d.ready(ctx); err != nil {
		return errors.Join(fmt.Errorf("buildkitd does not answer: %w\n%s", err, d.Log()), d.Stop())
	}
	return nil
}

// run holds on to the daemon. The signal that ends it with its parent is sent when
// the parent's thread ends, not the process: so this keeps a thread to itself.
func (d *Daemon) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(d.exited)
	d.err = d.cmd.Start()
	started <- d.err
	if d.err == nil {
		d.err = d.cmd.Wait()
	}
}

func (d *Daemon) ready(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		if err := d.ask(ctx); err == nil {
			return nil
		}
		select {
		case <-d.exited:
			return fmt.Errorf("it has ended: %w", d.err)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (d *Daemon) ask(ctx context.Context) error {
	c, err := client.New(ctx, d.Address())
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	workers, err := c.ListWorkers(ctx)
	if err != nil {
		return err
	}
	if len(workers) == 0 {
		return errors.New("no worker")
	}
	return nil
}

// Address is where the daemon listens, as client.New, buildctl --addr and buildx
// take it.
func (d *Daemon) Address() string {
	return "unix://" + filepath.Join(d.opt.Root, "buildkitd.sock")
}

// Log is what the daemon has printed so far.
func (d *Daemon) Log() string { return d.log.String() }

// Pid is the daemon's process ID.
func (d *Daemon) Pid() int { return d.cmd.Process.Pid }

// Buildx returns a command that runs buildx with the daemon as its only builder.
// The command inherits this process's environment but for buildx's own variables.
func (d *Daemon) Buildx(ctx context.Context, args ...string) (*exec.Cmd, error) {
	config := filepath.Join(d.opt.Root, "buildx")
	env := append(withoutBuildx(os.Environ()), "BUILDX_CONFIG="+config, "BUILDX_BUILDER=peer",
		// Attestations make an index of every image.
		"BUILDX_NO_DEFAULT_ATTESTATIONS=1")
	program := filepath.Join(d.opt.Bin, "buildx")
	if _, err := os.Stat(filepath.Join(config, "instances", "peer")); errors.Is(err, os.ErrNotExist) {
		create := exec.CommandContext(ctx, program, "create", "--name", "peer", "--driver", "remote", d.Address())
		create.Env = env
		if out, err := create.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("buildx create: %w\n%s", err, out)
		}
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = env
	return cmd, nil
}

func withoutBuildx(env []string) []string {
	var out []string
	for _, e := range env {
		if !strings.HasPrefix(e, "BUILDX_") && !strings.HasPrefix(e, "BUILDKIT_") && !strings.HasPrefix(e, "DOCKER_") {
			out = append(out, e)
		}
	}
	return out
}

// Restart stops the daemon, has put take away the directory of all that it knows,
// and starts it anew at the same address. How the daemon ends does not matter: one whose
// build of a thousand targets was cancelled is busy with that for minutes.
func (d *Daemon) Restart(ctx context.Context, put func(dir string) error) error {
	d.end(restartTimeout)
	if err := put(filepath.Join(d.opt.Root, stateName)); err != nil {
		return err
	}
	return d.start(ctx)
}

// end asks the daemon to end, and returns when it, and whatever it has started, is gone.
// It reports whether it had to be killed.
func (d *Daemon) end(timeout time.Duration) (forced bool) {
	// An error means that it has ended by itself.
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.exited:
	case <-time.After(timeout):
		forced = true
	}
	// What it has started and not waited for is in its process group.
	_ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL)
	<-d.exited
	return forced
}

// Stop ends the daemon and returns when it, and whatever it has started, is gone. It is an
// error if it has to be killed, or has failed.
func (d *Daemon) Stop() error {
	if d.end(stopTimeout) {
		return fmt.Errorf("buildkitd did not end within %v of being asked to\n%s", stopTimeout, d.Log())
	}
	var exit *exec.ExitError
	if d.err != nil && (!errors.As(d.err, &exit) || exit.ExitCode() != 1) {
		return fmt.Errorf("buildkitd: %w\n%s", d.err, d.Log())
	}
	return nil
}

// configuration is a buildkitd.toml.
func configuration(mirror string) string {
	var b strings.Builder
	b.WriteString(`[worker.oci]
  enabled = true
  snapshotter = "overlayfs"
  networkMode = "host"
  binary = "runc"
  # Nothing that is compared or timed may vanish meanwhile.
  gc = false
[worker.containerd]
  enabled = false
`)
	if mirror != "" {
		fmt.Fprintf(&b, "[registry.\"docker.io\"]\n  mirrors = [%q]\n", mirror)
		fmt.Fprintf(&b, "[registry.%q]\n  http = true\n", mirror)
	}
	return b.String()
}

// lockedBuffer is a buffer that is written and read at the same time.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write appends to the buffer.
func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String is what has been written so far.
func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
