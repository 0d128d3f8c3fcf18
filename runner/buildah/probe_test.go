//go:build linux

package buildah

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestProbePodman: podman, asked for its driver, would note it in a database that it goes
// by from then on. Where it has none, that it is asked must not make one; where it has
// one, storage.conf alone mends nothing.
func TestProbePodman(t *testing.T) {
	bin, root := t.TempDir(), t.TempDir()
	asked := filepath.Join(bin, "asked")
	for name, script := range map[string]string{
		"podman":  "#!/bin/sh\necho \"$@\" > " + asked + "\necho vfs\n",
		"buildah": "#!/bin/sh\necho overlay\n",
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	check := func(remembers bool) {
		t.Helper()
		c := probePeers(t.Context(), Options{}, "overlay", root)
		if c.Status != StatusWarn || c.Value != "podman uses vfs" {
			t.Errorf("%+v", c)
		}
		args, err := os.ReadFile(asked)
		if err != nil {
			t.Fatal(err)
		}
		if elsewhere := strings.Contains(string(args), "--root "); elsewhere == remembers || strings.Contains(string(args), root) {
			t.Errorf("asked with %s", args)
		}
		if strings.Contains(c.Fix, "podman system reset") != remembers || !strings.Contains(c.Fix, `driver = "overlay"`) {
			t.Errorf("fix: %s", c.Fix)
		}
	}
	check(false)
	if err := os.Mkdir(filepath.Join(root, "libpod"), 0o700); err != nil {
		t.Fatal(err)
	}
	check(true)
}
