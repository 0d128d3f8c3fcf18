//go:build linux

package buildah

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"

	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

// grafting copies /src of one snapshot to /dest on another.
func grafting(t *testing.T, e *Engine, on, from runner.Snapshot, owner *pb.ChownOpt) runner.Snapshot {
	t.Helper()
	op := copyOp("/src", "/dest")
	a := op.GetFile().Actions[0]
	a.Input, a.SecondaryInput = 0, 1
	a.GetCopy().Owner = owner
	s, _ := do(t, e, op, runner.Input{Snapshot: on}, runner.Input{Snapshot: from})
	return s
}

// layerDir is a snapshot's own directory.
func layerDir(t *testing.T, e *Engine, s runner.Snapshot) string {
	t.Helper()
	lowers, err := e.lowerDirs(string(s))
	if err != nil || len(lowers) == 0 {
		t.Fatalf("no directory of %s: %v", s, err)
	}
	return lowers[0]
}

// A copy of a stage's directory is the tree that copying file by file makes. Its files
// are the stage's own, unless a tree could come to have one of them under two names.
func TestGraft(t *testing.T) {
	e := open(t, Options{})
	if !e.native {
		t.Fatal("overlay does not work here, and with it nothing of this")
	}
	root := tinyRoot(t, e)
	stage, _ := do(t, e, execOp(nil, "/bin/sh", "-ec", `
		mkdir -p /src/d/e /src/empty /src/sticky; chmod 1777 /src/sticky; chown 5:6 /src/empty
		echo plain > /src/d/plain; touch -d @1000000000 /src/d/plain
		echo twin > /src/d/twin; ln /src/d/twin /src/d/e/twin
		echo set > /src/d/e/set; chown 7:8 /src/d/e/set; chmod 4711 /src/d/e/set
		echo below > /src/d/below; ln -s plain /src/d/link; ln -s /nowhere /src/d/e/dangling`), runner.Input{Snapshot: root})
	// Something in one layer only, something changed, renamed or removed above another.
	stage, _ = do(t, e, execOp(nil, "/bin/sh", "-ec", `
		echo above > /src/d/above; echo more >> /src/d/below; mv /src/d/e/set /src/d/set; chmod 700 /src/sticky; rm -r /src/empty; mkdir /src/empty`), runner.Input{Snapshot: stage})

	tar := func(s runner.Snapshot) string {
		t.Helper()
		l, err := e.adopt(t.Context(), "", "", s, nil)
		if err != nil {
			t.Fatal(err)
		}
		return l.DiffID.String()
	}
	byFile := func(on runner.Snapshot, owner *pb.ChownOpt) string {
		e.native = false
		s := grafting(t, e, on, stage, owner)
		e.native = true
		return tar(s)
	}
	unlinked := grafting(t, e, "", stage, nil)
	if want := byFile("", nil); tar(unlinked) != want {
		t.Errorf("on nothing: grafted it is %s, file by file %s", tar(unlinked), want)
	}
	grafted := grafting(t, e, root, stage, nil)
	if want := byFile(root, nil); tar(grafted) != want {
		t.Errorf("grafted it is %s, file by file %s", tar(grafted), want)
	}
	someone := &pb.ChownOpt{User: &pb.UserOpt{User: &pb.UserOpt_ByID{ByID: 7}}, Group: &pb.UserOpt{User: &pb.UserOpt_ByID{ByID: 8}}}
	if want, got := byFile("", someone), tar(grafting(t, e, "", stage, someone)); got != want {
		t.Errorf("with another owner: grafted it is %s, file by file %s", got, want)
	}

	// Where there is something already, directories are merged and files replaced.
	full, _ := do(t, e, execOp(nil, "/bin/sh", "-ec", `
		mkdir -p /dest/d/e/own /dest/kept; chmod 700 /dest/d/e; chown 3:4 /dest/d /dest; touch -d @1000000000 /dest
		echo old > /dest/d/plain; ln -s /etc/passwd /dest/d/above; echo own > /dest/d/e/own/x; echo was link > /dest/d/link`), runner.Input{Snapshot: root})
	if want, got := byFile(full, nil), tar(grafting(t, e, full, stage, nil)); got != want {
		t.Errorf("on another tree: grafted it is %s, file by file %s", got, want)
	}
	for _, inTheWay := range []string{"mkdir -p /dest/d/plain", "mkdir -p /dest; echo > /dest/d", "mkdir /dest; ln -s /tmp /dest/d"} {
		blocked, _ := do(t, e, execOp(nil, "/bin/sh", "-ec", inTheWay), runner.Input{Snapshot: root})
		op := copyOp("/src", "/dest")
		op.GetFile().Actions[0].Input, op.GetFile().Actions[0].SecondaryInput = 0, 1
		var out bytes.Buffer
		if _, err := e.Do(t.Context(), job(op, &out, runner.Input{Snapshot: blocked}, runner.Input{Snapshot: stage})); err == nil {
			t.Errorf("a directory and a file took each other's place after %s", inTheWay)
		}
	}

	lowers, err := e.lowerDirs(string(stage))
	if err != nil {
		t.Fatal(err)
	}
	original := func(name string) uint64 {
		t.Helper()
		for _, l := range lowers {
			if _, err := os.Lstat(filepath.Join(l, "src", name)); err == nil {
				return inode(t, filepath.Join(l, "src", name))
			}
		}
		t.Fatalf("the stage has no %s", name)
		return 0
	}
	in := func(s runner.Snapshot, name string) uint64 {
		t.Helper()
		return inode(t, filepath.Join(layerDir(t, e, s), "dest", name))
	}
	if in(unlinked, "d/plain") == original("d/plain") {
		t.Error("a file was linked into a layer that may be put anywhere")
	}
	for name, linked := range map[string]bool{"d/plain": true, "d/above": true, "d/twin": false, "d/below": false} {
		if got := in(grafted, name) == original(name); got != linked {
			t.Errorf("%s is the stage's own file: %v, want %v", name, got, linked)
		}
	}
	if in(grafted, "d/twin") != in(grafted, "d/e/twin") {
		t.Error("hard links are two files now")
	}

	// The next copy of a context may have the files of this one.
	context := t.TempDir()
	if err := os.WriteFile(filepath.Join(context, "f"), []byte("f"), 0o644); err != nil {
		t.Fatal(err)
	}
	local := copyOp("/", "/src")
	local.GetFile().Actions[0].Input, local.GetFile().Actions[0].SecondaryInput = 0, 1
	taken, err := e.Do(t.Context(), listed(local, runner.Input{Snapshot: root}, runner.Input{Local: &planner.Local{Dir: context}}))
	if err != nil {
		t.Fatal(err)
	}
	if in(grafting(t, e, root, taken[0], nil), "f") == inode(t, filepath.Join(layerDir(t, e, taken[0]), "src/f")) {
		t.Error("a file was linked that later copies of a context may have at another place")
	}

	// Now the file has two names, in trees that may come together.
	if again := grafting(t, e, root, stage, nil); in(again, "d/plain") == original("d/plain") {
		t.Error("a file was linked that is linked already")
	}
	// A stage that builds on the one that it copies from.
	fresh, _ := do(t, e, execOp(nil, "/bin/sh", "-ec", "mkdir /src; echo x > /src/x"), runner.Input{Snapshot: root})
	self := grafting(t, e, fresh, fresh, nil)
	_, out := do(t, e, execOp(nil, "/bin/sh", "-ec", "ls -i /src/x /dest/x; stat -c %h /dest/x"), runner.Input{Snapshot: self})
	if fields := strings.Fields(out); len(fields) != 5 || fields[0] == fields[2] || fields[4] != "1" {
		t.Errorf("the copy shares its file with the original: %q", out)
	}

	other, _ := do(t, e, execOp(nil, "/bin/sh", "-ec", "mkdir /src; echo plain > /src/plain"), runner.Input{Snapshot: root})
	onRoot := grafting(t, e, root, other, nil)
	if inode(t, filepath.Join(layerDir(t, e, onRoot), "dest/plain")) != inode(t, filepath.Join(layerDir(t, e, other), "src/plain")) {
		t.Error("the file was not linked")
	}
	do(t, e, execOp(nil, "/bin/sh", "-ec", "echo changed > /dest/plain; chmod 600 /dest/plain"), runner.Input{Snapshot: onRoot})
	text, err := os.ReadFile(filepath.Join(layerDir(t, e, other), "src/plain"))
	if err != nil || !bytes.Equal(text, []byte("plain\n")) {
		t.Errorf("a RUN wrote through into another layer: %q, %v", text, err)
	}
}
