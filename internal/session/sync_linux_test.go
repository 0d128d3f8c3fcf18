package session_test

import (
	"context"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/zbuild/zbuild/internal/session"
)

// container is what sync rules copy files into.
type container struct {
	mu    sync.Mutex
	files map[string]string
}

func (c *container) sync(_ context.Context, req session.SyncRequest) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range req.Files {
		raw, err := os.ReadFile(f.From)
		if err != nil {
			return err
		}
		c.files[f.To] = string(raw)
	}
	return nil
}

func (c *container) file(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.files[name]
}

// synced waits for a number of copies.
func (w *watched) synced(n int) {
	w.Helper()
	w.until("a copy", func() bool {
		have := 0
		for _, notice := range w.notices {
			if _, ok := notice.(session.Synced); ok {
				have++
			}
		}
		return have >= n
	})
	w.quiet()
}

const syncing = `
target "web" {
  context           = "src"
  tags              = ["localhost/web"]
  dockerfile-inline = "FROM scratch\nCOPY . /\n"
  watch {
    sync {
      path      = "src/site"
      target    = "/srv"
      container = "c"
    }
  }
}
target "api" {
  context    = "beside"
  dockerfile = "../src/other"
}
group "default" { targets = ["web", "api"] }
`

func syncProject(t *testing.T) (*watched, *container) {
	t.Helper()
	w := newWatched(t, map[string]string{"zbuild.hcl": syncing, "src/site/index": "A", "src/other": "FROM scratch\n", "beside/file": "0"})
	c := &container{files: make(map[string]string)}
	w.opt.Sync = c.sync
	return w.start(), c
}

// What was copied into a container is not what is in its image: to have the image's
// content again is a change.
func TestSyncBack(t *testing.T) {
	w, c := syncProject(t)
	w.forget()
	w.save("src/site/index", "BB")
	w.synced(1)
	w.save("src/site/index", "A")
	w.synced(2)
	if got := c.file("/srv/index"); got != "A" {
		t.Errorf("the container has %q", got)
	}
}

// What a target still needs built is built, whatever is copied.
func TestSyncOwed(t *testing.T) {
	w, _ := syncProject(t)
	// Nothing gets a name if one target fails.
	const failing = "FROM scratch\nCOPY missing /\n"
	for _, change := range [][2]string{{"src/other", failing}, {"src/site/index", "BB"}, {"beside/missing", "1"}} {
		w.forget()
		w.save(change[0], change[1])
		// Anything else that happens would have built what is owed.
		w.until("a build because of "+change[0], func() bool {
			return w.still && slices.ContainsFunc(w.notices, func(n session.Notice) bool {
				f, ok := n.(session.Finished)
				return ok && slices.Equal(f.Started.Changed, change[:1])
			})
		})
	}
	w.has("web", "/other", failing)
	w.has("web", "/site/index", "BB")
}
