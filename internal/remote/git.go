package remote

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/util/gitutil"

	"github.com/zbuild/zbuild/internal/scratch"
)

// Tree is the tree of a commit of a git repository. It is inert.
type Tree struct {
	// Remote is the repository's address. It may have credentials in it.
	Remote string
	// Ref is a branch, a tag or the full hash of a commit. Empty means the
	// repository's default branch.
	Ref string
	// Subdir is the directory whose content the tree is; empty means all.
	Subdir string
	// Checksum is the beginning of the hash that Ref must have; empty means any.
	Checksum string
	// KeepGitDir leaves the directory .git in the tree.
	KeepGitDir bool
	// SkipSubmodules leaves submodules empty.
	SkipSubmodules bool
	// CommitTime gives all files the time of the commit.
	CommitTime bool
	// FetchByCommit takes Checksum for the commit, wherever Ref points.
	FetchByCommit bool
	// AuthHeader and AuthToken are ids of secrets for HTTP, as in BuildKit; there
	// may be special ones for a host, whose id ends in a dot and its name.
	AuthHeader, AuthToken string
	// SSH is the id of the agent for SSH, KnownHosts the keys of servers. Without
	// any keys every server is believed.
	SSH, KnownHosts string

	// Object is the hash that Ref has, of a commit or of an annotated tag. Commit
	// is that of the commit. Both are empty until the tree was resolved.
	Object, Commit string
}

// askTime is how long a server may take to list its refs, fetchTime to hand out a
// commit.
const (
	askTime   = 2 * time.Minute
	fetchTime = time.Hour
)

// ResolveTree finds out which commit a ref stands for now.
func (f *Fetcher) ResolveTree(ctx context.Context, t Tree, auth Auth) (*Tree, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	if t.FetchByCommit {
		if !gitutil.IsCommitSHA(t.Checksum) {
			return nil, fmt.Errorf("%s: fetching by commit needs the full hash of a commit as checksum", Redact(t.Remote))
		}
		if t.Ref != "" && !strings.HasPrefix(t.Ref, "refs/") && !gitutil.IsCommitSHA(t.Ref) {
			t.Ref = "refs/heads/" + t.Ref
		}
		t.Object, t.Commit = t.Checksum, t.Checksum
		return &t, nil
	}
	if gitutil.IsCommitSHA(t.Ref) {
		if !strings.HasPrefix(t.Ref, t.Checksum) {
			return nil, &HashError{Remote: Redact(t.Remote), Ref: t.Ref, Want: t.Checksum, Got: []string{t.Ref}}
		}
		t.Object, t.Commit = t.Ref, t.Ref
		return &t, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, askTime, fmt.Errorf("%s: the server does not answer in time", Redact(t.Remote)))
	defer cancel()
	g, done, err := newGit(ctx, t, auth)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := g.lookUp(ctx, &t); err != nil {
		return nil, err
	}
	if t.Checksum != "" && !strings.HasPrefix(t.Object, t.Checksum) && !strings.HasPrefix(t.Commit, t.Checksum) {
		return nil, &HashError{Remote: Redact(t.Remote), Ref: t.Ref, Want: t.Checksum, Got: []string{t.Object, t.Commit}}
	}
	return &t, nil
}

// HashError says that a ref is another commit than it should be.
type HashError struct {
	Remote, Ref, Want string
	Got               []string
}

func (e *HashError) Error() string {
	return fmt.Sprintf("%s of %s is %s, expected is %s", e.Ref, e.Remote, strings.Join(slices.Compact(e.Got), " or "), e.Want)
}

