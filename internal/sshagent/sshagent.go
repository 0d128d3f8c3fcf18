// Package sshagent lets a step use the keys of whoever started the build: those of
// an SSH agent, or private keys from files. A step may ask for signatures; it gets
// no key, and changes nothing in the agent.
//
// See draft-ietf-sshm-ssh-agent for the protocol, and RUN --mount=type=ssh in the
// Dockerfile reference for what it is good for.
package sshagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/zbuild/zbuild/internal/scratch"
)

// Agent is an agent to forward, or a set of keys. It has no connections of its
// own: each of its listeners' does.
type Agent struct {
	socket string
	keys   agent.Agent // nil for a socket
}

// maxKey is the size of the largest file that is taken for a key, in bytes.
const maxKey = 100 << 10

// New makes an agent of the socket of one, or of files with private keys.
func New(paths ...string) (*Agent, error) {
	keys := agent.NewKeyring()
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			return nil, err
		}
		if info.Mode()&fs.ModeSocket != 0 {
			if len(paths) > 1 {
				return nil, fmt.Errorf("%s is the socket of an agent, which cannot be mixed with others or with keys", p)
			}
			return &Agent{socket: p}, nil
		}
		key, err := readKey(p, info)
		if err != nil {
			return nil, err
		}
		if err := keys.Add(agent.AddedKey{PrivateKey: key}); err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
	}
	if len(paths) == 0 {
		return nil, errors.New("neither an agent nor a key was named")
	}
	return &Agent{keys: keys}, nil
}

// readKey reads a private key. No error shows anything of it.
func readKey(p string, info fs.FileInfo) (any, error) {
	if !info.Mode().IsRegular() || info.Size() > maxKey {
		return nil, fmt.Errorf("%s is neither a private key nor the socket of an agent", p)
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxKey))
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParseRawPrivateKey(raw)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return nil, fmt.Errorf("the private key %s has a passphrase; add it to an agent (ssh-add %s) and use that", p, p)
	case err != nil:
		return nil, fmt.Errorf("%s is no private key that can be read", p)
	}
	return key, nil
}

// listen serves the agent on a Unix socket, which must not exist, until stop is
// called.
func (a *Agent) listen(ctx context.Context, socket string) (stop func(), err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { a.serve(ctx, conn) })
		}
	})
	return func() {
		cancel()
		_ = l.Close()
		wg.Wait()
	}, nil
}

// Serve serves the agent on a Unix socket until stop is called. The socket is in a
// directory of its own, for its path must be short; an error of stop says that the
// directory stays.
func (a *Agent) Serve(ctx context.Context) (socket string, stop func() error, err error) {
	dir, remove, err := scratch.New("ssh")
	if err != nil {
		return "", nil, err
	}
	socket = filepath.Join(dir, "agent")
	end, err := a.listen(ctx, socket)
	if err != nil {
		return "", nil, errors.Join(err, remove())
	}
	return socket, func() error { end(); return remove() }, nil
}

// serve answers one connection until it is closed or the context is canceled.
func (a *Agent) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close() //nolint:errcheck // both sides may close it
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	backend := a.keys
	if a.socket != "" {
		up, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", a.socket)
		if err != nil {
			return // the other side sees an agent that hangs up
		}
		defer up.Close() //nolint:errcheck // both sides may close it
		defer context.AfterFunc(ctx, func() { _ = up.Close() })()
		backend = agent.NewClient(up)
	}
	_ = agent.ServeAgent(&signer{backend}, conn) // ends with the connection
}

var errReadOnly = errors.New("a build may use the keys of the agent, and change nothing in it")

// signer is an agent that only lists keys and signs.
type signer struct{ agent agent.Agent }

var _ agent.ExtendedAgent = (*signer)(nil)

// List lists the public keys.
func (s *signer) List() ([]*agent.Key, error) { return s.agent.List() }

// Sign signs data with a key.
func (s *signer) Sign(key ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	return s.agent.Sign(key, data)
}

// SignWithFlags signs data in the way that the flags ask for.
func (s *signer) SignWithFlags(key ssh.PublicKey, data []byte, flags agent.SignatureFlags) (*ssh.Signature, error) {
	if extended, ok := s.agent.(agent.ExtendedAgent); ok {
		return extended.SignWithFlags(key, data, flags)
	}
	return s.agent.Sign(key, data)
}

// Signers gives no keys away.
func (s *signer) Signers() ([]ssh.Signer, error) { return nil, errReadOnly }

// Add refuses.
func (s *signer) Add(agent.AddedKey) error { return errReadOnly }

// Remove refuses.
func (s *signer) Remove(ssh.PublicKey) error { return errReadOnly }

// RemoveAll refuses.
func (s *signer) RemoveAll() error { return errReadOnly }

// Lock refuses.
func (s *signer) Lock([]byte) error { return errReadOnly }

// Unlock refuses.
func (s *signer) Unlock([]byte) error { return errReadOnly }

// Extension refuses.
func (s *signer) Extension(string, []byte) ([]byte, error) { return nil, agent.ErrExtensionUnsupported }
