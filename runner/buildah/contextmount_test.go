//go:build linux

package buildah

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

// RUNs that mount the same of a context share one copy of it, to which none of them
// can write; after an edit it is made anew of what has not changed.
func TestContextMount(t *testing.T) {
	e := open(t, Options{})
	if !e.native {
		t.Fatal("overlay does not work here, and with it nothing of this")
	}
	root := tinyRoot(t, e)
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("d/same", "same")
	write("d/edited", "one")
	write("d/script", "echo one")
	write("ignored", "x")
	local := runner.Input{Local: &planner.Local{Dir: dir, Exclude: []string{"ignored"}}}

	var made []runner.Snapshot
	known := make(map[digest.Digest]runner.Snapshot)
	run := func(selector string, readonly bool, script string) string {
		t.Helper()
		op := execOp([]*pb.Mount{{Input: 1, Selector: selector, Dest: "/src", Output: -1, Readonly: readonly}}, "/bin/sh", "-c", script)
		var out bytes.Buffer
		j := job(op, &out, runner.Input{Snapshot: root}, local)
		j.Share = func(_ context.Context, key digest.Digest, _ string, fill func() (runner.Snapshot, error)) (runner.Snapshot, error) {
			if s, ok := known[key]; ok {
				return s, nil
			}
			s, err := fill()
			if err == nil {
				known[key] = s
				made = append(made, s)
			}
			return s, err
		}
		if _, err := e.Do(t.Context(), j); err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		return strings.TrimSpace(out.String())
	}

	if got, want := run("", true, "cd /src; find . -type f | sort; touch d/new 2>/dev/null || echo read-only; stat -c '%u %a' ."), "./d/edited\n./d/same\n./d/script\nread-only\n0 755"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	run("", false, "cd /src; echo changed > d/same; rm d/edited; touch d/new")
	if got := run("", true, "cat /src/d/same /src/d/edited; ls /src/d"); got != "sameoneedited\nsame\nscript" {
		t.Errorf("after another RUN wrote to its mount: %q", got)
	}
	if len(made) != 1 {
		t.Errorf("%d copies were made, want one for all", len(made))
	}
	write("d/edited", "two")
	if got := run("", true, "cat /src/d/same /src/d/edited"); got != "sametwo" {
		t.Errorf("after an edit: %q", got)
	}
	at := func(i int, name string) uint64 {
		return inode(t, filepath.Join(layerDir(t, e, made[i]), mountedName, name))
	}
	if len(made) != 2 || at(0, "d/same") != at(1, "d/same") || at(0, "d/edited") == at(1, "d/edited") {
		t.Error("the copy after the edit was not made of what had not changed")
	}

	// Times are part of what is seen, and so are single files.
	past := time.Unix(1_000_000_000, 0)
	if err := os.Chtimes(filepath.Join(dir, "d/same"), past, past); err != nil {
		t.Fatal(err)
	}
	if got := run("", true, "stat -c %Y /src/d/same"); got != "1000000000" {
		t.Errorf("the time of a file is %s", got)
	}
	if got := run("/d/script", true, ". /src"); got != "one" {
		t.Errorf("a file that is mounted: %q", got)
	}
}