// check refuses what git might take for an option or a program to run.
func (t *Tree) check() error {
	if !gitutil.IsGitTransport(t.Remote) {
		return fmt.Errorf("%s is no address of a git repository that can be fetched", Redact(t.Remote))
	}
	u, err := gitutil.ParseURL(t.Remote)
	if err != nil {
		return fmt.Errorf("%s: %w", Redact(t.Remote), err)
	}
	if strings.HasPrefix(u.Host, "-") || strings.HasPrefix(u.Path, "-") {
		return fmt.Errorf("%s: invalid address", Redact(t.Remote))
	}
	if strings.HasPrefix(t.Ref, "-") || strings.ContainsAny(t.Ref, " \t\n\r\x00:?*[\\^~") {
		return fmt.Errorf("%s: invalid ref %q", Redact(t.Remote), t.Ref)
	}
	if strings.Trim(t.Checksum, "0123456789abcdefABCDEF") != "" {
		return fmt.Errorf("%s: invalid checksum %q, expected is the hash of a commit", Redact(t.Remote), t.Checksum)
	}
	if t.Subdir != "" && !filepath.IsLocal(strings.TrimPrefix(path.Clean("/"+t.Subdir), "/")) && path.Clean("/"+t.Subdir) != "/" {
		return fmt.Errorf("%s: invalid directory %q", Redact(t.Remote), t.Subdir)
	}
	return nil
}

// git runs git commands for one repository.
type git struct {
	cli    *gitutil.GitCLI
	remote string // without credentials
	env    []string
}

// newGit sets git up: nothing of the machine's configuration, no prompts, no
// hooks, no protocols but those of the network, and credentials in the
// environment.
func newGit(ctx context.Context, t Tree, auth Auth) (g *git, done func(), err error) {
	if _, err := exec.LookPath("git"); err != nil {
		return nil, nil, errors.New("git is needed to fetch from a repository, and is not installed")
	}
	g = &git{remote: t.Remote}
	var undo []func()
	done = func() {
		for _, u := range undo {
			u()
		}
	}
	opts := []gitutil.Option{
		gitutil.WithGitAdvice(false),
		gitutil.WithArgs(
			"-c", "core.hooksPath="+os.DevNull, "-c", "core.fsmonitor=false", "-c", "protocol.ext.allow=never",
			"-c", "credential.helper=", "-c", "core.askPass=", "-c", "gc.auto=0", "-c", "maintenance.auto=false",
			"-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=60", "-c", "init.defaultBranch=master",
		),
	}
	g.env = append(g.env, "GIT_ALLOW_PROTOCOL=http:https:ssh:git", "GIT_ASKPASS=", "SSH_ASKPASS=", "GIT_TERMINAL_PROMPT=0")
	if u, err := url.Parse(t.Remote); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
		header, err := httpHeader(t, u, auth)
		if err != nil {
			return nil, nil, err
		}
		u.User = nil
		g.remote = u.String()
		if header != "" {
			g.env = append(g.env, "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=http."+scope(g.remote)+".extraHeader", "GIT_CONFIG_VALUE_0=Authorization: "+header)
		}
	} else if u, err := gitutil.ParseURL(t.Remote); err == nil && u.Scheme == gitutil.SSHProtocol {
		sshOpts, sshUndo, err := g.ssh(ctx, t, auth)
		undo = append(undo, sshUndo...)
		if err != nil {
			done()
			return nil, nil, err
		}
		opts = append(opts, sshOpts...)
	}
	opts = append(opts, gitutil.WithExec(g.run))
	g.cli = gitutil.NewGitCLI(opts...)
	return g, done, nil
}

// httpHeader is the value of the header Authorization, or empty.
func httpHeader(t Tree, u *url.URL, auth Auth) (string, error) {
	id, value, err := auth.secret(t.SecretIDs()...)
	switch {
	case err != nil:
		return "", err
	case id != "" && t.AuthToken != "" && (id == t.AuthToken || id == t.AuthToken+"."+u.Host):
		return basic("x-access-token", strings.TrimSpace(string(value))), nil
	case id != "":
		return strings.TrimSpace(string(value)), nil
	}
	if u.User != nil {
		password, _ := u.User.Password()
		return basic(u.User.Username(), password), nil
	}
	return "", nil
}

