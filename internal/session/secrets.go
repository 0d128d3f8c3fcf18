package session

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/sshagent"
)

// secret reads the value of a secret.
func (s *Session) secret(secret config.Secret) ([]byte, error) {
	if secret.Path != "" {
		return readSecret(secret.Path)
	}
	if lookup := s.opt.Load.LookupEnv; lookup != nil {
		if value, ok := lookup(secret.Env); ok {
			return []byte(value), nil
		}
	}
	return nil, fmt.Errorf("environment variable %s is not set: %w", secret.Env, fs.ErrNotExist)
}

// maxSecret is how many bytes a secret may have, as with BuildKit.
const maxSecret = 500 << 10

// readSecret reads a secret's file, which may be a pipe.
func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	value, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, err
	}
	if len(value) > maxSecret {
		return nil, fmt.Errorf("%s is longer than the %d bytes that a secret may have", path, maxSecret)
	}
	return value, nil
}

// agent makes an SSH agent of what a target declares. Without paths it is that of
// whoever started the build.
func (s *Session) agent(ssh config.SSH) (*sshagent.Agent, error) {
	if len(ssh.Paths) > 0 {
		return sshagent.New(ssh.Paths...)
	}
	if lookup := s.opt.Load.LookupEnv; lookup != nil {
		if socket, ok := lookup("SSH_AUTH_SOCK"); ok && socket != "" {
			return sshagent.New(socket)
		}
	}
	return nil, fmt.Errorf("no SSH agent is running (SSH_AUTH_SOCK is not set); start one, or name a key: ssh = [\"%s=PATH\"]", ssh.ID)
}

// agentSocket serves an SSH agent while the project is planned.
func (s *Session) agentSocket(ctx context.Context, ssh config.SSH) (socket string, done func(), err error) {
	a, err := s.agent(ssh)
	if err != nil {
		return "", nil, err
	}
	socket, stop, err := a.Serve(ctx)
	if err != nil {
		return "", nil, fmt.Errorf("serving the SSH agent %q: %w", ssh.ID, err)
	}
	return socket, func() { _ = stop() }, nil // the next start removes what stays
}
