//go:build linux

package buildkitd_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zbuild/zbuild/test/buildkitd"
	"github.com/zbuild/zbuild/test/registry"
)

// TestBuild builds with RUN on a base image of the registry, pushes the result,
// and looks whether anything is left when the daemon has stopped.
func TestBuild(t *testing.T) {
	ctx := t.Context()
	reg, err := registry.Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := reg.Close(); err != nil {
			t.Error(err)
		}
	}()
	busybox, err := registry.Busybox(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := reg.Push(ctx, "library/busybox:latest", busybox); err != nil {
		t.Fatal(err)
	}

	bin, err := filepath.Abs("../bin")
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: a socket's path is short.
	root, err := os.MkdirTemp("", "bk-") //nolint:usetesting // its names are long: see Options.Root
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(root)
	daemon, err := buildkitd.Start(ctx, buildkitd.Options{Bin: bin, Root: root, Mirror: reg.Addr()})
	if err != nil {
		t.Fatal(err)
	}
	build, err := daemon.Buildx(ctx, "build", "--progress=plain", "--output=type=image,push=true,name="+reg.Addr()+"/built:1", "-")
	if err != nil {
		t.Fatal(err)
	}
	build.Stdin = strings.NewReader("FROM busybox\nRUN echo hello > /greeting\nLABEL a=b\n")
	out, buildErr := build.CombinedOutput()
	if err := daemon.Stop(); err != nil {
		t.Fatal(err)
	}
	if buildErr != nil {
		t.Fatalf("%v\n%s", buildErr, out)
	}

	img, err := reg.Pull(ctx, "built:1")
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Config.Labels["a"] != "b" || len(config.RootFS.DiffIDs) != 2 {
		t.Errorf("labels %v, %d layers; want a=b and 2", config.Config.Labels, len(config.RootFS.DiffIDs))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), " "+root) {
		t.Error("a mount was left")
	}
}
