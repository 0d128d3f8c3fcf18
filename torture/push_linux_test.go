package torture

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// pushed says what /app/end of an image in a registry says. All of the image has to
// be there and to be what its digests say.
func pushed(t *testing.T, ref string) string {
	t.Helper()
	tag, err := name.NewTag(ref, name.Insecure)
	must(t, err)
	img, err := remote.Image(tag)
	must(t, err)
	if err := validate.Image(img); err != nil {
		t.Fatalf("%s: %v", ref, err)
	}
	all := mutate.Extract(img)
	defer all.Close()
	for r := tar.NewReader(all); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			t.Fatalf("%s has no /app/end", ref)
		}
		must(t, err)
		if strings.TrimPrefix(h.Name, "/") == "app/end" {
			raw, err := io.ReadAll(r)
			must(t, err)
			return string(raw)
		}
	}
}

// TestKillPush kills bakes that push, at random moments after a random line of what
// they print, now and then with everything that they have started. In the registry
// names stand for the old image or the new one, and either is whole.
func TestKillPush(t *testing.T) {
	rnd := random(t)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	addr := strings.TrimPrefix(server.URL, "http://")
	p := newProject(t, 3, 10)
	raw, err := os.ReadFile(filepath.Join(p.dir, "zbuild.hcl"))
	must(t, err)
	p.write("zbuild.hcl", strings.ReplaceAll(string(raw), "localhost/", addr+"/"), 0o644)
	s := newPlace(t)
	says := func(service string, version int) string {
		var b strings.Builder
		fmt.Fprintf(&b, "1 /base.txt\n")
		for f := range 3 {
			fmt.Fprintf(&b, "%s %d %d\n", service, f, version)
		}
		return b.String() + "base 0\n"
	}
	bake := []string{"bake", "--progress", "plain", "--push"}
	lines := strings.Count(s.zbuild(p.dir, bake...), "\n")
	killed, version := 0, 0
	for i := range times(3, 150) {
		old := version
		version++
		for _, service := range p.services {
			p.service(service, version)
		}
		if rnd.IntN(4) == 0 {
			s.zbuild(p.dir, "cache", "prune", "--all")
		}
		cmd := s.command(p.dir, bake...)
		out := &syncBuffer{}
		cmd.Stdout, cmd.Stderr, cmd.WaitDelay = out, out, 100*time.Millisecond
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		must(t, cmd.Start())
		done := make(chan error, 1)
		go func() { done <- ended(cmd) }()
		after, group := rnd.IntN(lines), rnd.IntN(3) == 0
		pause := time.Duration(rnd.ExpFloat64() * 10 * float64(time.Millisecond))
		var end error
		for over := false; !over; {
			select {
			case end = <-done:
				over = true
				if end != nil {
					t.Fatalf("bake %d failed by itself: %v\n%s", i, end, out)
				}
			case <-time.After(time.Millisecond):
				if over = strings.Count(out.String(), "\n") > after; over {
					time.Sleep(pause)
					if group {
						_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
					}
					_ = cmd.Process.Kill()
					if end = <-done; end != nil {
						killed++
					}
				}
			}
		}
		for _, service := range p.services {
			is := pushed(t, addr+"/"+service)
			if is != says(service, version) && (is != says(service, old) || end == nil) {
				t.Errorf("bake %d, killed after line %d and %v (%v): %s is %q, want version %d or %d\n%s", i, after, pause, end, service, is, old, version, out)
			}
		}
		s.zbuild(p.dir, bake...)
		for _, service := range p.services {
			if is := pushed(t, addr+"/"+service); is != says(service, version) {
				t.Errorf("after bake %d: %s is %q, want version %d", i, service, is, version)
			}
		}
		s.clean()
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d pushes were killed", killed)
}
