package conformance_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// fileServer serves the directories of cases, each below its name: for what comes
// from a URL, or from a git repository by a web server that knows nothing of git. The
// query as=NAME makes it name the file so, and with auth=VALUE it wants that as the
// request's Authorization.
type fileServer struct {
	*httptest.Server
	dirs sync.Map // of http.Handler, by name
}

func newFileServer(t *testing.T) *fileServer {
	t.Helper()
	s := &fileServer{}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// serve serves a directory and gives its address, without the scheme.
func (s *fileServer) serve(name, dir string) string {
	s.dirs.Store(name, http.StripPrefix("/"+name, http.FileServer(http.Dir(dir))))
	return s.Listener.Addr().String() + "/" + name
}

// ServeHTTP is for http.Handler.
func (s *fileServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	files, ok := s.dirs.Load(name)
	if !ok {
		http.NotFound(w, r)
		return
	}
	if as := r.URL.Query().Get("as"); as != "" {
		w.Header().Set("Content-Disposition", "attachment; filename="+as)
	}
	if auth := r.URL.Query().Get("auth"); auth != r.Header.Get("Authorization") {
		http.Error(w, "another Authorization is wanted", http.StatusUnauthorized)
		return
	}
	files.(http.Handler).ServeHTTP(w, r)
}
