//go:build linux

package buildah

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/platforms"

	"github.com/zbuild/zbuild/planner"
)

// doorkeeper lets nobody to a registry without a token, and gives tokens to everybody.
// None is good for longer than until somebody calls expire.
type doorkeeper struct {
	valid, given atomic.Int32
	closed       atomic.Bool // there are no more tokens
	denies       bool        // of an old token it says so, as Amazon's registry does
}

func (d *doorkeeper) expire() { d.valid.Add(1) }

func (d *doorkeeper) before(after func(*http.Request)) func(w http.ResponseWriter, r *http.Request, next http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		now := fmt.Sprintf("Bearer of-%d", d.valid.Load())
		switch {
		case r.URL.Path == "/token" && d.closed.Load():
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"the password has expired"}]}`, http.StatusUnauthorized)
		case r.URL.Path == "/token":
			d.given.Add(1)
			_ = json.NewEncoder(w).Encode(map[string]any{"token": strings.TrimPrefix(now, "Bearer "), "expires_in": 3600})
		case d.denies && r.Header.Get("Authorization") != now && r.Header.Get("Authorization") != "":
			http.Error(w, `{"errors":[{"code":"DENIED","message":"Your authorization token has expired. Reauthenticate and try again."}]}`, http.StatusForbidden)
		case r.Header.Get("Authorization") != now:
			w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q,service=\"test\",error=\"invalid_token\"", "http://"+r.Host+"/token"))
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
		default:
			next.ServeHTTP(w, r)
			after(r)
		}
	}
}

func isBlob(method string) func(*http.Request) bool {
	return func(r *http.Request) bool {
		return r.Method == method && strings.Contains(r.URL.Path, "/blobs/") && !strings.Contains(r.URL.Path, "/referrers")
	}
}

// once calls fn for the first request that is of a kind.
func once(is func(*http.Request) bool, fn func()) func(*http.Request) {
	var done atomic.Bool
	return func(r *http.Request) {
		if is(r) && done.CompareAndSwap(false, true) {
			fn()
		}
	}
}

// TestTokenExpires has a registry's token expire in the middle of a push, a pull and the
// reading of a cache: a new one is asked for. If there is none, the message says what to
// do, and nothing gets a name.
func TestTokenExpires(t *testing.T) {
	for n := range 4 {
		refuses, denies := n%2 == 1, n >= 2
		t.Run(fmt.Sprintf("refuses=%v denies=%v", refuses, denies), func(t *testing.T) {
			e := patient(t)
			b := testBundle(t, e)
			f, addr := newFaulty(t)
			d := &doorkeeper{denies: denies}
			expire := func() { d.expire(); d.closed.Store(refuses) }
			outcome := func(what string, err error) {
				t.Helper()
				if !refuses && err != nil {
					t.Errorf("%s: %v", what, err)
				}
				if refuses && (err == nil || !strings.Contains(err.Error(), "'podman login "+addr+"'")) {
					t.Errorf("%s: %v, want what to do about it", what, err)
				}
				t.Log(err)
			}
			f.set(d.before(once(isBlob(http.MethodPut), expire)))
			outcome("pushing", push(t.Context(), e, b, addr+"/app:v1"))
			if hasTag(t, f) == refuses {
				t.Error("the name is there, or is not")
			}
			if !refuses && d.given.Load() < 2 {
				t.Error("the token has not expired")
			}

			f.set(nil)
			if err := push(t.Context(), e, b, addr+"/app:v1"); err != nil {
				t.Fatal(err)
			}
			fresh := patient(t)
			d.closed.Store(false)
			f.set(d.before(once(isBlob(http.MethodGet), func() {})))
			img, err := fresh.Resolve(t.Context(), planner.ImageRequest{Ref: addr + "/app:v1", Explicit: true, Platform: platforms.DefaultSpec(), Pull: planner.PullAlways})
			if err != nil {
				t.Fatal(err)
			}
			// The manifest is the first that a pull reads.
			f.set(d.before(once(func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }, expire)))
			_, err = fresh.base(t.Context(), img)
			outcome("pulling", err)
			if n := countLayers(t, fresh); refuses && n != 0 {
				t.Errorf("%d layers are left", n)
			}

			d.closed.Store(false)
			f.set(d.before(func(*http.Request) {}))
			src, err := fresh.Fetch(t.Context(), addr+"/app:v1", false)
			if err != nil {
				t.Fatal(err)
			}
			expire()
			in, err := src.Blob(t.Context(), b.Blobs[1].Descriptor)
			if err == nil {
				_, err = io.Copy(io.Discard, in)
				_ = in.Close()
			}
			outcome("reading a cache", err)
		})
	}
}

// TestPasswordExpires has a registry refuse, in the middle of a push, the password that
// it took before.
func TestPasswordExpires(t *testing.T) {
	e := patient(t)
	b := testBundle(t, e)
	f, addr := newFaulty(t)
	var refusing atomic.Bool
	var refused atomic.Int32
	f.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if refusing.Load() {
			refused.Add(1)
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
		if isBlob(http.MethodPut)(r) {
			refusing.Store(true)
		}
	})
	err := push(t.Context(), e, b, addr+"/app:v1")
	if err == nil || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "have expired: 'podman login "+addr+"'") {
		t.Errorf("error %v, want what to do about it", err)
	}
	if hasTag(t, f) {
		t.Error("the name is there")
	}
	if n := refused.Load(); n > 20 {
		t.Errorf("it was tried %d times", n) // which may lock the account
	}
}

// TestPushIsNotAllowed has a registry let somebody read, and not write: they are told so at
// once, and not that something has expired.
func TestPushIsNotAllowed(t *testing.T) {
	for status, body := range map[int]string{
		http.StatusUnauthorized: `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`,
		http.StatusForbidden:    `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}`,
	} {
		e := patient(t)
		e.patience.leave = time.Minute
		b := testBundle(t, e)
		f, addr := newFaulty(t)
		var looked, refused atomic.Int32
		f.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodGet || r.Method == http.MethodHead {
				looked.Add(1)
				next.ServeHTTP(w, r)
				return
			}
			refused.Add(1)
			http.Error(w, body, status)
		})
		err := push(t.Context(), e, b, addr+"/app:v1")
		if err == nil || strings.Contains(err.Error(), "expired") || !strings.Contains(err.Error(), "'podman login "+addr+"'") {
			t.Errorf("%d: error %v, want what to do about it", status, err)
		}
		if n := int(refused.Load()); looked.Load() == 0 || n > len(b.Blobs) {
			t.Errorf("%d: it was tried %d times", status, n)
		}
	}
}
