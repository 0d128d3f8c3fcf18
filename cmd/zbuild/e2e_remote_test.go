//go:build linux

package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// remoteCommands are the script commands of what builds take from elsewhere.
func remoteCommands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"s3":            cmdS3,
		"serve":         cmdServe,
		"commit":        cmdCommit,
		"ssh-agent":     cmdSSHAgent,
		"stage-program": cmdStageProgram,
		"binfmt":        cmdBinfmt,
	}
}

// serve DIR serves the files of a directory, and the git repositories in it below
// /git/, and sets SERVER. Requests are counted in the file "requests".
func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: serve DIR")
	}
	dir := ts.MkAbs(args[0])
	out, err := exec.Command("git", "--exec-path").Output()
	ts.Check(err)
	git := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"), Root: "/git",
		Env: []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1"},
	}
	files := http.FileServer(http.Dir(dir))
	var mu sync.Mutex
	var requests bytes.Buffer
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		requests.WriteString(r.Method + " " + r.URL.Path + " " + r.Header.Get("If-None-Match") + "\n")
		_ = os.WriteFile(ts.MkAbs("requests"), requests.Bytes(), 0o600)
		mu.Unlock()
		switch {
		case strings.HasPrefix(r.URL.Path, "/git/"):
			git.ServeHTTP(w, r)
		case r.URL.Path == "/short":
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte("not that much"))
		case r.URL.Path == "/rubbish.tar.gz":
			_, _ = w.Write(append([]byte("\x1f\x8b\x08\x00"), bytes.Repeat([]byte("rubbish"), 100)...))
		default:
			w.Header().Set("ETag", `"`+r.URL.Path+`"`)
			files.ServeHTTP(w, r)
		}
	}))
	ts.Defer(server.Close)
	ts.Setenv("SERVER", server.URL)
}

// commit DIR makes a directory a git repository, with what is in it as a commit on
// the branch trunk, and sets COMMIT to its hash.
func cmdCommit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: commit DIR")
	}
	git := func(arg ...string) string {
		cmd := exec.Command("git", arg...)
		cmd.Dir = ts.MkAbs(args[0])
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
		out, err := cmd.CombinedOutput()
		if err != nil {
			ts.Fatalf("git %v: %v\n%s", arg, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "-q", "-b", "trunk")
	git("add", ".")
	git("commit", "-q", "-m", "commit")
	ts.Setenv("COMMIT", git("rev-parse", "HEAD"))
}

// ssh-agent KEY starts an agent with a key, which it also writes to the file KEY,
// and sets SSH_AUTH_SOCK.
func cmdSSHAgent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ssh-agent KEY")
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	ts.Check(err)
	block, err := ssh.MarshalPrivateKey(private, "of-the-script")
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), pem.EncodeToMemory(block), 0o600))
	keys := agent.NewKeyring()
	ts.Check(keys.Add(agent.AddedKey{PrivateKey: private, Comment: "of-the-script"}))
	dir, err := os.MkdirTemp("", "zbt-") // a socket's path must be short
	ts.Check(err)
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	ts.Check(err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				wg.Go(func() { _ = agent.ServeAgent(keys, conn); _ = conn.Close() })
			}
		}
	})
	ts.Defer(func() {
		ts.Check(listener.Close())
		wg.Wait()
		ts.Check(os.RemoveAll(dir))
	})
	ts.Setenv("SSH_AUTH_SOCK", filepath.Join(dir, "s"))
}

// stage-program DIR PROGRAM... copies the host's programs to DIR, with the
// libraries that they need.
func cmdStageProgram(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: stage-program DIR PROGRAM...")
	}
	put := func(from string) {
		raw, err := os.ReadFile(from)
		ts.Check(err)
		to := filepath.Join(ts.MkAbs(args[0]), from)
		ts.Check(os.MkdirAll(filepath.Dir(to), 0o755))
		ts.Check(os.WriteFile(to, raw, 0o755))
	}
	for _, program := range args[1:] {
		path, err := exec.LookPath(program)
		ts.Check(err)
		put(path)
		out, err := exec.Command("ldd", path).Output()
		ts.Check(err)
		for _, field := range strings.Fields(string(out)) {
			if strings.HasPrefix(field, "/") {
				put(field)
			}
		}
	}
}
