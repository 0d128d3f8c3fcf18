package remote

// What is taken out of a repository that was fetched: trees, single files, commits.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/util/gitutil"
)

// Checkout writes a resolved tree into an empty directory. Its files are rw for
// their owner and r for all others, x where git says so.
func (f *Fetcher) Checkout(ctx context.Context, t Tree, auth Auth, dest string) error {
	return f.inRepository(ctx, t, auth, func(bare string) error {
		// Of a try before this one there may be something.
		entries, err := os.ReadDir(dest)
		for _, e := range entries {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dest, e.Name())))
		}
		if err != nil {
			return err
		}
		return f.checkout(ctx, t, auth, bare, dest)
	})
}

// checkout writes a tree of a repository into an empty directory.
func (f *Fetcher) checkout(ctx context.Context, t Tree, auth Auth, bare, dest string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, fetchTime, fmt.Errorf("%s: checking out takes too long", Redact(t.Remote)))
	defer cancel()
	g, done, err := newGit(ctx, t, auth)
	if err != nil {
		return err
	}
	defer done()
	// Outside of dest, so that nothing of it is left there. Of a tree that keeps its
	// .git, that lies in it; of a part of a tree there is none, as with BuildKit.
	work := dest
	gitDir := filepath.Join(dest, ".git")
	subdir := strings.TrimPrefix(path.Clean("/"+t.Subdir), "/")
	keep := t.KeepGitDir && subdir == ""
	if !keep {
		tmp, err := os.MkdirTemp(f.path(reposName), tmpPrefix)
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		gitDir = filepath.Join(tmp, ".git")
		if subdir != "" {
			work = filepath.Join(tmp, "tree")
			if err := os.Mkdir(work, 0o755); err != nil {
				return err
			}
		}
	}
	if err := g.checkout(ctx, t, bare, gitDir, work, keep); err != nil {
		return err
	}
	if err := tidy(work, keep); err != nil {
		return err
	}
	if subdir != "" {
		if err := moveOut(work, subdir, dest); err != nil {
			return fmt.Errorf("%s: %w", Redact(t.Remote), err)
		}
	}
	if t.CommitTime {
		at, err := f.commitTime(ctx, g, bare, t)
		if err != nil {
			return err
		}
		return setTimes(dest, at)
	}
	return nil
}

func (g *git) checkout(ctx context.Context, t Tree, bare, gitDir, work string, keep bool) error {
	in := []gitutil.Option{gitutil.WithGitDir(gitDir), gitutil.WithWorkTree(work)}
	l := g.local(in...)
	init := []string{"init", "--quiet"}
	if len(t.Object) == 64 {
		init = append(init, "--object-format=sha256")
	}
	if _, err := l.do(ctx, init...); err != nil {
		return err
	}
	ref := t.Ref
	if !strings.HasPrefix(ref, "refs/") {
		ref = anonymousRef
	}
	from := "file://" + bare // not a path: git then copies no files that it has not looked at
	spec := ref
	if strings.HasPrefix(t.Ref, "refs/") {
		spec = "+" + ref + ":" + ref
	}
	if _, err := l.do(ctx, "fetch", "--quiet", "-u", "--depth=1", "--no-tags", "--", from, spec); err != nil {
		return err
	}
	if _, err := l.do(ctx, "checkout", "--quiet", "--force", "FETCH_HEAD"); err != nil {
		return err
	}
	// Submodules are relative to where the repository comes from.
	if _, err := l.do(ctx, "remote", "add", "origin", g.remote); err != nil {
		return err
	}
	if !t.SkipSubmodules {
		if _, err := os.Lstat(filepath.Join(work, ".gitmodules")); err == nil {
			sub := &git{remote: g.remote, env: g.env}
			sub.cli = g.cli.New(append(in, gitutil.WithExec(sub.run), gitutil.WithDir(work))...)
			if _, err := sub.do(ctx, "submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"); err != nil {
				return err
			}
		}
	}
	if !keep {
		return nil
	}
	_, err := l.do(ctx, "reflog", "expire", "--all", "--expire=now")
	return errors.Join(err, os.RemoveAll(filepath.Join(gitDir, "FETCH_HEAD")))
}

// tidy gives files the modes that they have under the usual umask, and takes away
// the pointers of submodules to a repository that will not be there.
func tidy(work string, keep bool) error {
	return filepath.WalkDir(work, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case p == filepath.Join(work, ".git"):
			return fs.SkipDir
		case d.IsDir():
			if p == work {
				return nil
			}
			return os.Chmod(p, 0o755)
		case d.Name() == ".git" && !keep:
			return os.Remove(p)
		case !d.Type().IsRegular():
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		return os.Chmod(p, mode)
	})
}

