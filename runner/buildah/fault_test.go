//go:build linux

package buildah

// Registries as they are on a bad day: every fault ends in an error that says what
// it was, in bounded time, and leaves neither a name there nor a layer here.

import (
	"archive/tar"
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/registry"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/zbuild/zbuild/internal/pack"
	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

// faulty is a registry that a fault comes before.
type faulty struct {
	registry http.Handler
	fault    atomic.Pointer[func(w http.ResponseWriter, r *http.Request, next http.Handler)]
	uploads  atomic.Int32
	stop     chan struct{}
}

// ServeHTTP is for http.Handler.
func (f *faulty) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost && strings.Contains(r.URL.Path, "/blobs/uploads") && r.URL.Query().Get("mount") == "" {
		f.uploads.Add(1)
	}
	if fault := f.fault.Load(); fault != nil {
		(*fault)(w, r, f.registry)
		return
	}
	f.registry.ServeHTTP(w, r)
}

func (f *faulty) set(fault func(w http.ResponseWriter, r *http.Request, next http.Handler)) {
	if fault == nil {
		f.fault.Store(nil)
		return
	}
	f.fault.Store(&fault)
}

// newFaulty starts a registry and gives it with its address.
func newFaulty(t *testing.T) (*faulty, string) {
	t.Helper()
	f := &faulty{registry: registry.New(registry.Logger(log.New(io.Discard, "", 0))), stop: make(chan struct{})}
	server := httptest.NewServer(f)
	t.Cleanup(func() {
		close(f.stop)
		server.CloseClientConnections()
		server.Close()
	})
	return f, strings.TrimPrefix(server.URL, "http://")
}

// patient is an engine that tries again at once, and waits for an answer as long as the
// busiest machine may need for one.
func patient(t *testing.T) *Engine {
	e := open(t, Options{})
	e.patience = patience{answer: time.Minute, blob: time.Minute, delay: time.Millisecond}
	e.system.BlobInfoCacheDir = t.TempDir()
	return e
}

// loses has an engine lose its patience soon with who hangs, and with nobody else.
func loses(e *Engine, name string) {
	if strings.HasPrefix(name, "hangs") {
		e.patience.answer, e.patience.blob = 500*time.Millisecond, 500*time.Millisecond
	}
}

