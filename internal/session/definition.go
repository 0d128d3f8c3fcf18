package session

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	"github.com/moby/buildkit/util/archiveutil"
	"github.com/moby/buildkit/util/gitutil"
	"github.com/moby/go-archive/compression"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/remote"
	"github.com/zbuild/zbuild/internal/scratch"
)

// maxDefinition is the size of the largest build file that is taken from
// elsewhere, in bytes; it is bake's.
const maxDefinition = 2 << 20

// readRemote reads build files from behind a URL: a git repository, an archive or
// a single file. What is fetched is not kept: contexts are fetched by the engine.
func (s *Session) readRemote(ctx context.Context, address string, names []string) (files []config.RemoteFile, kind config.RemoteKind, err error) {
	dir, remove, err := scratch.New("definition")
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, remove()) }()
	f := &remote.Fetcher{Dir: dir}
	if ref, ok, err := dfgitutil.ParseGitRef(address); ok {
		if err != nil {
			return nil, "", err
		}
		files, err := s.readRepository(ctx, f, ref, names)
		return files, config.RemoteGit, err
	}
	return s.readURL(ctx, f, address, names)
}

func (s *Session) readRepository(ctx context.Context, f *remote.Fetcher, ref *dfgitutil.GitRef, names []string) ([]config.RemoteFile, error) {
	tree := remote.Tree{
		Remote: ref.Remote, Ref: ref.Ref, Subdir: ref.SubDir, Checksum: ref.Checksum, FetchByCommit: ref.FetchByCommit,
		SkipSubmodules: true, AuthHeader: "GIT_AUTH_HEADER", AuthToken: "GIT_AUTH_TOKEN",
	}
	if u, err := gitutil.ParseURL(ref.Remote); err == nil && u.Scheme == gitutil.SSHProtocol {
		tree.SSH = "default"
	}
	auth := remote.Auth{Secret: s.definitionSecret, Agent: s.definitionAgent}
	resolved, err := f.ResolveTree(ctx, tree, auth)
	if err != nil {
		return nil, err
	}
	var files []config.RemoteFile
	for _, name := range names {
		text, err := f.ReadFile(ctx, *resolved, auth, path.Clean(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		files = append(files, config.RemoteFile{Name: name, Text: text})
	}
	return files, nil
}

// definitionSecret gives the tokens that bake has environment variables for.
func (s *Session) definitionSecret(id string) ([]byte, error) {
	name, _, _ := strings.Cut(id, ".")
	if lookup := s.opt.Load.LookupEnv; lookup != nil && strings.HasPrefix(name, "GIT_AUTH_") {
		if value, ok := lookup("BUILDX_BAKE_" + name); ok {
			return []byte(value), nil
		}
	}
	return nil, fs.ErrNotExist
}

// definitionAgent opens the agent of whoever starts the build, or the keys that
// BUILDX_BAKE_GIT_SSH names.
func (s *Session) definitionAgent(ctx context.Context, id string) (socket string, done func(), err error) {
	ssh := config.SSH{ID: id}
	if lookup := s.opt.Load.LookupEnv; lookup != nil {
		if value, _ := lookup("BUILDX_BAKE_GIT_SSH"); value != "" {
			ssh.Paths = strings.Split(value, ",")
		}
	}
	return s.agentSocket(ctx, ssh)
}

func (s *Session) readURL(ctx context.Context, f *remote.Fetcher, address string, names []string) ([]config.RemoteFile, config.RemoteKind, error) {
	auth := remote.Auth{Secret: s.definitionSecret}
	file, err := f.Resolve(ctx, remote.File{URL: address}, auth)
	if err != nil {
		return nil, "", err
	}
	r, _, err := f.Open(ctx, *file, auth)
	if err != nil {
		return nil, "", err
	}
	defer r.Close()
	start := make([]byte, 1024)
	n, err := io.ReadFull(r, start)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, "", err
	}
	all := io.MultiReader(bytes.NewReader(start[:n]), r)
	if archiveutil.IsArchive(start[:n]) {
		files, err := readArchive(all, names)
		return files, config.RemoteArchive, err
	}
	text, err := readDefinition(all)
	if err != nil {
		return nil, "", err
	}
	return []config.RemoteFile{{Name: address, Text: text}}, config.RemoteSingle, nil
}

func readDefinition(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxDefinition+1))
	if err == nil && len(text) > maxDefinition {
		err = errors.New("it is larger than 2 MB, and a build file behind a URL that large is not read")
	}
	return text, err
}

// readArchive takes some files out of an archive. Nothing is written.
func readArchive(r io.Reader, names []string) ([]config.RemoteFile, error) {
	plain, err := compression.DecompressStream(r)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	wanted := map[string]string{}
	for _, name := range names {
		wanted[path.Clean(name)] = name
	}
	found := map[string][]byte{}
	const most = 1_000_000
	archive := tar.NewReader(plain)
	for range most {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		name, ok := wanted[path.Clean(header.Name)]
		if !ok || header.Typeflag != tar.TypeReg {
			continue
		}
		if found[name], err = readDefinition(archive); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	var files []config.RemoteFile
	for _, name := range names {
		if text, ok := found[name]; ok {
			files = append(files, config.RemoteFile{Name: name, Text: text})
		}
	}
	return files, nil
}
