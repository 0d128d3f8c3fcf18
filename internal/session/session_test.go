package session_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/event"
	"github.com/zbuild/zbuild/internal/session"
)

var errNoStore = errors.New("there is no store")

// project writes files and gives a session on them whose engine cannot be
// opened.
func project(t *testing.T, files map[string]string) (s *session.Session, opened *int, sink *recorder) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	opened, sink = new(int), new(recorder)
	s = session.New(session.Options{
		Load: config.Request{Dir: dir, LocalPlatform: "linux/amd64"},
		OpenEngine: func(ctx context.Context) (session.Engine, error) {
			*opened++
			if err := context.Cause(ctx); err != nil {
				return nil, err
			}
			return nil, errNoStore
		},
		Sink: sink,
	})
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, opened, sink
}

type recorder struct {
	mu     sync.Mutex
	events []event.Event
}

func (r *recorder) Emit(e event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

const build = `
target "default" { context = "." }
`

func TestPhases(t *testing.T) {
	s, opened, _ := project(t, map[string]string{
		"zbuild.hcl": build,
		"Dockerfile": "FROM scratch\nCOPY zbuild.hcl /\n",
	})
	g := s.Generate(t.Context(), session.Load)
	if !g.OK() || g.Number != 1 || g.Plan != nil || g.Project.Targets["default"] == nil {
		t.Errorf("load: %+v", g)
	}
	g = s.Generate(t.Context(), session.Plan)
	if !g.OK() || g.Number != 2 || g.Plan == nil || g.Result != nil || *opened > 0 {
		t.Errorf("plan: %+v, engine opened %d times", g, *opened)
	}
	if src := g.Sources(); len(src) != 2 {
		t.Errorf("%d sources, want the build file and the Dockerfile", len(src))
	}
	g = s.Generate(t.Context(), session.Run)
	var engine *session.EngineError
	if !errors.As(g.Err, &engine) || !errors.Is(g.Err, errNoStore) || g.OK() || g.Result != nil {
		t.Errorf("run: %v", g.Err)
	}
	if s.Generate(t.Context(), session.Run); *opened != 1 {
		t.Errorf("engine opened %d times", *opened)
	}
}

// A missing engine is one problem, however many images it would have resolved.
func TestImagesWithoutEngine(t *testing.T) {
	s, opened, sink := project(t, map[string]string{
		"zbuild.hcl": build,
		"Dockerfile": "FROM example.com/a AS a\nFROM example.com/b\nCOPY --from=a /x /\n",
	})
	g := s.Generate(t.Context(), session.Plan)
	var engine *session.EngineError
	if !errors.As(g.Err, &engine) || len(g.Diagnostics) > 0 || *opened != 1 {
		t.Errorf("%v, %v, opened %d times", g.Err, g.Diagnostics, *opened)
	}
	if len(sink.events) > 0 {
		t.Errorf("nothing was resolved, but there are events: %v", sink.events)
	}
}

// TestMistakes makes mistakes where there is no store: the mistakes are told, and
// not the store, which nothing has come to need.
func TestMistakes(t *testing.T) {
	s, _, _ := project(t, map[string]string{"zbuild.hcl": `target "default" { contxt = "." }`})
	g := s.Generate(t.Context(), session.Run)
	if g.OK() || g.Err != nil || !g.Diagnostics.HasErrors() || g.Plan != nil {
		t.Errorf("%+v", g)
	}
	for name, text := range g.Sources() {
		if strings.HasSuffix(name, "zbuild.hcl") && len(text) == 0 {
			t.Error("the source is empty")
		}
	}
	s, _, _ = project(t, map[string]string{"zbuild.hcl": build, "Dockerfile": "FROM scratch\nCOPPY a b\n"})
	if g = s.Generate(t.Context(), session.Run); g.OK() || g.Err != nil || !g.Diagnostics.HasErrors() {
		t.Errorf("%+v", g)
	}
	found := false
	for name := range g.Sources() {
		found = found || name == g.Diagnostics[0].Subject.Filename
	}
	if !found {
		t.Errorf("the source of %v is not among the sources", g.Diagnostics[0].Subject)
	}
}

func TestCanceled(t *testing.T) {
	s, _, _ := project(t, map[string]string{"zbuild.hcl": build, "Dockerfile": "FROM scratch\nCOPY zbuild.hcl /\n"})
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	for _, phase := range []session.Phase{session.Load, session.Plan, session.Run} {
		if g := s.Generate(ctx, phase); !errors.Is(g.Err, cause) || g.OK() {
			t.Errorf("phase %d: %v", phase, g.Err)
		}
	}
	// Being canceled says nothing about the engine.
	if g := s.Generate(t.Context(), session.Run); !errors.Is(g.Err, errNoStore) {
		t.Errorf("after that: %v", g.Err)
	}
}
