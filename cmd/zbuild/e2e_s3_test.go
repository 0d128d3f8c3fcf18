//go:build linux

package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/rogpeppe/go-internal/testscript"
)

// The identity that the server of the script command "s3" wants to see.
const (
	s3KeyID  = "AKIDOFTHESCRIPT"
	s3Secret = "a-secret-of-the-script"
)

// s3 BUCKET starts a server that speaks S3 and has a bucket, and sets S3, its URL,
// S3_KEY_ID and S3_SECRET. It serves who says S3_KEY_ID. Requests are counted in
// the file "s3-requests". The file "s3-broken" says how it fails: hangs up, rubbish.
func cmdS3(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: s3 BUCKET")
	}
	backend := s3mem.New()
	ts.Check(backend.CreateBucket(args[0]))
	objects := gofakes3.New(backend).Server()
	var mu sync.Mutex
	var seen bytes.Buffer
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen.WriteString(r.Method + " " + r.URL.Path + "\n")
		_ = os.WriteFile(ts.MkAbs("s3-requests"), seen.Bytes(), 0o600)
		mu.Unlock()
		broken, _ := os.ReadFile(ts.MkAbs("s3-broken"))
		switch how := strings.TrimSpace(string(broken)); {
		case how == "hangs up":
			panic(http.ErrAbortHandler)
		case how == "rubbish" && strings.Contains(r.URL.Path, "/blobs/"):
			_, _ = w.Write([]byte("rubbish"))
			return
		case !strings.Contains(r.Header.Get("Authorization"), "Credential="+s3KeyID+"/"):
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte("<Error><Code>InvalidAccessKeyId</Code><Message>who are you?</Message></Error>"))
			return
		}
		objects.ServeHTTP(w, r)
	}))
	ts.Defer(server.Close)
	ts.Setenv("S3", server.URL)
	ts.Setenv("S3_KEY_ID", s3KeyID)
	ts.Setenv("S3_SECRET", s3Secret)
}
