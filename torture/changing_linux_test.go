package torture

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestChanging edits files for as long as they are being copied. What a step is
// remembered by is what it has really copied: when the edits are over, a bake gives
// what a clean store gives, whatever the files were meanwhile.
func TestChanging(t *testing.T) {
	rnd := random(t)
	p := newProject(t, 1, 1)
	const files = 1500
	name := func(i int) string { return fmt.Sprintf("many/d%02d/f%d", i/100, i) }
	for i := range files {
		p.write(name(i), "a\n", 0o644)
	}
	p.write("Dockerfile", `FROM scratch
COPY rootfs /
COPY many /many
RUN --mount=type=bind,source=many,target=/m ["/bin/busybox", "sh", "-c", "busybox find /m -type f -exec busybox cat {} + | busybox sort | busybox uniq -c > /count"]
`, 0o644)
	want := map[string]map[string]string{}
	all := func(text string) {
		for i := range files {
			p.write(name(i), text, 0o644)
		}
	}
	for _, text := range []string{"b\n", "a\n"} {
		all(text)
		clean := newPlace(t)
		clean.zbuild(p.dir, "bake", "--progress", "plain")
		want[text] = clean.fingerprints()
	}
	s := newPlace(t)
	again := 0
	rounds := times(3, 150)
	// The edits of a few rounds may all have missed the copy.
	for round := 0; round < rounds || again == 0 && round < 10*rounds; round++ {
		s.zbuild(p.dir, "cache", "prune", "--all")
		ctx, stop := context.WithCancel(t.Context())
		pause := time.Duration(rnd.ExpFloat64() * 20 * float64(time.Millisecond))
		order := rnd.Perm(files)
		cmd := s.command(p.dir, "bake", "--progress", "plain")
		out := &syncBuffer{}
		cmd.Stdout, cmd.Stderr = out, out
		must(t, cmd.Start())
		var wg sync.WaitGroup
		wg.Go(func() {
			// Most keys are those of untouched files, to which we come back.
			step := []string{"COPY many", "RUN --mount", ""}[rnd.IntN(3)]
			if round >= rounds {
				step = "COPY many"
			}
			if step != "" {
				waitFor(t, out, step)
			}
			// Some change for good, and some there and back again.
			for i := 0; ctx.Err() == nil; i++ {
				f := filepath.Join(p.dir, name(order[i%files]))
				_ = os.WriteFile(f, []byte("b\n"), 0o644)
				if i%3 > 0 {
					_ = os.WriteFile(f, []byte("a\n"), 0o644)
				}
				time.Sleep(pause)
			}
		})
		err := cmd.Wait()
		stop()
		wg.Wait()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		again += strings.Count(out.String(), "changed while it was copied")
		for _, text := range []string{"a\n", "b\n"} {
			all(text)
			s.zbuild(p.dir, "bake", "--progress", "plain")
			s.same(want[text])
		}
		s.clean()
		if t.Failed() {
			t.Fatalf("round %d, an edit every %v\n%s", round, pause, out)
		}
	}
	if again == 0 {
		t.Error("no copy was ever disturbed")
	}
	t.Logf("%d copies were disturbed", again)
}
