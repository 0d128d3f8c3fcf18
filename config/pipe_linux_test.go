package config_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/config"
)

// TestPipes checks that pipes are read once, for all requests that share them, and
// are no files to be watched.
func TestPipes(t *testing.T) {
	dir := realTempDir(t)
	writeFile(t, filepath.Join(dir, "zbuild.hcl"), "variable \"V\" {}\ntarget \"default\" { args = { V = V } }\n")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString("V=piped\n"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	// The way a shell names the pipe of <(command).
	pipe := filepath.Join("/dev/fd", strconv.Itoa(int(r.Fd())))
	request := config.Request{Dir: dir, LocalPlatform: "linux/amd64", EnvFiles: []string{pipe}, Pipes: &config.Pipes{}}
	for range 2 {
		p, diags := config.Load(context.Background(), request)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		if v := p.Targets["default"].Args["V"]; v != "piped" {
			t.Errorf("V is %q", v)
		}
		if slices.Contains(p.Files, pipe) {
			t.Errorf("the pipe is watched: %q", p.Files)
		}
	}
	request.Pipes = nil
	if _, diags := config.Load(context.Background(), request); !strings.Contains(diags.Error(), "is not a regular file") {
		t.Errorf("it is read although nobody asked for it: %v", diags)
	}
}

// TestPipeWithoutWriter checks that a pipe that nobody writes to can be waited for no
// longer than one wants to.
func TestPipeWithoutWriter(t *testing.T) {
	dir := realTempDir(t)
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	request := config.Request{Dir: dir, LocalPlatform: "linux/amd64", Files: []string{"fifo"}, Pipes: &config.Pipes{}}
	if _, diags := config.Load(ctx, request); !strings.Contains(diags.Error(), context.DeadlineExceeded.Error()) {
		t.Errorf("want that time is up: %v", diags)
	}
}
