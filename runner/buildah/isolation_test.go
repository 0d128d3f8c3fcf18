//go:build linux

package buildah

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zbuild/zbuild/runner"
)

// A runtime that is installed and does not work gives way to one that does,
// whether it says why or not.
func TestBrokenRuntime(t *testing.T) {
	for name, script := range map[string]string{
		"silent":  "#!/bin/sh\nexit 1\n",
		"missing": "#!/no/such/interpreter\n",
		"version": "#!/bin/sh\n[ \"$1\" = --version ] && exec echo crun version 0\necho 'unknown version specified' >&2\nexit 1\n",
	} {
		t.Run(name, func(t *testing.T) {
			bin := t.TempDir()
			if err := os.WriteFile(filepath.Join(bin, "crun"), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			e := open(t, Options{})
			root := tinyRoot(t, e)
			var out bytes.Buffer
			_, err := e.Do(t.Context(), job(execOp(nil, "sh", "-c", "echo once; exit 3"), &out, runner.Input{Snapshot: root}))
			var exit *runner.ExitError
			if !errors.As(err, &exit) || exit.Code != 3 || out.String() != "once\n" {
				t.Errorf("%v, output %q", err, out.String())
			}
			if iso, err := e.isolations.current(t.Context()); err != nil || !iso.tried || filepath.Base(iso.runtime) == "crun" {
				t.Errorf("%+v, %v", iso, err)
			}
		})
	}
}

// TestNoRuntime: a RUN that is isolated by a chroot because there is no better way says
// so, once, and what to do about it; one for which that was asked says nothing.
func TestNoRuntime(t *testing.T) {
	for name, c := range map[string]struct {
		iso  isolation
		opt  Options
		want int
	}{
		"no runtime": {iso: isolation{kind: isolationChroot, why: "runc is not installed"}, want: 1},
		"asked for":  {iso: isolation{kind: isolationChroot}, opt: Options{Isolation: isolationChroot}},
		"a runtime":  {iso: isolation{kind: isolationOCI, runtime: "/usr/sbin/runc"}},
	} {
		var log bytes.Buffer
		c.opt.Logger = slog.New(slog.NewTextHandler(&log, nil))
		e := open(t, c.opt)
		if err := e.isolations.choose(c.iso); err != nil {
			t.Fatal(err)
		}
		got := strings.Count(log.String(), "isolated by a chroot only")
		if got != c.want || c.want > 0 && !strings.Contains(log.String(), "runc is not installed. What helps: ") {
			t.Errorf("%s: said %d times, want %d: %s", name, got, c.want, log.String())
		}
	}
}

// One that was asked for does not give way.
func TestBrokenRuntimeAskedFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runtime")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	e := open(t, Options{})
	root := tinyRoot(t, e)
	e.isolations = isolations{opt: Options{Runtime: path}, note: func(isolation) error { return nil }}
	_, err := e.Do(t.Context(), job(execOp(nil, "true"), &bytes.Buffer{}, runner.Input{Snapshot: root}))
	var unusable *UnusableError
	if !errors.As(err, &unusable) {
		t.Errorf("%v", err)
	}
}

// TestNothingOutlivesRun leaves a process behind that has lost its parent: it ends
// with the RUN, for what it would still write is not in the layer that is keyed.
func TestNothingOutlivesRun(t *testing.T) {
	for _, isolation := range []string{"", "chroot"} {
		t.Run("isolation="+isolation, func(t *testing.T) {
			e := open(t, Options{Isolation: isolation})
			base := tinyRoot(t, e)
			length := nap(5)
			do(t, e, execOp(nil, "sh", "-c", "(setsid sleep "+length+" </dev/null >/dev/null 2>&1 &)"), runner.Input{Snapshot: base})
			wantNobodyNaps(t, length)
		})
	}
}
