//go:build linux

package buildah

// What comes from elsewhere was pinned when the plan was made; here it is put into
// a layer of its own, which whoever copies from it reads like any other.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/zbuild/zbuild/internal/remote"
	"github.com/zbuild/zbuild/runner"
)

// Fetcher fetches what steps take from URLs and git repositories, and keeps it as
// long as the store lives.
func (e *Engine) Fetcher() *remote.Fetcher {
	return &remote.Fetcher{Dir: filepath.Join(e.StateDir(), fetchedName)}
}

// fetchedName is the directory below StateDir that Fetcher keeps things in.
const fetchedName = "fetched"

// Fetched lists what Fetcher keeps.
func (e *Engine) Fetched(context.Context) ([]runner.Fetched, error) {
	kept, err := e.Fetcher().Kept()
	if err != nil {
		return nil, fmt.Errorf("looking at what was fetched: %w", err)
	}
	out := make([]runner.Fetched, 0, len(kept))
	for _, k := range kept {
		k.LastUsed = used(filepath.Join(e.StateDir(), fetchedName, k.Name), k.LastUsed)
		out = append(out, runner.Fetched(k))
	}
	return out, nil
}

// DiscardFetched gives up something of that, unless it was used since it was listed. Who is
// just about to use it fetches it again.
func (e *Engine) DiscardFetched(_ context.Context, f runner.Fetched) (removed bool, err error) {
	info, err := os.Lstat(filepath.Join(e.StateDir(), fetchedName, f.Name))
	if err != nil || !info.ModTime().Equal(f.LastUsed) {
		return false, nil //nolint:nilerr // it has gone meanwhile
	}
	if err := e.Fetcher().Discard(f.Name); err != nil {
		return false, fmt.Errorf("removing what was fetched: %w", err)
	}
	return true, nil
}

func (e *Engine) doRemote(ctx context.Context, job runner.Job) (out []runner.Snapshot, err error) {
	layer, err := e.newLayer("")
	if err != nil {
		return nil, err
	}
	defer layer.drop() // does nothing to one that was frozen
	auth := remote.Auth{Secret: job.Secret, Agent: e.agentSocket(job)}
	if f := job.Step.File; f != nil {
		err = e.download(ctx, *f, auth, layer.root)
	} else {
		err = e.Fetcher().Checkout(ctx, *job.Step.Tree, auth, layer.root)
	}
	if err != nil {
		return nil, hideRoots(err, layer.root)
	}
	s, err := layer.freeze()
	return []runner.Snapshot{s}, err
}

// download writes a file into a tree. The name is one element of a path: see
// remote.Fetcher.Resolve.
func (e *Engine) download(ctx context.Context, f remote.File, auth remote.Auth, root string) error {
	from, modified, err := e.Fetcher().Open(ctx, f, auth)
	if err != nil {
		return err
	}
	defer from.Close()
	name := filepath.Join(root, filepath.Base(f.Name))
	to, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	if err = errors.Join(err, to.Chown(f.UID, f.GID), to.Chmod(fs.FileMode(f.Mode).Perm()), to.Close()); err != nil {
		return err
	}
	if modified.IsZero() {
		modified = time.Unix(0, 0) // as BuildKit has it where the server says nothing
	}
	return os.Chtimes(name, modified, modified)
}

// agentSocket serves the job's SSH agents on sockets of this process's own.
func (e *Engine) agentSocket(job runner.Job) func(context.Context, string) (string, func(), error) {
	return func(ctx context.Context, id string) (string, func(), error) {
		if job.Agent == nil {
			return "", nil, fs.ErrNotExist
		}
		agent, err := job.Agent(id)
		if err != nil {
			return "", nil, err
		}
		socket, stop, err := agent.Serve(ctx)
		if err != nil {
			return "", nil, fmt.Errorf("serving the SSH agent %q: %w", id, err)
		}
		return socket, func() { _ = stop() }, nil // the next start removes what stays
	}
}