// moveOut moves what is in a directory of a tree to dest. The way there must have
// no links: they could lead anywhere.
func moveOut(tree, subdir, dest string) error {
	at := tree
	for _, name := range strings.Split(subdir, "/") {
		at = filepath.Join(at, name)
		info, err := os.Lstat(at)
		if err != nil {
			return fmt.Errorf("there is no directory %s", subdir)
		}
		if !info.IsDir() {
			return fmt.Errorf("%s is not a directory", strings.TrimPrefix(at, tree+string(filepath.Separator)))
		}
	}
	entries, err := os.ReadDir(at)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := move(filepath.Join(at, e.Name()), filepath.Join(dest, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fetcher) commitTime(ctx context.Context, g *git, bare string, t Tree) (time.Time, error) {
	out, err := g.local(gitutil.WithGitDir(bare)).do(ctx, "log", "-1", "--format=%ct", t.Object+"^{commit}")
	if err != nil {
		return time.Time{}, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	return time.Unix(n, 0), err
}

// CommitObject gives the commit of a resolved tree as git keeps it.
func (f *Fetcher) CommitObject(ctx context.Context, t Tree, auth Auth) ([]byte, error) {
	var out string
	err := f.fetched(ctx, t, auth, func(l *git) (err error) {
		out, err = l.do(ctx, "cat-file", "commit", t.Object+"^{commit}")
		return err
	})
	return []byte(out), err
}

// fetched calls use with git in the repository that has a resolved tree, without the
// network.
func (f *Fetcher) fetched(ctx context.Context, t Tree, auth Auth, use func(*git) error) error {
	return f.inRepository(ctx, t, auth, func(bare string) error {
		g, done, err := newGit(ctx, t, auth)
		if err != nil {
			return err
		}
		defer done()
		return use(g.local(gitutil.WithGitDir(bare)))
	})
}

// inRepository calls use with the repository that has a resolved tree. If git cannot use
// it because it is damaged, or gone meanwhile, it is fetched anew.
func (f *Fetcher) inRepository(ctx context.Context, t Tree, auth Auth, use func(bare string) error) error {
	bare, err := f.repository(ctx, t, auth)
	if err != nil {
		return err
	}
	err = use(bare)
	var failed *CommandError
	if !errors.As(err, &failed) || ctx.Err() != nil {
		return err
	}
	if sound, err2 := f.isSound(ctx, t, auth, bare); sound || err2 != nil {
		return err
	}
	if err2 := f.discard(bare); err2 != nil {
		return errors.Join(err, err2)
	}
	if bare, err = f.repository(ctx, t, auth); err != nil {
		return err
	}
	return use(bare)
}

// isSound reports whether a repository has all of a tree.
func (f *Fetcher) isSound(ctx context.Context, t Tree, auth Auth, bare string) (bool, error) {
	g, done, err := newGit(ctx, t, auth)
	if err != nil {
		return false, err
	}
	defer done()
	l := g.local(gitutil.WithGitDir(bare))
	if !l.has(ctx, t.Object) {
		return false, context.Cause(ctx)
	}
	_, err = l.do(ctx, "fsck", "--no-dangling", "--no-progress")
	return err == nil, context.Cause(ctx)
}

// discard removes what is kept under a name, at once: nobody finds half of it.
func (f *Fetcher) discard(name string) error {
	tmp, err := os.MkdirTemp(filepath.Dir(name), tmpPrefix)
	if err != nil {
		return err
	}
	if err = os.Rename(name, filepath.Join(tmp, filepath.Base(name))); errors.Is(err, fs.ErrNotExist) {
		err = nil // somebody else has done it
	}
	return errors.Join(err, os.RemoveAll(tmp))
}

// maxRead is the size of the largest file that ReadFile reads, in bytes.
const maxRead = 16 << 20

// ReadFile reads a file of a resolved tree, following links inside of it. The
// error is fs.ErrNotExist if it is not there.
func (f *Fetcher) ReadFile(ctx context.Context, t Tree, auth Auth, name string) ([]byte, error) {
	object := t.Object + ":" + strings.TrimPrefix(path.Join("/", t.Subdir, name), "/")
	if strings.ContainsAny(object, "\n\r") {
		return nil, fs.ErrNotExist
	}
	var data []byte
	err := f.fetched(ctx, t, auth, func(l *git) (err error) {
		data, err = l.readObject(ctx, object, name)
		return err
	})
	return data, err
}

// readObject reads a file that git knows as an object, following links inside of its tree.
func (g *git) readObject(ctx context.Context, object, name string) ([]byte, error) {
	ask := func(how string) (string, error) {
		clone := &git{remote: g.remote, env: g.env}
		clone.cli = g.cli.New(gitutil.WithExec(func(ctx context.Context, cmd *exec.Cmd) error {
			cmd.Stdin = strings.NewReader(object + "\n")
			return clone.run(ctx, cmd)
		}))
		return clone.do(ctx, "cat-file", "--follow-symlinks", how)
	}
	head, err := ask("--batch-check")
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(head)
	if len(fields) != 3 || fields[1] != "blob" {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	if n, err := strconv.ParseInt(fields[2], 10, 64); err != nil || n > maxRead {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("is larger than %d MB", maxRead>>20)}
	}
	out, err := ask("--batch")
	if err != nil {
		return nil, err
	}
	_, body, _ := bytes.Cut([]byte(out), []byte("\n"))
	return io.ReadAll(bytes.NewReader(bytes.TrimSuffix(body, []byte("\n"))))
}
