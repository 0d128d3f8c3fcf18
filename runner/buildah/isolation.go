//go:build linux

package buildah

// How a RUN is isolated: by an OCI runtime that works here, else a chroot. The
// first runtime that is installed is taken at its word, for a trial costs as much
// as a RUN. Only when a RUN fails under one that was not tried yet is that one tried:
// if it does not work here the RUN is done again under the next.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.podman.io/storage/pkg/unshare"

	"github.com/zbuild/zbuild/internal/scratch"
)

// Kinds of isolation, as buildah names them.
const (
	isolationOCI      = "oci"
	isolationRootless = "rootless"
	isolationChroot   = "chroot"
)

// isolation is how a RUN is run.
type isolation struct {
	kind    string
	runtime string // path of the OCI runtime; empty for chroot
	version string // what it says of itself
	why     string // why this one and none that comes before it
	tried   bool   // it has been seen to work
	broken  bool   // a runtime is installed and does not work
}

// isolations is the engine's choice of an isolation.
type isolations struct {
	opt  Options
	note func(isolation) error // called whenever the choice changes

	mu     sync.Mutex
	chosen isolation // kind is empty as long as nothing is chosen
}

// current gives the isolation to use, which may not have been tried.
func (c *isolations) current(ctx context.Context) (isolation, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.chosen.kind != "" {
		return c.chosen, nil
	}
	if iso, ok := guessIsolation(c.opt); ok {
		return iso, c.choose(iso)
	}
	return c.try(ctx)
}

// best gives an isolation that has been tried.
func (c *isolations) best(ctx context.Context) (isolation, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.chosen.tried {
		return c.chosen, nil
	}
	return c.try(ctx)
}

func (c *isolations) try(ctx context.Context) (isolation, error) {
	iso, err := chooseIsolation(ctx, c.opt)
	if err != nil {
		return iso, err
	}
	return iso, c.choose(iso)
}

func (c *isolations) choose(iso isolation) error {
	if err := c.note(iso); err != nil {
		return err
	}
	c.chosen = iso
	return nil
}

// guessIsolation gives what chooseIsolation will come to if the best runtime that
// is installed works.
func guessIsolation(opt Options) (isolation, bool) {
	switch opt.Isolation {
	case "", isolationOCI, isolationRootless:
	default:
		return isolation{}, false
	}
	names := runtimeNames()
	if opt.Runtime != "" {
		names = []string{opt.Runtime}
	}
	for _, name := range names {
		if path, err := findRuntime(name); err == nil {
			return isolation{kind: runtimeKind(), runtime: path}, true
		}
	}
	return isolation{}, false
}

func runtimeKind() string {
	if unshare.IsRootless() {
		return isolationRootless
	}
	return isolationOCI
}

// runtimeNames are the runtimes that are looked for, the best first.
func runtimeNames() []string { return []string{"crun", "runc"} }

// chooseIsolation finds an isolation that works, or the one that was asked for.
func chooseIsolation(ctx context.Context, opt Options) (isolation, error) {
	kind := opt.Isolation
	switch kind {
	case "", isolationOCI, isolationRootless, isolationChroot:
	default:
		return isolation{}, &UnusableError{
			What: fmt.Sprintf("unknown isolation %q", kind), Fix: "use oci, rootless or chroot",
		}
	}
	if kind == isolationChroot {
		return isolation{kind: kind, why: "asked for", tried: true}, nil
	}
	names := runtimeNames()
	if opt.Runtime != "" {
		names = []string{opt.Runtime}
	}
	var refused []string
	broken := false
	for _, name := range names {
		path, err := findRuntime(name)
		if err != nil {
			refused = append(refused, name+" is not installed")
			continue
		}
		version, err := tryRuntime(ctx, path)
		if untried := (*untriedError)(nil); errors.As(err, &untried) {
			return isolation{}, &UnusableError{What: "no OCI runtime can be tried out", Fix: writable(err, os.TempDir()), Err: err}
		}
		if err != nil {
			broken = true
			refused = append(refused, fmt.Sprintf("%s does not work here (%v)", path, err))
			continue
		}
		why := strings.Join(refused, "; ")
		return isolation{kind: runtimeKind(), runtime: path, version: version, why: why, tried: true}, nil
	}
	why := strings.Join(refused, "; ")
	if opt.Runtime != "" || kind != "" {
		return isolation{}, &UnusableError{What: "no usable OCI runtime: " + why, Fix: "install runc, or use --isolation chroot"}
	}
	return isolation{kind: isolationChroot, why: why, tried: true, broken: broken}, nil
}

// findRuntime looks in PATH, and in the directories of administrators, which the
// PATH of an ordinary user lacks on Debian.
func findRuntime(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return filepath.Abs(path)
	}
	if strings.Contains(name, "/") {
		return "", fmt.Errorf("%s does not exist", name)
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}

// tryRuntime runs a container that does nothing: the only proof that a runtime
// gets along with this kernel, its cgroups and this process's rights. The
// container's program cannot exist in an empty tree; a runtime that works gets
// as far as finding that out.
func tryRuntime(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	version, err := runtimeCommand(ctx, path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("--version: %w", err)
	}
	first, _, _ := strings.Cut(string(version), "\n")

	dir, remove, err := scratch.New("probe")
	if err != nil {
		return "", &untriedError{err}
	}
	defer remove() //nolint:errcheck // the next start tries again
	root := filepath.Join(dir, "rootfs")
	if err := os.Mkdir(root, 0o755); err != nil {
		return "", &untriedError{err}
	}
	spec := baseSpec(unshare.IsRootless(), networkHost)
	spec.Root.Path = root
	spec.Process.Args = []string{"/zbuild-probe"}
	spec.Process.Cwd = "/"
	raw, err := json.Marshal(spec)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), raw, 0o600); err != nil {
		return "", &untriedError{err}
	}
	var out bytes.Buffer
	logFile := filepath.Join(dir, "log")
	cmd := runtimeCommand(ctx, path, "--root", filepath.Join(dir, "state"), "--log", logFile, "--log-format", "json",
		"run", "--bundle", dir, "zbuild-probe-"+newID()[:12])
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Dir = dir
	err = cmd.Run()
	text := strings.TrimSpace(out.String() + "\n" + runtimeError(logFile))
	if strings.Contains(text, "no such file or directory") && strings.Contains(text, "zbuild-probe") &&
		(strings.Contains(text, "exec") || strings.Contains(text, "executable")) {
		return first, nil
	}
	if err == nil {
		return first, nil
	}
	if i := strings.LastIndex(text, "\n"); i >= 0 {
		text = text[i+1:]
	}
	return "", fmt.Errorf("%s", text)
}

// untriedError says that a runtime could not be tried, which says nothing about it.
type untriedError struct{ err error }

// Error is that of what went wrong.
func (e *untriedError) Error() string { return e.err.Error() }

// Unwrap is for errors.Is.
func (e *untriedError) Unwrap() error { return e.err }
