//go:build linux

package buildah

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"go.podman.io/image/v5/docker/reference"

	"github.com/zbuild/zbuild/planner"
)

// TestAdvice asks registries that answer with what registries answer with.
func TestAdvice(t *testing.T) {
	e := patient(t)
	f, addr := newFaulty(t)
	login := filepath.Join(t.TempDir(), "auth.json")
	if err := os.WriteFile(login, []byte(`{"auths": {"`+addr+`": {"auth": "dTpw"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	refuse := func(status int, body string) func(http.ResponseWriter, *http.Request, http.Handler) {
		return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	for name, c := range map[string]struct {
		ref, authfile string
		fault         func(http.ResponseWriter, *http.Request, http.Handler)
		want          string
	}{
		"nothing of here":   {ref: "localhost/app", want: "there is no such image in the store"},
		"no such host":      {ref: "registry.invalid/app", want: "check the name, the network and the proxy"},
		"nobody listens":    {ref: "127.0.0.1:1/app", want: "check the name, the network and the proxy"},
		"needs a login":     {fault: refuse(http.StatusUnauthorized, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`), want: "'podman login " + addr + "'"},
		"expired login":     {authfile: login, fault: refuse(http.StatusUnauthorized, `{"errors":[{"code":"UNAUTHORIZED","message":"expired"}]}`), want: "'podman login " + addr + "'"},
		"not this account":  {fault: refuse(http.StatusForbidden, `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}`), want: "either there is no such repository"},
		"too many requests": {fault: refuse(http.StatusTooManyRequests, `{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}`), want: "wait, "},
	} {
		t.Run(name, func(t *testing.T) {
			f.set(c.fault)
			defer f.set(nil)
			e.system.AuthFilePath = c.authfile
			if c.ref == "" {
				c.ref = addr + "/app"
			}
			_, err := e.Resolve(t.Context(), planner.ImageRequest{
				Ref: c.ref, Explicit: true, Platform: platforms.DefaultSpec(), Pull: planner.PullAlways,
			})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %s", err, c.want)
			}
		})
	}
}

// TestAdviceOnTLS has the errors of connections from real ones.
func TestAdviceOnTLS(t *testing.T) {
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	for url, want := range map[string]string{
		secure.URL: "certs.d/r.example.com/ca.crt",
		"https://" + strings.TrimPrefix(plain.URL, "http://"): "r.example.com speaks http",
	} {
		resp, err := http.Get(url)
		if err == nil {
			resp.Body.Close()
			t.Fatalf("%s answers", url)
		}
		name, err2 := reference.ParseNamed("r.example.com/app:v1")
		if err2 != nil {
			t.Fatal(err2)
		}
		if got := advise(err, name).Error(); !strings.Contains(got, want) {
			t.Errorf("error %v, want %s", got, want)
		}
	}
}

// TestAdviceOnPushing pushes to where nobody listens.
func TestAdviceOnPushing(t *testing.T) {
	_, unreachable := new(net.Dialer).DialContext(t.Context(), "tcp", "127.0.0.1:1")
	if unreachable == nil {
		t.Fatal("somebody listens at port 1")
	}
	for ref, want := range map[string]string{
		"localhost/app:v1":       "no registry listens on this machine",
		"127.0.0.1:1/app:v1":     "check the name, the network and the proxy",
		"r.example.com/x/app:v1": "check the name, the network and the proxy",
	} {
		name, err := reference.ParseNamed(ref)
		if err != nil {
			t.Fatal(err)
		}
		if got := advisePush(unreachable, name).Error(); !strings.Contains(got, want) {
			t.Errorf("%s: %v, want %s", ref, got, want)
		}
	}
}
