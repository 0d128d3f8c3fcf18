package remote

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
)

func content(t *testing.T, f *Fetcher, file File, auth Auth) (string, time.Time) {
	t.Helper()
	r, modified, err := f.Open(t.Context(), file, auth)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw), modified
}

func TestFile(t *testing.T) {
	modified := time.Date(2021, 3, 4, 5, 6, 7, 0, time.UTC)
	var body atomic.Value
	body.Store("hello\n")
	var bodies, requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		text := body.Load().(string)
		etag := fmt.Sprintf("%q", digest.FromString(text).Encoded())
		w.Header().Set("Last-Modified", modified.Format(http.TimeFormat))
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/file.txt", http.StatusFound)
			return
		case "/named":
			w.Header().Set("Content-Disposition", `attachment; filename="../../other.txt"`)
		case "/file.txt":
			w.Header().Set("ETag", etag)
			if r.Header.Get("If-None-Match") == etag {
				w.WriteHeader(http.StatusNotModified)
				return
			}
		}
		bodies.Add(1)
		_, _ = io.WriteString(w, text)
	}))
	defer server.Close()
	f := &Fetcher{Dir: t.TempDir()}

	for i := range 3 {
		got, err := f.Resolve(t.Context(), File{URL: server.URL + "/file.txt"}, Auth{})
		if err != nil {
			t.Fatal(err)
		}
		if got.Digest != digest.FromString("hello\n") || got.Name != "file.txt" || !got.Modified.Equal(modified) {
			t.Errorf("resolved as %+v", got)
		}
		if text, at := content(t, f, *got, Auth{}); text != "hello\n" || !at.Equal(modified) {
			t.Errorf("content %q of %s", text, at)
		}
		if n := bodies.Load(); n != 1 {
			t.Errorf("round %d: the body was sent %d times", i, n)
		}
	}
	body.Store("other\n")
	got, err := f.Resolve(t.Context(), File{URL: server.URL + "/file.txt", Name: "name"}, Auth{})
	if err != nil || got.Digest != digest.FromString("other\n") || got.Name != "name" {
		t.Errorf("after the change: %+v, %v", got, err)
	}
	for path, name := range map[string]string{"/moved": "moved", "/named": "other.txt", "/": "download", "/a/b/../..": "download"} {
		got, err := f.Resolve(t.Context(), File{URL: server.URL + path}, Auth{})
		if err != nil || got.Name != name {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
	}

	// What is pinned is asked for when it is needed, and must be the right thing.
	before := requests.Load()
	pinned, err := f.Resolve(t.Context(), File{URL: server.URL + "/pinned", Digest: digest.SHA512.FromString("other\n")}, Auth{})
	if err != nil || requests.Load() != before {
		t.Fatalf("%v after %d requests", err, requests.Load()-before)
	}
	if text, _ := content(t, f, *pinned, Auth{}); text != "other\n" {
		t.Errorf("content %q", text)
	}
	_, _, err = f.Open(t.Context(), File{URL: server.URL + "/pinned", Digest: digest.FromString("nothing")}, Auth{})
	var mismatch *MismatchError
	if !errors.As(err, &mismatch) {
		t.Errorf("wrong content: %v", err)
	}

	// What is kept and was damaged is fetched again.
	blob, note := f.path(blobsName, blobName(pinned.Digest)), f.visitFile(*pinned)
	for _, damage := range []func(name string) error{
		func(name string) error { return os.WriteFile(name, []byte("rotten"), 0o600) },
		func(name string) error { return os.WriteFile(name, nil, 0o600) },
		func(name string) error {
			return errors.Join(os.Remove(name), os.MkdirAll(filepath.Join(name, "d"), 0o700))
		},
	} {
		if err := errors.Join(damage(blob), damage(note)); err != nil {
			t.Fatal(err)
		}
		if text, _ := content(t, f, *pinned, Auth{}); text != "other\n" {
			t.Errorf("content %q", text)
		}
	}
	leftovers(t, f)
	kept, err := f.Kept()
	if err != nil || len(kept) < 2 {
		t.Errorf("kept are %v, %v", kept, err)
	}
	for _, k := range kept {
		if err := f.Discard(k.Name); err != nil {
			t.Error(err)
		}
	}
	if kept, err = f.Kept(); err != nil || len(kept) > 0 || f.has(pinned.Digest) {
		t.Errorf("kept are %v, %v", kept, err)
	}
	for _, name := range []string{"", ".", "../urls", "blobs", "blobs/../../x", "other/x"} {
		if err := f.Discard(name); err == nil {
			t.Errorf("%q was discarded", name)
		}
	}
}

