package sshagent_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/zbuild/zbuild/internal/sshagent"
)

// newKey writes a private key and gives its path.
func newKey(t *testing.T, passphrase string) (path string, public ssh.PublicKey) {
	t.Helper()
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(private, "test")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "test", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	public, err = ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return path, public
}

// dial serves an agent and connects to it.
func dial(t *testing.T, a *sshagent.Agent) (client agent.ExtendedAgent, socket string) {
	t.Helper()
	socket, stop, err := a.Serve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(socket); err == nil {
			t.Errorf("%s is left", socket)
		}
	})
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return agent.NewClient(conn), socket
}

func TestAgent(t *testing.T) {
	path, public := newKey(t, "")
	keys, err := sshagent.New(path)
	if err != nil {
		t.Fatal(err)
	}
	_, socket := dial(t, keys)
	forwarded, err := sshagent.New(socket)
	if err != nil {
		t.Fatal(err)
	}
	for name, a := range map[string]*sshagent.Agent{"keys": keys, "forwarded": forwarded} {
		client, _ := dial(t, a)
		list, err := client.List()
		if err != nil || len(list) != 1 || string(list[0].Blob) != string(public.Marshal()) {
			t.Fatalf("%s: keys %v, %v", name, list, err)
		}
		sig, err := client.Sign(public, []byte("data"))
		if err != nil || public.Verify([]byte("data"), sig) != nil {
			t.Errorf("%s: the signature is wrong: %v", name, err)
		}
		if err := client.RemoveAll(); err == nil {
			t.Errorf("%s: the agent can be emptied", name)
		}
		_, other, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Add(agent.AddedKey{PrivateKey: &other}); err == nil {
			t.Errorf("%s: keys can be added", name)
		}
		if list, err := client.List(); err != nil || len(list) != 1 {
			t.Errorf("%s: keys %v, %v", name, list, err)
		}
	}
}

func TestProblems(t *testing.T) {
	locked, _ := newKey(t, "hush")
	rubbish := filepath.Join(t.TempDir(), "rubbish")
	if err := os.WriteFile(rubbish, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	key, _ := newKey(t, "")
	a, err := sshagent.New(key)
	if err != nil {
		t.Fatal(err)
	}
	_, socket := dial(t, a)
	for _, tt := range []struct {
		paths []string
		want  string
	}{
		{nil, "neither"},
		{[]string{locked}, "passphrase"},
		{[]string{rubbish}, "no private key"},
		{[]string{t.TempDir()}, "neither a private key"},
		{[]string{filepath.Join(t.TempDir(), "none")}, "no such file"},
		{[]string{key, socket}, "cannot be mixed"},
	} {
		if _, err := sshagent.New(tt.paths...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: error %v, want %s", tt.paths, err, tt.want)
		}
	}
}
