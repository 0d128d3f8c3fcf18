package torture

import (
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestCacheMounts has two processes use one cache mount at the same time, as its
// sharing says.
func TestCacheMounts(t *testing.T) {
	p := newProject(t, 1, 5)
	p.write("zbuild.hcl", `
variable "who" { default = "" }
target "default" { args = { WHO = who } }
`, 0o644)
	dockerfile := func(sharing, script string) {
		p.write("Dockerfile", `FROM scratch
COPY rootfs /
ARG WHO
RUN --mount=type=cache,target=/c,id=`+sharing+`,sharing=`+sharing+` ["/bin/busybox", "sh", "-c", "`+script+`"]
`, 0o644)
	}
	s := newPlace(t)
	begin := func(who string) (*exec.Cmd, *syncBuffer) {
		cmd := s.command(p.dir, "bake", "--progress", "plain", "--var", "who="+who)
		out := &syncBuffer{}
		cmd.Stdout, cmd.Stderr, cmd.WaitDelay = out, out, 100*time.Millisecond
		must(t, cmd.Start())
		return cmd, out
	}
	both := func() {
		t.Helper()
		a, outA := begin("a")
		b, outB := begin("b")
		for cmd, out := range map[*exec.Cmd]*syncBuffer{a: outA, b: outB} {
			if err := ended(cmd); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		}
		s.clean()
	}
	// Never at the same time.
	dockerfile("locked", `busybox mkdir /c/busy && busybox sleep 1 && busybox rmdir /c/busy`)
	both()
	// Only together do they come to an end.
	dockerfile("shared", `busybox touch /c/$WHO; for i in $(busybox seq 600); do [ -e /c/a ] && [ -e /c/b ] && exit 0; busybox sleep 0.1; done; exit 1`)
	both()
	// Each has one of its own for as long as the other has it.
	dockerfile("private", `busybox mkdir /c/busy && echo $WHO begins && [ $WHO = b ] || busybox sleep 600`)
	a, outA := begin("a")
	waitFor(t, outA, "a begins")
	b, outB := begin("b")
	if err := ended(b); err != nil {
		t.Errorf("%v\n%s", err, outB)
	}
	must(t, a.Process.Signal(syscall.SIGINT))
	_ = a.Wait()
	if used, err := filepath.Glob(filepath.Join(s.root, "zbuild/cache-mounts/*/data/busy")); err != nil || len(used) != 2 {
		t.Errorf("private caches that were used: %v, %v", used, err)
	}
	s.zbuild(p.dir, "cache", "du")
	s.clean()
}

// TestCacheOfKilled kills a process that has a cache mount for itself while another waits
// for that. The container of the one that was killed is not killed with it, and must not
// write to the cache any more when the other one has it.
func TestCacheOfKilled(t *testing.T) {
	p := newProject(t, 1, 5)
	p.write("zbuild.hcl", `
variable "who" { default = "" }
target "default" { args = { WHO = who } }
`, 0o644)
	p.write("Dockerfile", `FROM scratch
COPY rootfs /
ARG WHO
RUN --mount=type=cache,target=/c,sharing=locked ["/bin/busybox", "sh", "-ec", "\
  if [ $WHO = a ]; then echo a >> /c/log; echo begun | busybox tr a-z A-Z; while :; do echo a >> /c/log; busybox sleep 0.01; done; fi; \
  busybox cp /c/log /c/then; busybox sleep 0.5; busybox cmp /c/log /c/then"]
`, 0o644)
	s := newPlace(t)
	begin := func(who string) (*exec.Cmd, *syncBuffer) {
		cmd := s.command(p.dir, "bake", "--progress", "plain", "--var", "who="+who)
		out := &syncBuffer{}
		cmd.Stdout, cmd.Stderr, cmd.WaitDelay = out, out, 100*time.Millisecond
		must(t, cmd.Start())
		return cmd, out
	}
	a, outA := begin("a")
	waitFor(t, outA, "BEGUN") // which the instruction does not say
	b, outB := begin("b")
	waitFor(t, outB, "RUN --mount") // its start has found nothing to clear away
	must(t, a.Process.Kill())
	_ = a.Wait()
	if err := b.Wait(); err != nil {
		t.Errorf("%v\n%s", err, outB)
	}
	s.zbuild(p.dir, "cache", "du")
	s.clean()
}

// TestNoCacheTogether has processes with --no-cache, each of which does everything
// itself, and none of which harms another.
func TestNoCacheTogether(t *testing.T) {
	p := newProject(t, 2, 10)
	s := newPlace(t)
	s.zbuild(p.dir, "bake", "--progress", "plain")
	want := s.fingerprints()
	const n = 3
	var cmds []*exec.Cmd
	var outs []*syncBuffer
	for range n {
		cmd := s.command(p.dir, "bake", "--progress", "plain", "--no-cache")
		out := &syncBuffer{}
		cmd.Stdout, cmd.Stderr = out, out
		must(t, cmd.Start())
		cmds, outs = append(cmds, cmd), append(outs, out)
	}
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v\n%s", err, outs[i])
		}
		if !strings.Contains(outs[i].String(), "; 0 of ") {
			t.Errorf("not everything was done:\n%s", outs[i])
		}
	}
	s.same(want)
	s.clean()
}
