package config

import (
	"context"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/buildx/util/buildflags"
	"github.com/docker/buildx/util/urlutil"
	"github.com/hashicorp/hcl/v2"
)

// RemoteKind says what is behind the URL of a remote definition.
type RemoteKind string

// The kinds of remote definitions.
const (
	RemoteGit     RemoteKind = "git"     // a repository: contexts are in it
	RemoteArchive RemoteKind = "archive" // an archive: contexts are in it
	RemoteSingle  RemoteKind = "file"    // one build file; contexts are local
)

// RemoteFile is a build file of a remote definition.
type RemoteFile struct {
	Name string
	Text []byte
}

// ReadRemote reads build files from behind a URL. Of the names that are asked for
// it gives those that are there, in their order; a URL of one file is that file,
// whatever is asked for.
type ReadRemote func(ctx context.Context, address string, names []string) ([]RemoteFile, RemoteKind, error)

// remoteDefinition is where the project comes from, if that is a URL.
type remoteDefinition struct {
	url  string
	kind RemoteKind
}

// remoteArguments takes the URL of a remote definition, and that of the command's
// context, from the front of the targets.
func (l *loader) remoteArguments() (address string) {
	l.commandContext = cwdPrefix
	targets := l.req.Targets
	if len(targets) == 0 || !urlutil.IsRemoteURL(targets[0]) {
		return ""
	}
	address, targets = targets[0], targets[1:]
	if len(targets) > 0 && urlutil.IsRemoteURL(targets[0]) {
		l.commandContext, targets = targets[0], targets[1:]
	}
	l.req.Targets = targets
	return address
}

// findRemote reads build files from behind a URL; those that are named with
// cwd:// come from here.
func (l *loader) findRemote(ctx context.Context, address string, files []string) {
	if l.req.ReadRemote == nil {
		l.errorf(nil, "Cannot read the remote build files", "%s: there is nothing here that fetches.", redact(address))
		return
	}
	var remote, local []string
	for _, name := range files {
		if after, ok := strings.CutPrefix(name, cwdPrefix); ok {
			local = append(local, after)
		} else {
			remote = append(remote, name)
		}
	}
	names := remote
	if len(remote) == 0 {
		names = slices.Concat(ourNames, bakeNames)
	}
	found, kind, err := l.req.ReadRemote(ctx, address, names)
	if err != nil {
		l.errorf(nil, "Cannot read the remote build files", "%s: %v.", redact(address), err)
		return
	}
	l.remote = &remoteDefinition{url: address, kind: kind}
	l.addRemote(found, remote)
	for _, name := range local {
		l.readNamed(ctx, name)
	}
	if len(l.sources) == 0 && !l.diags.HasErrors() {
		l.errorf(nil, "No build file found", "There is no build file behind %s. Name one with --file.", redact(address))
	}
}

func (l *loader) addRemote(found []RemoteFile, asked []string) {
	if l.remote.kind != RemoteSingle {
		for _, name := range asked {
			if !slices.ContainsFunc(found, func(f RemoteFile) bool { return f.Name == name }) {
				l.errorf(nil, "Cannot read the build file", "%s: there is no such file behind %s.", name, redact(l.remote.url))
			}
		}
		if len(asked) == 0 && slices.ContainsFunc(found, func(f RemoteFile) bool { return slices.Contains(ourNames, f.Name) }) {
			found = slices.DeleteFunc(found, func(f RemoteFile) bool { return !slices.Contains(ourNames, f.Name) })
		}
	}
	for _, f := range found {
		if len(f.Text) > maxFileSize {
			l.errorf(nil, "Cannot read the build file", "%s: %v.", f.Name, errTooLarge)
			continue
		}
		name := redact(f.Name)
		s := &source{name: name, base: l.req.Dir, ours: isOurs(name), text: f.Text}
		if l.fileRelative && l.remote.kind != RemoteSingle {
			s.base = filepath.Join(l.req.Dir, filepath.Dir(filepath.FromSlash(f.Name)))
		}
		l.add(s)
	}
}

// inRemote reports whether contexts are those of the remote definition, and not
// directories of this machine.
func (l *loader) inRemote() bool { return l.remote != nil && l.remote.kind != RemoteSingle }