func basic(user, password string) string {
	return "basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// scope is what a header is sent to: the repository, and for GitHub, whose
// submodules nearly always lie there too, all of it.
func scope(remote string) string {
	for _, prefix := range []string{"https://github.com/", "https://www.github.com/"} {
		if strings.HasPrefix(remote, prefix) {
			return prefix
		}
	}
	return remote
}

// ssh sets up the agent and the keys of servers.
func (g *git) ssh(ctx context.Context, t Tree, auth Auth) (opts []gitutil.Option, undo []func(), err error) {
	command := "ssh -F " + os.DevNull + " -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=15 -o ServerAliveCountMax=4"
	if t.KnownHosts == "" {
		command += " -o StrictHostKeyChecking=no -o UserKnownHostsFile=" + os.DevNull
	} else {
		dir, remove, err := scratch.New("known-hosts")
		if err != nil {
			return nil, nil, err
		}
		undo = append(undo, func() { _ = remove() })
		file := filepath.Join(dir, "known_hosts")
		if err := os.WriteFile(file, []byte(t.KnownHosts), 0o600); err != nil {
			return nil, undo, err
		}
		command += " -o UserKnownHostsFile=" + file
	}
	g.env = append(g.env, "GIT_SSH_COMMAND="+command)
	if auth.Agent == nil || t.SSH == "" {
		return nil, undo, nil
	}
	socket, done, err := auth.Agent(ctx, t.SSH)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, undo, fmt.Errorf("%s is fetched with the SSH agent or key %q, and the target has none; declare it: ssh = [%q]", Redact(t.Remote), t.SSH, t.SSH)
	}
	if err != nil {
		return nil, undo, err
	}
	undo = append(undo, done)
	return []gitutil.Option{gitutil.WithSSHAuthSock(socket)}, undo, nil
}

// run runs a command of gitutil's. Of variables that are there twice, the later
// one counts.
func (g *git) run(ctx context.Context, cmd *exec.Cmd) error {
	cmd.Env = append(cmd.Env, g.env...)
	return runGroup(ctx, cmd)
}

// do runs a git command and gives what it printed.
func (g *git) do(ctx context.Context, args ...string) (string, error) {
	out, err := g.cli.Run(ctx, args...)
	if err == nil {
		return string(out), nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return "", cause
	}
	return "", &CommandError{Command: "git " + args[0], Remote: Redact(g.remote), Output: stderrOf(err)}
}

// CommandError says that git failed, and what it said about it.
type CommandError struct{ Command, Remote, Output string }

func (e *CommandError) Error() string {
	return fmt.Sprintf("%s %s: %s", e.Command, e.Remote, e.Output)
}

// stderrOf is what git said, on one line.
func stderrOf(err error) string {
	_, text, ok := strings.Cut(err.Error(), "git stderr:\n")
	if !ok {
		return err.Error()
	}
	if i := strings.LastIndex(text, ": exit status"); i >= 0 {
		text = text[:i]
	}
	return strings.Join(strings.FieldsFunc(strings.TrimSpace(text), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// lookUp fills in a tree's ref and what it stands for. Of a branch and a tag with
// the same name the branch is meant, as for git checkout.
func (g *git) lookUp(ctx context.Context, t *Tree) error {
	if t.Ref == "" {
		out, err := g.do(ctx, "ls-remote", "--symref", "--", g.remote, "HEAD")
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			ref, what, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
			if ref, ok := strings.CutPrefix(ref, "ref: "); ok && what == "HEAD" && strings.HasPrefix(ref, "refs/heads/") {
				t.Ref = ref
				break
			}
		}
		if t.Ref == "" {
			return fmt.Errorf("%s has no default branch; name a branch, a tag or a commit", Redact(t.Remote))
		}
	}
	out, err := g.do(ctx, "ls-remote", "--", g.remote, t.Ref, t.Ref+"^{}")
	if err != nil {
		return err
	}
	refs := make(map[string]string)
	for line := range strings.Lines(out) {
		if hash, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); ok && gitutil.IsCommitSHA(hash) {
			refs[name] = hash
		}
	}
	for _, name := range []string{
		"refs/" + strings.TrimPrefix(t.Ref, "refs/"), "refs/heads/" + strings.TrimPrefix(t.Ref, "refs/heads/"),
		"refs/tags/" + strings.TrimPrefix(t.Ref, "refs/tags/"),
	} {
		hash, ok := refs[name]
		if !ok {
			continue
		}
		t.Ref, t.Object, t.Commit = name, hash, hash
		if peeled, ok := refs[name+"^{}"]; ok {
			t.Commit = peeled
		}
		return nil
	}
	return fmt.Errorf("%s has no branch or tag %q; of a commit the full hash is needed", Redact(t.Remote), t.Ref)
}

// repository gives the place of a bare repository that has a resolved tree's
// commit.
func (f *Fetcher) repository(ctx context.Context, t Tree, auth Auth) (string, error) {
	if err := t.check(); err != nil {
		return "", err
	}
	u, err := gitutil.ParseURL(t.Remote)
	if err != nil {
		return "", err
	}
	dir := f.path(reposName, nameOf(u.Scheme, u.Host, u.Path, t.Ref, t.Object))
	if info, err := os.Lstat(dir); err == nil && info.IsDir() {
		used(dir)
		return dir, nil
	} else if err == nil {
		if err := f.discard(dir); err != nil {
			return "", err
		}
	}
	if err := os.MkdirAll(f.path(reposName), 0o700); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(f.path(reposName), tmpPrefix)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	ctx, cancel := context.WithTimeoutCause(ctx, fetchTime, fmt.Errorf("%s: fetching takes too long", Redact(t.Remote)))
	defer cancel()
	g, done, err := newGit(ctx, t, auth)
	if err != nil {
		return "", err
	}
	defer done()
	g.cli = g.cli.New(gitutil.WithGitDir(tmp))
	if err := g.fetch(ctx, t); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, dir); err != nil {
		if _, err2 := os.Stat(dir); err2 != nil {
			return "", err
		} // else somebody else has fetched it at the same time
	}
	return dir, nil
}

