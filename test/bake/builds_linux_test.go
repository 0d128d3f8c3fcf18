package bake

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/tools/txtar"

	"github.com/zbuild/zbuild/test/buildkitd"
)

var binFlag = flag.String("bin", "../bin", "the directory with buildkitd and buildx, for TestBuilds")

// builders are the programs that build: a buildx with a buildkitd, and a zbuild with
// a store.
type builders struct {
	daemon *buildkitd.Daemon
	env    []string // zbuild's
	agent  string   // the socket of an SSH agent without keys
}

// TestBuilds builds the archives of testdata/builds with both: what a build file
// may do, and where it comes from, is only looked at then. The lines are those of
// TestCases, but nothing is printed unless --print says so. Before them, "git: DIR"
// makes a directory a repository with a commit, "key: FILE" an SSH key, "archive: DIR FILE" an archive of
// it, "link: NAME TO" a link; $SERVER serves the files, repositories below /git/, $ROOT is the directory
// that has the project's, $AGENT the socket of an SSH agent. Needs root, and what `make -C test tools` builds.
func TestBuilds(t *testing.T) {
	archives, err := filepath.Glob("testdata/builds/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	b := newBuilders(t)
	for _, path := range archives {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := evaluations(t, string(archive.Comment), false)
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			root := t.TempDir()
			dir := filepath.Join(root, "project")
			stdin := unpack(t, root, dir, archive)
			prepare(t, dir, string(archive.Comment))
			variables := strings.NewReplacer("$ROOT", root, "$SERVER", serve(t, dir), "$AGENT", b.agent)
			for _, l := range lines {
				e := &evaluation{dir: dir, stdin: stdin}
				for _, arg := range l.args {
					e.args = append(e.args, variables.Replace(arg))
				}
				for _, v := range l.env {
					e.env = append(e.env, variables.Replace(v))
				}
				b.compare(t, l, e)
			}
		})
	}
}

func newBuilders(t *testing.T) *builders {
	t.Helper()
	bin, err := filepath.Abs(*binFlag)
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: the path of a socket has to be short.
	dir, err := os.MkdirTemp("", "bake-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	daemon, err := buildkitd.Start(t.Context(), buildkitd.Options{Bin: bin, Root: filepath.Join(dir, "bk")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := daemon.Stop(); err != nil {
			t.Error(err)
		}
	})
	socket := filepath.Join(dir, "agent")
	serveAgent(t, socket)
	conf := filepath.Join(dir, "storage.conf")
	text := fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n", filepath.Join(dir, "root"), filepath.Join(dir, "run"))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return &builders{daemon: daemon, agent: socket, env: []string{"CONTAINERS_STORAGE_CONF=" + conf, "XDG_RUNTIME_DIR=" + dir}}
}

// compare has both do what the line says. Neither has a terminal: what would be
// asked there is refused.
func (b *builders) compare(t *testing.T, l line, e *evaluation) {
	t.Helper()
	args := slices.Clone(e.args)
	meta := slices.Index(args, "--metadata-file") + 1
	if meta > 0 {
		args[meta] += ".bake"
	}
	theirs, err := b.daemon.Buildx(t.Context(), append([]string{"bake"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	theirs.Dir, theirs.Stdin, theirs.Env = e.dir, strings.NewReader(e.stdin), append(theirs.Env, e.env...)
	var stdout, stderr bytes.Buffer
	theirs.Stdout, theirs.Stderr = &stdout, &stderr
	err = theirs.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	want := outcome{ok: err == nil, stdout: stdout.Bytes(), stderr: stderr.String()}
	got := e.run(t, zbuildPath, b.env...)
	if slices.Contains(e.args, "--print") {
		compare(t, l, want, got)
		return
	}
	if want.ok == l.refuse {
		t.Errorf("%s\nis not what the case is about: bake said\n%s", l.text, want.stderr)
		return
	}
	if l.differ != "" && !got.ok {
		t.Errorf("%s\nzbuild refuses it, too:\n%s", l.text, got.stderr)
	}
	if want.ok != (got.ok && l.differ == "") {
		t.Errorf("%s\nbake accepts: %t, zbuild accepts: %t\nbake:\n%s\nzbuild:\n%s", l.text, want.ok, got.ok, want.stderr, got.stderr)
		return
	}
	if meta > 0 {
		name := filepath.Join(e.dir, e.args[meta])
		if diff := cmp.Diff(said(t, name+".bake"), said(t, name)); diff != "" {
			t.Errorf("%s: metadata: -bake +zbuild\n%s", l.text, diff)
		}
	}
}

// prepare makes the repositories and archives that the comment asks for.
func prepare(t *testing.T, dir, comment string) {
	t.Helper()
	run := func(dir, name string, args ...string) {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, out)
		}
	}
	for text := range strings.Lines(comment) {
		kind, rest, _ := strings.Cut(strings.TrimSpace(text), ":")
		fields := strings.Fields(rest)
		switch kind {
		case "git":
			at := filepath.Join(dir, fields[0])
			run(at, "git", "init", "-q", "-b", "trunk")
			run(at, "git", "add", ".")
			run(at, "git", "commit", "-q", "-m", "commit")
			run(at, "git", "tag", "v1")
		case "link":
			if err := os.Symlink(fields[1], filepath.Join(dir, fields[0])); err != nil {
				t.Fatal(err)
			}
		case "key":
			_, private, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			block, err := ssh.MarshalPrivateKey(private, "")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, fields[0]), pem.EncodeToMemory(block), 0o600); err != nil {
				t.Fatal(err)
			}
		case "archive":
			run(dir, "tar", "-C", fields[0], "-czf", fields[1], ".")
		}
	}
}

// serve serves the files of a directory, its repositories below /git/, and those to
// whom knows the token "s3cret" below /secret/.
func serve(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	git := func(below string) *cgi.Handler {
		return &cgi.Handler{
			Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"), Root: below,
			Env: []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1"},
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/git/", git("/git"))
	mux.HandleFunc("/secret/", func(w http.ResponseWriter, r *http.Request) {
		_, password, _ := r.BasicAuth()
		if password != "s3cret" && r.Header.Get("Authorization") != "Bearer s3cret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		git("/secret").ServeHTTP(w, r)
	})
	mux.Handle("/", http.FileServer(http.Dir(dir)))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

// serveAgent serves an SSH agent.
func serveAgent(t *testing.T, socket string) {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	keys := agent.NewKeyring()
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				_ = agent.ServeAgent(keys, conn) // ends when the other side hangs up
				_ = conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
}

// said is what a metadata file has to say: of which targets, and what. It removes
// the file. Nothing is said if there is none.
func said(t *testing.T, name string) (all []string) {
	t.Helper()
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	var targets map[string]json.RawMessage
	if err := json.Unmarshal(text, &targets); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, text)
	}
	for target, raw := range targets {
		var fields map[string]any
		if json.Unmarshal(raw, &fields) != nil {
			fields = map[string]any{"": nil} // no object
		}
		for key := range fields {
			all = append(all, target+"/"+key)
		}
	}
	slices.Sort(all)
	return all
}
