package session

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zbuild/zbuild/config"
)

// TestSecretTooLong names files that are no secrets by mistake.
func TestSecretTooLong(t *testing.T) {
	s := New(Options{})
	name := filepath.Join(t.TempDir(), "secret")
	for size, ok := range map[int]bool{0: true, maxSecret: true, maxSecret + 1: false} {
		if err := os.WriteFile(name, bytes.Repeat([]byte("x"), size), 0o600); err != nil {
			t.Fatal(err)
		}
		value, err := s.secret(config.Secret{Path: name})
		if (err == nil) != ok || ok && len(value) != size {
			t.Errorf("of %d bytes: %d, %v", size, len(value), err)
		}
	}
	if _, err := s.secret(config.Secret{Path: "/dev/zero"}); err == nil || !strings.Contains(err.Error(), "/dev/zero is longer") {
		t.Errorf("without end: %v", err)
	}
}
