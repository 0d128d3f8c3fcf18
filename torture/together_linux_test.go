package torture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// seen lists what RUNs have written into the project's cache mount: a line for
// each time that one ran.
func (p *place) seen() map[string]int {
	p.t.Helper()
	files, err := filepath.Glob(filepath.Join(p.root, "zbuild", "cache-mounts", "*", "data", "seen"))
	must(p.t, err)
	all := make(map[string]int)
	for _, f := range files {
		raw, err := os.ReadFile(f)
		must(p.t, err)
		for line := range strings.Lines(string(raw)) {
			all[strings.TrimSpace(line)]++
		}
	}
	return all
}

// finish waits for processes and fails the test if one of them failed.
func finish(t *testing.T, cmds []*exec.Cmd, outs []*bytes.Buffer) {
	t.Helper()
	for i, cmd := range cmds {
		if err := ended(cmd); err != nil {
			t.Errorf("process %d: %v\n%s", i, err, tail(outs[i].Bytes()))
		}
	}
}

// ended waits for a process. It has not failed if, on a busy machine, what it printed
// last was not read before it was waited for no longer.
func ended(cmd *exec.Cmd) error {
	err := cmd.Wait()
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	return err
}

// TestTogether lets several processes bake the same project in the same store at
// once: every step is done once, by one of them.
func TestTogether(t *testing.T) {
	for _, n := range []int{2, 8} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			p := newProject(t, 4, 20)
			s := newPlace(t)
			for round := range times(1, 30) {
				p.base(round)
				var cmds []*exec.Cmd
				var outs []*bytes.Buffer
				for range n {
					cmd, out := s.start(p.dir, "bake", "--progress", "plain")
					cmds, outs = append(cmds, cmd), append(outs, out)
				}
				finish(t, cmds, outs)
				for _, svc := range p.services {
					if got := s.seen()[svc]; got != round+1 {
						t.Errorf("after %d rounds the RUN of %s ran %d times", round+1, svc, got)
					}
				}
				s.clean()
				if t.Failed() {
					t.FailNow()
				}
			}
			alone := newPlace(t)
			alone.zbuild(p.dir, "bake", "--progress", "plain")
			s.same(alone.fingerprints())
		})
	}
}

// same fails the test if the store's images are not those that are wanted.
func (p *place) same(want map[string]string) {
	p.t.Helper()
	got := p.fingerprints()
	for name, w := range want {
		if got[name] != w {
			p.t.Errorf("%s is %s, want %s", name, got[name], w)
		}
	}
}

// waitFor waits until a process has printed something.
func waitFor(t *testing.T, out *syncBuffer, text string) {
	t.Helper()
	for end := time.Now().Add(3 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if strings.Contains(out.String(), text) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%q was not printed:\n%s", text, out.String())
		}
	}
}

// syncBuffer is a buffer that may be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestTakeover kills the process that has the lease of a step: the one that waits
// does the step. While it waits it does other things, though it has one job only.
func TestTakeover(t *testing.T) {
	p := newProject(t, 1, 5)
	p.write("zbuild.hcl", `
target "slow" {
  dockerfile = "slow.Dockerfile"
  secret     = ["id=pause,env=PAUSE"] # which makes no difference to what the step is
}
target "quick" { dockerfile = "quick.Dockerfile" }
group "default" { targets = ["slow", "quick"] }
`, 0o644)
	p.write("slow.Dockerfile", `FROM scratch
COPY rootfs /
RUN --mount=type=secret,id=pause ["/bin/busybox", "sh", "-c", "echo begun | busybox tr a-z A-Z; busybox sleep $(busybox cat /run/secrets/pause)"]
RUN ["/bin/busybox", "echo", "the slow one has ended"]
`, 0o644)
	p.write("quick.Dockerfile", "FROM scratch\nCOPY rootfs /\nRUN [\"/bin/busybox\", \"echo\", \"the quick one\"]\n", 0o644)
	s := newPlace(t)
	begin := func(pause string, args ...string) (*exec.Cmd, *syncBuffer) {
		cmd := s.command(p.dir, append([]string{"bake", "--progress", "plain"}, args...)...)
		cmd.Env = append(slices.Clone(cmd.Env), "PAUSE="+pause)
		out := &syncBuffer{}
		cmd.Stdout, cmd.Stderr, cmd.WaitDelay = out, out, 10*time.Second
		must(t, cmd.Start())
		return cmd, out
	}
	first, firstOut := begin("7200", "slow")
	waitFor(t, firstOut, "BEGUN")
	second, secondOut := begin("0", "--jobs", "1")
	waitFor(t, secondOut, "waiting for its result")
	waitFor(t, secondOut, "the quick one")
	must(t, first.Process.Signal(syscall.SIGKILL))
	_ = first.Wait()
	if err := ended(second); err != nil {
		t.Fatalf("%v\n%s", err, secondOut)
	}
	if !strings.Contains(secondOut.String(), "the slow one has ended") {
		t.Errorf("the step was not taken over:\n%s", secondOut)
	}
	s.zbuild(p.dir, "cache", "du") // the next start
	s.clean()
}