// testBundle makes a bundle of a small image.
func testBundle(t *testing.T, e *Engine) *pack.Bundle {
	t.Helper()
	base := tinyRoot(t, e)
	p := platforms.DefaultSpec()
	config, err := json.Marshal(ocispecs.Image{Platform: p, History: []ocispecs.History{{CreatedBy: "COPY"}}})
	if err != nil {
		t.Fatal(err)
	}
	img, err := e.Pack(t.Context(), runner.ImageSpec{
		Layers: []runner.Snapshot{base}, Config: config, Format: planner.FormatOCI, Created: []time.Time{time.Unix(1, 0)}, Platform: p,
	})
	if err != nil {
		t.Fatal(err)
	}
	c := pack.NewCompressor(t.TempDir(), t.TempDir())
	t.Cleanup(func() { _ = c.Close() })
	b, err := pack.Build(t.Context(), c, []*pack.Image{img}, pack.Options{How: pack.How{Level: -1}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func push(ctx context.Context, e *Engine, b *pack.Bundle, name string) error {
	if err := e.Upload(ctx, b, name, false); err != nil {
		return err
	}
	return e.Publish(ctx, b, name, false)
}

func hasTag(t *testing.T, f *faulty) bool {
	t.Helper()
	w := httptest.NewRecorder()
	f.registry.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v2/app/manifests/v1", http.NoBody))
	return w.Code == http.StatusOK
}

func hang(f *faulty) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		select {
		case <-r.Context().Done():
		case <-f.stop:
		}
	}
}

func TestPushFaults(t *testing.T) {
	e := patient(t)
	b := testBundle(t, e)
	faults := map[string]struct {
		fault func(f *faulty) func(http.ResponseWriter, *http.Request, http.Handler)
		want  string
	}{
		"hangs": {hang, "has not answered"},
		"hangs in a blob": {func(f *faulty) func(http.ResponseWriter, *http.Request, http.Handler) {
			return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.Method == http.MethodPatch {
					hang(f)(w, r, next)
					return
				}
				next.ServeHTTP(w, r)
			}
		}, "has not answered"},
		"is broken": {func(*faulty) func(http.ResponseWriter, *http.Request, http.Handler) {
			return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				http.Error(w, "no", http.StatusInternalServerError)
			}
		}, "500|nternal"},
		"wants other credentials": {func(*faulty) func(http.ResponseWriter, *http.Request, http.Handler) {
			return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"expired"}]}`, http.StatusUnauthorized)
			}
		}, "expired|uthentication required|nauthorized"},
		"refuses manifests": {func(*faulty) func(http.ResponseWriter, *http.Request, http.Handler) {
			return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") {
					http.Error(w, `{"errors":[{"code":"DENIED","message":"quota"}]}`, http.StatusForbidden)
					return
				}
				next.ServeHTTP(w, r)
			}
		}, "quota"},
		"closes the door": {func(*faulty) func(http.ResponseWriter, *http.Request, http.Handler) {
			return func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }
		}, "EOF|reset"},
	}
	for name, c := range faults {
		t.Run(name, func(t *testing.T) {
			f, addr := newFaulty(t)
			f.set(c.fault(f))
			usual := e.patience
			loses(e, name)
			start := time.Now()
			err := push(t.Context(), e, b, addr+"/app:v1")
			if err == nil || !matches(c.want, err.Error()) {
				t.Errorf("error %v, want %s", err, c.want)
			}
			if took := time.Since(start); took > 3*time.Minute {
				t.Errorf("took %s", took)
			}
			e.patience = usual
			if hasTag(t, f) {
				t.Error("the name is there")
			}
		})
	}
}

func matches(alternatives, s string) bool {
	for _, a := range strings.Split(alternatives, "|") {
		if strings.Contains(s, a) {
			return true
		}
	}
	return false
}

// TestPushPersists lets requests fail now and then; blobs that got there are not
// sent again, by this push or the next.
func TestPushPersists(t *testing.T) {
	e := patient(t)
	b := testBundle(t, e)
	f, addr := newFaulty(t)
	var n atomic.Int32
	f.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		switch i := n.Add(1); {
		case i%13 == 3:
			http.Error(w, "later", http.StatusServiceUnavailable)
		case i%17 == 5:
			panic(http.ErrAbortHandler)
		default:
			next.ServeHTTP(w, r)
		}
	})
	if err := push(t.Context(), e, b, addr+"/app:v1"); err != nil {
		t.Fatal(err)
	}
	if !hasTag(t, f) {
		t.Error("the name is missing")
	}
	f.set(nil)
	f.uploads.Store(0)
	if err := push(t.Context(), e, b, addr+"/app:v1"); err != nil {
		t.Fatal(err)
	}
	if n := f.uploads.Load(); n != 0 {
		t.Errorf("%d blobs were sent again", n)
	}
	// Another repository of the same registry gets them without a transfer.
	mounts := int32(0)
	f.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.URL.Query().Get("mount") != "" {
			atomic.AddInt32(&mounts, 1)
		}
		if r.Method == http.MethodHead && strings.HasPrefix(r.URL.Path, "/v2/other/blobs/") {
			http.NotFound(w, r) // this registry has one heap for all, of which real ones tell nothing
			return
		}
		next.ServeHTTP(w, r)
	})
	if err := push(t.Context(), e, b, addr+"/other:v1"); err != nil {
		t.Fatal(err)
	}
	if int(mounts) != len(b.Blobs)-1 { // the configuration is too small to care
		t.Errorf("%d blobs were mounted, there are %d layers; %d uploads", mounts, len(b.Blobs)-1, f.uploads.Load())
	}
}

func TestPullFaults(t *testing.T) {
	good := patient(t)
	b := testBundle(t, good)
	blob := func(then func(f *faulty, w http.ResponseWriter, r *http.Request, body []byte)) func(f *faulty) func(http.ResponseWriter, *http.Request, http.Handler) {
		return func(f *faulty) func(http.ResponseWriter, *http.Request, http.Handler) {
			return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/"+string(b.Blobs[1].Digest)) {
					next.ServeHTTP(w, r)
					return
				}
				rec := httptest.NewRecorder()
				next.ServeHTTP(rec, r)
				then(f, w, r, rec.Body.Bytes())
			}
		}
	}
	faults := map[string]struct {
		fault func(f *faulty) func(http.ResponseWriter, *http.Request, http.Handler)
		want  string
	}{
		"hangs": {hang, "has not answered"},
		"hangs in a blob": {blob(func(f *faulty, w http.ResponseWriter, r *http.Request, body []byte) {
			_, _ = w.Write(body[:len(body)/2])
			w.(http.Flusher).Flush()
			hang(f)(w, r, nil)
		}), "has not answered"},
		"sends rubbish": {blob(func(_ *faulty, w http.ResponseWriter, _ *http.Request, body []byte) {
			body[len(body)/2] ^= 0xff
			_, _ = w.Write(body)
		}), "igest|corrupt|checksum|invalid|header"},
		"sends half": {blob(func(_ *faulty, w http.ResponseWriter, _ *http.Request, body []byte) {
			_, _ = w.Write(body[:len(body)/2])
		}), "EOF|igest|size"},
		"sends rubbish for a manifest": {func(*faulty) func(http.ResponseWriter, *http.Request, http.Handler) {
			return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if strings.Contains(r.URL.Path, "/manifests/") {
					w.Header().Set("Content-Type", ocispecs.MediaTypeImageManifest)
					_, _ = io.WriteString(w, `{"schemaVersion":2,"layers":"many"`)
					return
				}
				next.ServeHTTP(w, r)
			}
		}, "manifest|JSON|json|igest"},
	}
	for name, c := range faults {
		t.Run(name, func(t *testing.T) {
			f, addr := newFaulty(t)
			if err := push(t.Context(), good, b, addr+"/app:v1"); err != nil {
				t.Fatal(err)
			}
			e := patient(t)
			f.set(c.fault(f))
			usual := e.patience
			loses(e, name)
			start := time.Now()
			img, err := e.Resolve(t.Context(), planner.ImageRequest{
				Ref: addr + "/app:v1", Explicit: true, Platform: platforms.DefaultSpec(), Pull: planner.PullAlways,
			})
			if err == nil {
				_, err = e.base(t.Context(), img)
			}
			if err == nil || !matches(c.want, err.Error()) {
				t.Errorf("error %v, want %s", err, c.want)
			}
			if took := time.Since(start); took > 3*time.Minute {
				t.Errorf("took %s", took)
			}
			if n := countLayers(t, e); n != 0 {
				t.Errorf("%d layers are left", n)
			}
			if images, err := e.store.Images(); err != nil || len(images) > 0 {
				t.Errorf("images are left: %v, %v", images, err)
			}
			// As soon as it is well again so is everything.
			e.patience = usual
			f.set(nil)
			if img, err = e.Resolve(t.Context(), planner.ImageRequest{
				Ref: addr + "/app:v1", Explicit: true, Platform: platforms.DefaultSpec(), Pull: planner.PullAlways,
			}); err != nil {
				t.Fatal(err)
			}
			if _, err := e.base(t.Context(), img); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestUnpackRefuses hands Unpack layers that are not what they say.
func TestUnpackRefuses(t *testing.T) {
	e := patient(t)
	b := testBundle(t, e)
	layers := countLayers(t, e)
	rubbish := strings.Repeat("rubbish\n", 1024)
	for what, d := range map[string]digest.Digest{"what is no tar": digest.FromString(rubbish), "what has another digest": b.Blobs[1].Digest} {
		l := pack.Layer{DiffID: d, Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(rubbish)), nil
		}}
		if _, err := e.Unpack(t.Context(), "", l); err == nil {
			t.Errorf("%s was unpacked", what)
		}
	}
	escape := tarWithEscape(t)
	// Whether it is refused or kept inside is the store's affair.
	s, err := e.Unpack(t.Context(), "", pack.Layer{DiffID: digest.FromString(escape), Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(escape)), nil
	}})
	if err == nil {
		err = e.Discard(t.Context(), s)
	}
	t.Log(err)
	if _, err := os.Lstat("/zbuild-test-escaped"); err == nil {
		t.Error("it has left its root")
	}
	if n := countLayers(t, e); n != layers {
		t.Errorf("%d layers are left, there were %d", n, layers)
	}
}

// tarWithEscape goes through a link to the root of the machine.
func tarWithEscape(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "/", Mode: 0o777},
		{Name: "../../../../../../../../zbuild-test-escaped", Typeflag: tar.TypeReg, Mode: 0o644},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