// remoteMain is the main context that is meant by what is written, in a remote
// definition: shown is how bake prints it. It is not ok for what means the same
// everywhere.
func (r *resolver) remoteMain(written string) (c Context, shown string, ok bool) {
	if !r.inRemote() || strings.HasPrefix(written, cwdPrefix) || urlutil.IsRemoteURL(written) {
		return Context{}, "", false
	}
	c, shown = r.remoteContext(path.Clean(written))
	return c, shown, true
}

// remoteNamed is the same for a named context.
func (r *resolver) remoteNamed(written string, at *hcl.Range) (c Context, ok bool) {
	if !r.inRemote() || !isPath(written) {
		return Context{}, false
	}
	if r.remote.kind == RemoteArchive && !r.req.EvaluateOnly {
		r.errorf(at, "A directory of an archive is not available as a named context yet",
			"The build files come from an archive. This release can have its directory %q as the main context, but not as a named one: copy from the main context instead, or take the build files from a git repository.", written)
	}
	c, _ = r.remoteContext(written)
	return c, true
}

func (r *resolver) remoteContext(dir string) (c Context, shown string) {
	if r.remote.kind == RemoteArchive {
		// bake has no URL for what it unpacked, and so it prints none.
		return Context{Kind: ContextHTTP, Value: r.remote.url, Subdir: strings.TrimPrefix(path.Clean("/"+dir), "/"), Raw: dir}, ""
	}
	address := withSubdir(r.remote.url, dir)
	return Context{Kind: ContextGit, Value: address, Raw: dir}, address
}

// withSubdir is the address of a directory of a git repository, below the one
// that the address names already: in its fragment, ref:dir, or its query.
func withSubdir(address, dir string) string {
	dir = path.Clean(dir)
	if dir == "." {
		return address
	}
	base, fragment, hasFragment := strings.Cut(address, "#")
	ref, inner, _ := strings.Cut(fragment, ":")
	u, err := url.Parse(address)
	if err == nil && !hasFragment {
		if q := u.Query(); q.Has("subdir") {
			q.Set("subdir", path.Join(q.Get("subdir"), dir))
			u.RawQuery = q.Encode()
			return u.String()
		}
	}
	return base + "#" + ref + ":" + path.Join(inner, dir)
}

// checkRemoteDockerfile refuses a Dockerfile that is meant to be remote, while its
// context is local: the two cannot be told apart, and bake refuses it too.
func (r *resolver) checkRemoteDockerfile(t *wireTarget, written string) {
	dockerfile := *t.Dockerfile
	after, cwd := strings.CutPrefix(written, cwdPrefix)
	if !r.inRemote() || r.remote.kind != RemoteGit || !cwd || strings.HasPrefix(dockerfile, cwdPrefix) || urlutil.IsRemoteURL(dockerfile) {
		return
	}
	if _, err := os.Stat(filepath.Join(r.abs(after), filepath.FromSlash(dockerfile))); !errors.Is(err, fs.ErrNotExist) {
		r.errorf(t.where("dockerfile"), "Invalid dockerfile",
			"The build files are remote and the context is local: write %q for the Dockerfile that is here.", cwdPrefix+dockerfile)
	}
}

// addRemoteCredentials gives a target what the repository that the definition
// comes from was read with: tokens, for a context at the same host, and an agent.
func (r *resolver) addRemoteCredentials(b *Target) {
	if b.Context.Kind != ContextGit {
		return
	}
	fromGit := r.remote != nil && r.remote.kind == RemoteGit
	if len(b.SSH) == 0 && (buildflags.IsGitSSH(b.Context.Value) || fromGit && buildflags.IsGitSSH(r.remote.url)) {
		b.SSH = map[string]SSH{"default": {ID: "default"}}
	}
	if !fromGit {
		return
	}
	own, err := url.Parse(r.remote.url)
	context, err2 := url.Parse(b.Context.Value)
	if err != nil || err2 != nil || own.Host == "" || !strings.EqualFold(own.Host, context.Host) {
		return
	}
	for id, name := range map[string]string{"GIT_AUTH_TOKEN": "BUILDX_BAKE_GIT_AUTH_TOKEN", "GIT_AUTH_HEADER": "BUILDX_BAKE_GIT_AUTH_HEADER"} {
		id += "." + own.Host
		if _, declared := b.Secrets[id]; declared {
			continue
		}
		if _, set := r.req.LookupEnv(name); set {
			b.Secrets[id] = Secret{ID: id, Env: name}
		}
	}
}

// redact takes the password out of a URL.
func redact(address string) string {
	if u, err := url.Parse(address); err == nil && u.User != nil {
		return u.Redacted()
	}
	return address
}
