//go:build linux

package buildah

// Running a container: one call of the OCI runtime, or buildah's chroot where
// there is no runtime. The runtime is a process group of its own, so that a
// Ctrl-C at the terminal reaches this process alone, which then ends what runs in
// good order.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/archutil"
	"github.com/moby/sys/mountinfo"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"go.podman.io/buildah/chroot"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/runner"
)

// contain runs the container to its end. The error is an *runner.ExitError if
// the process did not end with 0.
func (e *Engine) contain(ctx context.Context, x *execJob) error {
	ctx, end := whileThere(ctx, x.bundle)
	defer end()
	if x.iso.kind == isolationChroot {
		return e.containChroot(ctx, x)
	}
	raw, err := json.Marshal(x.spec)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(x.bundle, "config.json"), raw, 0o600); err != nil {
		return err
	}
	id := "zbuild-" + newID()[:16]
	logFile := filepath.Join(x.bundle, "log.json")
	state := e.proc.path(runtimeName)
	args := []string{"--root", state, "--log", logFile, "--log-format", "json", "run", "--bundle", x.bundle}
	if filepath.Base(x.iso.runtime) == "runc" || x.iso.kind == isolationRootless {
		args = append(args, "--no-new-keyring")
	}
	cmd := exec.Command(x.iso.runtime, append(args, id)...)
	cmd.Dir = x.bundle
	cmd.Stdout, cmd.Stderr = x.job.Stdout, x.job.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	cmd.WaitDelay = 5 * time.Second

	// The death signal comes when the thread that started the runtime ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", x.iso.runtime, err)
	}
	killed, ended := make(chan struct{}), make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(killed)
		e.kill(x, state, id, cmd.Process, ended)
	})
	err = cmd.Wait()
	close(ended)
	if !stop() {
		<-killed
		e.delete(x.iso.runtime, state, id)
		return context.Cause(ctx)
	}
	if err == nil {
		return nil
	}
	if why := runtimeError(logFile); why != "" {
		err = startError(why, x.spec.Process.Args)
	} else {
		err = exitError(err)
	}
	err = orScarce(err, e.proc.dir) // before something is removed from there
	// The container is still there if the runtime failed, or was killed itself: the
	// system does so when memory is short.
	e.delete(x.iso.runtime, state, id)
	return err
}

// runtimeError is the last error that the runtime itself logged: it failed, and
// not the process in the container.
func runtimeError(logFile string) string {
	f, err := os.Open(logFile)
	if err != nil {
		return ""
	}
	defer f.Close()
	var last string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(lines.Bytes(), &entry) == nil && entry.Level == "error" {
			last = entry.Msg
		}
	}
	return last
}

// startError turns a runtime's complaint about a program that is not there into
// the status that a shell gives for it.
func startError(why string, args []string) error {
	if strings.Contains(why, "exec") && len(args) > 0 {
		if strings.Contains(why, "no such file or directory") || strings.Contains(why, "executable file not found") {
			return fmt.Errorf("%q is not in the image: %w", args[0], &runner.ExitError{Code: 127})
		}
		if strings.Contains(why, "permission denied") {
			return fmt.Errorf("%q cannot be executed: %w", args[0], &runner.ExitError{Code: 126})
		}
		if strings.Contains(why, "exec format error") {
			return fmt.Errorf("%q is a program for another kind of machine: %w", args[0], &runner.ExitError{Code: 126})
		}
	}
	return fmt.Errorf("the container cannot be started: %s", why)
}

func exitError(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return &runner.ExitError{Code: 128 + int(status.Signal()), Signal: unix.SignalName(status.Signal())}
	}
	code := exit.ExitCode()
	if code > 128 && unix.SignalName(syscall.Signal(code-128)) != "" {
		return &runner.ExitError{Code: code, Signal: unix.SignalName(syscall.Signal(code - 128))}
	}
	return &runner.ExitError{Code: code}
}

