package pack

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// stuckReader says that it has come to its end and never does.
type stuckReader struct{}

// Read is for io.Reader.
func (stuckReader) Read([]byte) (int, error) {
	fmt.Println("half")
	select {}
}

// TestLayoutKilled kills a process in the middle of a blob that it writes to a layout.
// Nothing is left of that.
func TestLayoutKilled(t *testing.T) {
	const variable = "ZBUILD_TEST_LAYOUT"
	if dir := os.Getenv(variable); dir != "" {
		half := bytes.Repeat([]byte("x"), 1<<20)
		blob := Blob{
			Descriptor: ocispecs.Descriptor{Digest: digest.FromString("whatever"), Size: 2 << 20},
			stream: func(context.Context) (io.ReadCloser, error) {
				return io.NopCloser(io.MultiReader(bytes.NewReader(half), stuckReader{})), nil
			},
		}
		t.Fatal((&Bundle{Blobs: []Blob{blob}}).WriteTagged(context.Background(), dir, "x"))
	}
	dir := t.TempDir()
	if f, _, err := createUnnamed(dir); err != nil {
		t.Skipf("this file system has no files without a name: %v", err)
	} else {
		f.Close()
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestLayoutKilled$")
	cmd.Env = append(os.Environ(), variable+"="+dir)
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err != nil || strings.TrimSpace(line) != "half" {
		t.Fatalf("%q, %v", line, err)
	}
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != cacheLock {
			t.Errorf("there is %s", name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestLayoutShortBlob has a layout with a blob that is shorter than it should be, as a
// loss of power may leave it. It is written again.
func TestLayoutShortBlob(t *testing.T) {
	dir := t.TempDir()
	b, err := Build(t.Context(), newCompressor(t, t.TempDir()), []*Image{testImage(t, "amd64")}, Options{How: How{Level: -1}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"first", "again"} {
		if err := b.WriteTagged(t.Context(), dir, tag); err != nil {
			t.Fatal(err)
		}
		for _, blob := range b.Blobs {
			name := filepath.Join(dir, "blobs", "sha256", blob.Digest.Encoded())
			raw, err := os.ReadFile(name)
			if err != nil || digest.FromBytes(raw) != blob.Digest {
				t.Errorf("%s: %d bytes, %v", tag, len(raw), err)
			}
			if err := os.Chmod(name, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(name, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	wantOnly(t, filepath.Join(dir, "blobs"), "sha256")
	if left, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", ".*")); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}