// fetch makes a repository that has the commit, and if the server allows it
// nothing else.
func (g *git) fetch(ctx context.Context, t Tree) error {
	init := []string{"init", "--bare", "--quiet"}
	if len(t.Object) == 64 {
		init = append(init, "--object-format=sha256")
	}
	if _, err := g.do(ctx, init...); err != nil {
		return err
	}
	what := t.Ref
	if what == "" || t.FetchByCommit {
		what = t.Object
	}
	_, err := g.do(ctx, "fetch", "--quiet", "--depth=1", "--no-tags", "--", g.remote, what)
	if err != nil && what != t.Object || err == nil && !g.has(ctx, t.Object) {
		// The ref has moved on, or is gone, since it was looked up.
		_, err = g.do(ctx, "fetch", "--quiet", "--depth=1", "--no-tags", "--", g.remote, t.Object)
	}
	if !g.has(ctx, t.Object) && ctx.Err() == nil {
		// Not every server hands out any commit: it comes with the branches then.
		_, err = g.do(ctx, "fetch", "--quiet", "--tags", "--force", "--", g.remote, "+refs/heads/*:refs/remotes/origin/*")
	}
	if err != nil {
		return err
	}
	if !g.has(ctx, t.Object) {
		return fmt.Errorf("%s does not have the commit %s", Redact(t.Remote), t.Object)
	}
	if strings.HasPrefix(t.Ref, "refs/") {
		_, err = g.do(ctx, "update-ref", "--no-deref", t.Ref, t.Object)
	} else {
		_, err = g.do(ctx, "update-ref", "--no-deref", anonymousRef, t.Object)
	}
	return err
}

// anonymousRef is what a commit without a ref is fetched by.
const anonymousRef = "refs/zbuild/commit"

func (g *git) has(ctx context.Context, object string) bool {
	_, err := g.do(ctx, "cat-file", "-e", object+"^{commit}")
	return err == nil
}

// local makes git work on directories of this machine: the kept repository is
// fetched from, and nothing else of the kind.
func (g *git) local(opts ...gitutil.Option) *git {
	clone := &git{remote: g.remote, env: append(slices.Clone(g.env), "GIT_ALLOW_PROTOCOL=file", "GIT_CONFIG_COUNT=0")}
	clone.cli = g.cli.New(append(opts, gitutil.WithExec(clone.run))...)
	return clone
}
