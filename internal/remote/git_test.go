package remote

import (
	"context"
	"errors"
	"io/fs"
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
	"time"
)

// gitServer serves the repositories of a directory by git's own HTTP backend.
func gitServer(t *testing.T, dir string, guard func(*http.Request) bool) *httptest.Server {
	t.Helper()
	out, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null", "HOME=/nonexistent"},
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if guard != nil && !guard(r) {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// gitIn runs git in a directory and gives what it prints.
func gitIn(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "protocol.file.allow=always"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(),
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com",
		"GIT_AUTHOR_DATE=2020-02-02T02:02:02Z", "GIT_COMMITTER_DATE=2020-02-02T02:02:02Z")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func write(t *testing.T, name, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// newRepo makes a repository with a commit on the branch trunk and an annotated
// tag v1 on it, then another commit.
func newRepo(t *testing.T, dir string) (first, second string) {
	t.Helper()
	write(t, filepath.Join(dir, "README"), "one\n", 0o600)
	write(t, filepath.Join(dir, "sub", "tool.sh"), "#!/bin/sh\n", 0o700)
	write(t, filepath.Join(dir, "sub", "Dockerfile"), "FROM scratch\n", 0o644)
	if err := os.Symlink("sub/Dockerfile", filepath.Join(dir, "Dockerfile")); err != nil {
		t.Fatal(err)
	}
	gitIn(t, dir, "init", "-q", "-b", "trunk")
	gitIn(t, dir, "add", ".")
	gitIn(t, dir, "commit", "-q", "-m", "one")
	first = gitIn(t, dir, "rev-parse", "HEAD")
	gitIn(t, dir, "tag", "-a", "-m", "v1", "v1")
	write(t, filepath.Join(dir, "README"), "two\n", 0o644)
	gitIn(t, dir, "commit", "-q", "-a", "-m", "two")
	return first, gitIn(t, dir, "rev-parse", "HEAD")
}

func listing(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() == ".git" && d.IsDir() {
			out = append(out, ".git/")
			return fs.SkipDir
		}
		if p == dir {
			return nil
		}
		info, err := d.Info()
		out = append(out, strings.TrimPrefix(p, dir+"/")+" "+info.Mode().String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

const wholeTree = `Dockerfile Lrwxrwxrwx
README -rw-r--r--
sub drwxr-xr-x
sub/Dockerfile -rw-r--r--
sub/tool.sh -rwxr-xr-x`

func TestGit(t *testing.T) {
	repos := t.TempDir()
	first, second := newRepo(t, filepath.Join(repos, "app"))
	server := gitServer(t, repos, nil)
	url := server.URL + "/app/.git"
	f := &Fetcher{Dir: t.TempDir()}
	for _, tt := range []struct {
		name   string
		tree   Tree
		commit string
		readme string
		files  string
	}{
		{"default branch", Tree{Remote: url}, second, "two\n", wholeTree},
		{"branch", Tree{Remote: url, Ref: "trunk"}, second, "two\n", wholeTree},
		{"tag", Tree{Remote: url, Ref: "v1"}, first, "one\n", wholeTree},
		{"full tag", Tree{Remote: url, Ref: "refs/tags/v1"}, first, "one\n", wholeTree},
		{"commit", Tree{Remote: url, Ref: first}, first, "one\n", wholeTree},
		{"checksum", Tree{Remote: url, Ref: "v1", Checksum: first[:12]}, first, "one\n", wholeTree},
		{"by commit", Tree{Remote: url, Ref: "trunk", Checksum: first, FetchByCommit: true}, first, "one\n", wholeTree},
		{"directory", Tree{Remote: url, Subdir: "sub"}, second, "", "Dockerfile -rw-r--r--\ntool.sh -rwxr-xr-x"},
		{"with .git", Tree{Remote: url, Ref: "v1", KeepGitDir: true}, first, "one\n", ".git/\n" + wholeTree},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := f.ResolveTree(t.Context(), tt.tree, Auth{})
			if err != nil {
				t.Fatal(err)
			}
			if got.Commit != tt.commit {
				t.Errorf("commit %s, want %s", got.Commit, tt.commit)
			}
			dest := t.TempDir()
			if err := f.Checkout(t.Context(), *got, Auth{}, dest); err != nil {
				t.Fatal(err)
			}
			if l := listing(t, dest); l != tt.files {
				t.Errorf("the tree is\n%s\nwant\n%s", l, tt.files)
			}
			if tt.readme != "" {
				if raw, err := os.ReadFile(filepath.Join(dest, "README")); err != nil || string(raw) != tt.readme {
					t.Errorf("README is %q, %v", raw, err)
				}
			}
			if tt.tree.KeepGitDir {
				gitIn(t, dest, "config", "safe.directory", "*")
				if head := gitIn(t, dest, "rev-parse", "HEAD"); head != tt.commit {
					t.Errorf("HEAD is %s", head)
				}
				if d := gitIn(t, dest, "describe", "--tags"); d != "v1" {
					t.Errorf("described as %s", d)
				}
				if status := gitIn(t, dest, "status", "--porcelain"); status != "" {
					t.Errorf("status: %s", status)
				}
				raw, err := os.ReadFile(filepath.Join(dest, ".git", "config"))
				if err != nil || strings.Contains(string(raw), f.Dir) || strings.Contains(string(raw), dest) {
					t.Errorf("the configuration names places of this machine: %v\n%s", err, raw)
				}
			}
			raw, err := f.ReadFile(t.Context(), *got, Auth{}, "Dockerfile")
			if err != nil || string(raw) != "FROM scratch\n" {
				t.Errorf("the Dockerfile is %q, %v", raw, err)
			}
			if _, err := f.ReadFile(t.Context(), *got, Auth{}, "none"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a missing file: %v", err)
			}
		})
	}
	leftovers(t, f)

	// What was fetched and is damaged is fetched again.
	other := &Fetcher{Dir: t.TempDir()}
	got, err := other.ResolveTree(t.Context(), Tree{Remote: url, Ref: "v1"}, Auth{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		damage func(name string) error
		use    func() error
	}{
		{
			func(name string) error { return os.Truncate(name, 0) },
			func() error { return other.Checkout(t.Context(), *got, Auth{}, t.TempDir()) },
		},
		{
			os.Remove,
			func() error { _, err := other.ReadFile(t.Context(), *got, Auth{}, "Dockerfile"); return err },
		},
		{
			func(name string) error {
				info, err := os.Stat(name)
				return errors.Join(err, os.Chmod(name, 0o600), os.Truncate(name, info.Size()/2))
			},
			func() error { _, err := other.CommitObject(t.Context(), *got, Auth{}); return err },
		},
	} {
		if err := c.use(); err != nil { // so that it is there
			t.Fatal(err)
		}
		err := filepath.WalkDir(other.path(reposName), func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				err = c.damage(p)
			}
			return err
		})
		if err = errors.Join(err, c.use()); err != nil {
			t.Error(err)
		}
	}
	leftovers(t, other)

	// What was fetched is there without the server.
	server.Close()
	if got, err = f.ResolveTree(t.Context(), Tree{Remote: url, Ref: first, CommitTime: true}, Auth{}); err != nil {
		t.Fatal(err)
	}
	dest := t.TempDir()
	if err := f.Checkout(t.Context(), *got, Auth{}, dest); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"README", "Dockerfile", "sub", "."} {
		info, err := os.Lstat(filepath.Join(dest, name))
		if err != nil {
			t.Fatal(err)
		}
		if want := time.Date(2020, 2, 2, 2, 2, 2, 0, time.UTC); !info.ModTime().Equal(want) {
			t.Errorf("%s is of %s, want %s", name, info.ModTime(), want)
		}
	}
}

func leftovers(t *testing.T, f *Fetcher) {
	t.Helper()
	found, _ := filepath.Glob(filepath.Join(f.Dir, "*", tmpPrefix+"*"))
	if len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
}

func TestGitSubmodules(t *testing.T) {
	repos := t.TempDir()
	newRepo(t, filepath.Join(repos, "lib"))
	server := gitServer(t, repos, nil)
	app := filepath.Join(repos, "app")
	newRepo(t, app)
	gitIn(t, app, "submodule", "add", "-q", server.URL+"/lib/.git", "vendor/lib")
	gitIn(t, app, "commit", "-q", "-m", "lib")
	// Somebody else's repository must not reach files of this machine.
	evil := filepath.Join(repos, "evil")
	newRepo(t, evil)
	gitIn(t, evil, "submodule", "add", "-q", "file://"+filepath.Join(repos, "lib"), "x")
	gitIn(t, evil, "commit", "-q", "-m", "x")

	f := &Fetcher{Dir: t.TempDir()}
	for _, skip := range []bool{false, true} {
		got, err := f.ResolveTree(t.Context(), Tree{Remote: server.URL + "/app/.git", SkipSubmodules: skip}, Auth{})
		if err != nil {
			t.Fatal(err)
		}
		dest := t.TempDir()
		if err := f.Checkout(t.Context(), *got, Auth{}, dest); err != nil {
			t.Fatal(err)
		}
		_, err = os.Stat(filepath.Join(dest, "vendor/lib/README"))
		if skip != errors.Is(err, fs.ErrNotExist) {
			t.Errorf("skip=%t: %v", skip, err)
		}
		if _, err := os.Lstat(filepath.Join(dest, "vendor/lib/.git")); err == nil {
			t.Errorf("the submodule has a .git that points nowhere")
		}
	}
	got, err := f.ResolveTree(t.Context(), Tree{Remote: server.URL + "/evil/.git"}, Auth{})
	if err != nil {
		t.Fatal(err)
	}
	var refused *CommandError
	if err := f.Checkout(t.Context(), *got, Auth{}, t.TempDir()); !errors.As(err, &refused) || !strings.Contains(err.Error(), "not allowed") {
		t.Errorf("a submodule on this machine: %v", err)
	}
	leftovers(t, f)
}

// TestGitCredentials looks at the command lines of what runs while a server makes
// us wait.
func TestGitCredentials(t *testing.T) {
	repos := t.TempDir()
	newRepo(t, filepath.Join(repos, "app"))
	var mu sync.Mutex // of lines
	var lines []string
	server := gitServer(t, repos, func(r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, p := range procs {
			raw, _ := os.ReadFile(p)
			lines = append(lines, string(raw))
		}
		user, password, _ := r.BasicAuth()
		return user == "x-access-token" && password == "hush-hush" || user == "me" && password == "hush-hush"
	})
	secrets := func(id string) ([]byte, error) {
		if id == "GIT_AUTH_TOKEN" {
			return []byte("hush-hush\n"), nil
		}
		return nil, fs.ErrNotExist
	}
	f := &Fetcher{Dir: t.TempDir()}
	url := server.URL + "/app/.git"
	withUser := strings.Replace(url, "http://", "http://me:hush-hush@", 1)
	for _, tt := range []struct {
		tree Tree
		auth Auth
	}{
		{Tree{Remote: url, AuthToken: "GIT_AUTH_TOKEN", AuthHeader: "GIT_AUTH_HEADER"}, Auth{Secret: secrets}},
		{Tree{Remote: withUser, KeepGitDir: true}, Auth{}},
	} {
		got, err := f.ResolveTree(t.Context(), tt.tree, tt.auth)
		if err != nil {
			t.Fatal(err)
		}
		dest := t.TempDir()
		if err := f.Checkout(t.Context(), *got, tt.auth, dest); err != nil {
			t.Fatal(err)
		}
		grep(t, dest, "hush-hush")
	}
	grep(t, f.Dir, "hush-hush")
	mu.Lock()
	for _, l := range lines {
		if strings.Contains(l, "hush-hush") {
			t.Errorf("a command line: %q", l)
		}
	}
	if len(lines) == 0 {
		t.Error("no process was looked at")
	}
	mu.Unlock()
	_, err := f.ResolveTree(t.Context(), Tree{Remote: strings.Replace(withUser, "me:", "other:", 1)}, Auth{})
	if err == nil || strings.Contains(err.Error(), "hush-hush") {
		t.Errorf("wrong credentials: %v", err)
	}
}

func grep(t *testing.T, dir, text string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(p)
		if strings.Contains(string(raw), text) {
			t.Errorf("%s has %q in it", p, text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestGitProblems(t *testing.T) {
	repos := t.TempDir()
	app := filepath.Join(repos, "app")
	newRepo(t, app)
	outside := t.TempDir()
	write(t, filepath.Join(outside, "secret"), "x", 0o644)
	if err := os.Symlink(outside, filepath.Join(app, "way-out")); err != nil {
		t.Fatal(err)
	}
	gitIn(t, app, "add", ".")
	gitIn(t, app, "commit", "-q", "-m", "out")
	server := gitServer(t, repos, nil)
	url := server.URL + "/app/.git"
	f := &Fetcher{Dir: t.TempDir()}
	for _, tt := range []struct {
		name, want string
		tree       Tree
	}{
		{"no ref", `no branch or tag "none"`, Tree{Remote: url, Ref: "none"}},
		{"no repository", "not found", Tree{Remote: server.URL + "/none.git"}},
		{"no commit", "not our ref|does not have the commit", Tree{Remote: url, Ref: strings.Repeat("ab", 20)}},
		{"checksum", "expected is abcd", Tree{Remote: url, Ref: "v1", Checksum: "abcd"}},
		{"option as ref", "invalid ref", Tree{Remote: url, Ref: "--upload-pack=touch /tmp/x"}},
		{"option as host", "invalid address", Tree{Remote: "ssh://-oProxyCommand=touch/x.git"}},
		{"local", "can be fetched", Tree{Remote: "file://" + app}},
		{"ext", "can be fetched", Tree{Remote: "ext::sh -c touch% /tmp/x"}},
		{"no directory", "no directory none", Tree{Remote: url, Subdir: "none"}},
		{"link as directory", "way-out is not a directory", Tree{Remote: url, Subdir: "way-out"}},
		{"file as directory", "README is not a directory", Tree{Remote: url, Subdir: "README"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := f.ResolveTree(t.Context(), tt.tree, Auth{})
			if err == nil {
				err = f.Checkout(t.Context(), *got, Auth{}, t.TempDir())
			}
			if err == nil || !slices.ContainsFunc(strings.Split(tt.want, "|"), func(s string) bool { return strings.Contains(err.Error(), s) }) {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
	got, err := f.ResolveTree(t.Context(), Tree{Remote: url}, Auth{})
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := f.ReadFile(t.Context(), *got, Auth{}, "way-out/secret"); err == nil {
		t.Errorf("a file outside was read: %q", raw)
	}
	leftovers(t, f)
}

func TestGitHangs(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer server.Close()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, errors.New("enough"))
	defer cancel()
	f := &Fetcher{Dir: t.TempDir()}
	if _, err := f.ResolveTree(ctx, Tree{Remote: server.URL + "/x.git"}, Auth{}); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("error %v", err)
	}
	server.CloseClientConnections()
}