// TestStress has many processes build many targets, in little memory.
func TestStress(t *testing.T) {
	targets, processes := 15, 3
	if *long {
		targets, processes = 200, 8
	}
	p := newProject(t, targets, 20)
	s := newPlace(t)
	var cmds []*exec.Cmd
	var outs []*bytes.Buffer
	for range processes {
		cmd, out := s.start(p.dir, "bake", "--progress", "plain")
		cmds, outs = append(cmds, cmd), append(outs, out)
	}
	finish(t, cmds, outs)
	for i, cmd := range cmds {
		usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		if !ok {
			t.Fatal("the system does not say how much memory was used")
		}
		// Of children, too: whichever took most.
		if mb := usage.Maxrss >> 10; mb > 1000 {
			t.Errorf("process %d took %d MB", i, mb)
		} else {
			t.Logf("process %d took %d MB at most", i, mb)
		}
	}
	for _, svc := range p.services {
		if got := s.seen()[svc]; got != 1 {
			t.Errorf("the RUN of %s ran %d times", svc, got)
		}
	}
	s.clean()
	if got := len(s.fingerprints()); got != targets {
		t.Errorf("%d images, want %d", got, targets)
	}
}

// TestRemoved removes images and prunes with other programs while bakes run. The
// bakes succeed all the same.
func TestRemoved(t *testing.T) {
	rnd := random(t)
	p := newProject(t, 3, 10)
	s := newPlace(t)
	clean := newPlace(t)
	clean.zbuild(p.dir, "bake", "--progress", "plain")
	want := clean.fingerprints()

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	disturb := [][]string{
		{"podman", "rmi", "--all", "--force"},
		{"podman", "system", "prune", "--all", "--force"},
		{"buildah", "rmi", "--all", "--force"},
		{"podman", "rmi", "--force", "localhost/svc00"},
		{binary, "cache", "prune", "--all"},
		{binary, "cache", "prune", "--keep-size", "1MB"},
	}
	order := make([]int, 1000)
	for i := range order {
		order[i] = rnd.IntN(len(disturb))
	}
	done := 0
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			// What it says does not matter: it may find nothing, or find it in use.
			// It is not stopped, either: Debian's podman would leave a layer half removed.
			_, _ = s.tool(context.WithoutCancel(ctx), disturb[order[i%len(order)]]...)
			done++
		}
	})
	for i := range times(3, 200) {
		p.base(i % 3)
		args := []string{"bake", "--progress", "plain"}
		if i%2 == 1 {
			args = append(args, "--no-cache")
		}
		if out, err := s.command(p.dir, args...).CombinedOutput(); err != nil {
			t.Errorf("bake %d: %v\n%s", i, err, tail(out))
			break
		}
	}
	stop()
	wg.Wait()
	t.Logf("%d disturbances", done)
	p.base(0)
	s.zbuild(p.dir, "bake", "--progress", "plain")
	s.same(want)
	s.clean()
}