func TestFileAuth(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("Authorization")+"|"+r.Header.Get("X-Thing"))
	}))
	defer server.Close()
	secrets := map[string]string{"HTTP_AUTH_HEADER_127.0.0.1": "h", "HTTP_AUTH_TOKEN_127.0.0.1": "t", "mine": "Mine m"}
	auth := Auth{Secret: func(id string) ([]byte, error) {
		if v, ok := secrets[id]; ok {
			return []byte(v), nil
		}
		return nil, fs.ErrNotExist
	}}
	f := &Fetcher{Dir: t.TempDir()}
	for _, tt := range []struct {
		file File
		want string
	}{
		{File{URL: server.URL + "/x"}, "Bearer t|"},
		{File{URL: server.URL + "/x", AuthSecret: "mine", Header: map[string]string{"X-Thing": "1"}}, "Mine m|1"},
	} {
		got, err := f.Resolve(t.Context(), tt.file, auth)
		if err != nil {
			t.Fatal(err)
		}
		if text, _ := content(t, f, *got, auth); text != tt.want {
			t.Errorf("sent %q, want %q", text, tt.want)
		}
	}
	if _, err := f.Resolve(t.Context(), File{URL: server.URL, AuthSecret: "none"}, auth); err == nil || !strings.Contains(err.Error(), `"none"`) {
		t.Errorf("a secret that is missing: %v", err)
	}
	server.Close()
	_, err := f.Resolve(t.Context(), File{URL: strings.Replace(server.URL, "//", "//me:hush@", 1)}, auth)
	if err == nil || strings.Contains(err.Error(), "hush") {
		t.Errorf("the error shows the password: %v", err)
	}
}

// TestFileProblems has servers of every bad kind.
func TestFileProblems(t *testing.T) {
	var weak atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/missing":
			http.NotFound(w, r)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/short":
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "not that much")
		case "/silent":
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "wait")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case "/hang":
			<-r.Context().Done()
		case "/large":
			w.Header().Set("Content-Length", "1000000")
		case "/endless":
			for {
				if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<12)); err != nil {
					return
				}
			}
		case "/bomb":
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write(bytes.Repeat([]byte{0}, 1<<20))
			_ = z.Close()
		case "/weak":
			if weak.Add(1) < 3 {
				http.Error(w, "not now", http.StatusServiceUnavailable)
				return
			}
			_, _ = io.WriteString(w, "at last")
		}
	}))
	defer server.Close()
	rubbish, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer rubbish.Close() //nolint:errcheck // a listener of the test
	go func() {
		for {
			c, err := rubbish.Accept()
			if err != nil {
				return
			}
			// What comes before the request is an error of another kind.
			_, _ = c.Read(make([]byte, 1<<10))
			_, _ = io.WriteString(c, "\x00\x01 this is no HTTP\r\n\r\n")
			_ = c.Close()
		}
	}()
	f := &Fetcher{Dir: t.TempDir(), Stall: 300 * time.Millisecond, MaxSize: 1 << 16}
	for _, tt := range []struct{ url, want string }{
		{server.URL + "/missing", "404 Not Found"},
		{server.URL + "/loop", "redirects"},
		{server.URL + "/short", "less than it announced"},
		{server.URL + "/silent", "has sent nothing for"},
		{server.URL + "/hang", "does not answer in time"},
		{server.URL + "/large", "too many"},
		{server.URL + "/endless", "larger than"},
		{server.URL + "/bomb", "larger than"},
		{"http://" + rubbish.Addr().String() + "/", "malformed"},
		{"http://127.0.0.1:1/", "refused"},
		{"http://[::1", "invalid"},
	} {
		t.Run(tt.url[strings.LastIndex(tt.url, "/"):], func(t *testing.T) {
			_, err := f.Resolve(t.Context(), File{URL: tt.url}, Auth{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
	got, err := f.Resolve(t.Context(), File{URL: server.URL + "/weak"}, Auth{})
	if err != nil || got.Digest != digest.FromString("at last") {
		t.Errorf("a moment of weakness: %+v, %v", got, err)
	}
	server.CloseClientConnections()
	leftovers(t, f)
}