// containChroot runs the process with buildah's chroot isolation, which shares
// the machine's processes and network, and knows no way to stop what it started.
func (e *Engine) containChroot(ctx context.Context, x *execJob) error {
	// The filter needs libseccomp in this process, which is not linked in.
	x.spec.Linux.Seccomp = nil
	x.spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.UTSNamespace}}
	var err error
	if x.spec.Mounts, err = inside(x.spec.Root.Path, x.spec.Mounts); err != nil {
		return err
	}
	ended, stopped := make(chan struct{}), make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		killMounted(x.bundle, ended)
	})
	in := io.NopCloser(strings.NewReader(""))
	// The death signal comes when the thread that started the process ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = chroot.RunUsingChroot(x.spec, x.bundle, "/", in, x.job.Stdout, x.job.Stderr, false)
	close(ended)
	if !stop() {
		<-stopped
		return context.Cause(ctx)
	}
	// What it has left behind would go on writing to a layer that is done with.
	killMounted(x.bundle, ended)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exitError(exit)
	}
	return err
}

// killMounted kills the processes that have something of a directory of ours mounted from
// there, in a mount namespace of their own: those of a RUN that it is the bundle of. Some
// may have lost their parents, so that only this tells whose they are. What is mounted in
// the directory tells nothing: services of the machine may see that, too. It returns when
// ended is closed, for until then there may be more that have not come to mounting
// anything, and none is left; or if one does not die, as gone says.
func killMounted(dir string, ended <-chan struct{}) (gone bool) {
	const patience = 10 * time.Second // with one that waits for a device, most likely
	var since time.Time
	own, _ := os.Readlink("/proc/self/ns/mnt")
	// A mount's source is told from the root of its own file system, so the path
	// is known by its end only.
	needle := "/zbuild/" + dir[strings.LastIndex(dir, "/zbuild/")+len("/zbuild/"):] + "/"
	for {
		last := false
		select {
		case <-ended:
			last = true
		default:
		}
		procs, _ := filepath.Glob("/proc/[0-9]*")
		found := false
		for _, p := range procs {
			if ns, err := os.Readlink(p + "/ns/mnt"); err != nil || ns == own || !mountsFrom(p, needle) {
				continue
			}
			if pid, err := strconv.Atoi(filepath.Base(p)); err == nil && syscall.Kill(pid, syscall.SIGKILL) == nil {
				found = true // as long as anybody has not reaped it
			}
		}
		switch {
		case last && !found:
			return true
		case last && since.IsZero():
			since = time.Now()
		case last && time.Since(since) > patience:
			return false
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// mountsFrom reports whether a process has something mounted whose source has a part in
// its path. proc is its directory below /proc.
func mountsFrom(proc, part string) bool {
	raw, err := os.ReadFile(proc + "/mountinfo")
	if err != nil || !bytes.Contains(raw, []byte(part)) {
		return false
	}
	found, err := mountinfo.GetMountsFromReader(bytes.NewReader(raw), func(m *mountinfo.Info) (skip, stop bool) {
		return !strings.Contains(m.Root, part), false
	})
	return err == nil && len(found) > 0
}

// canRun says whether programs for a platform can be run on this machine.
func (e *Engine) canRun(p *pb.Platform) error {
	if p == nil {
		return nil
	}
	want := platforms.Normalize(p.Spec())
	if platforms.Only(platforms.DefaultSpec()).Match(want) || emulated(want.Architecture) {
		return nil
	}
	return &runner.PlatformError{Platform: platforms.Format(want), Host: platforms.Format(platforms.DefaultSpec())}
}

// emulated reports whether programs of an architecture run here, by running one:
// an interpreter that is registered need not be there, nor visible in a container.
func emulated(arch string) bool {
	return slices.ContainsFunc(archutil.SupportedPlatforms(false), func(p ocispecs.Platform) bool { return p.Architecture == arch })
}
