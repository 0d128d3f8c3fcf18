//go:build linux

package buildah

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"

	"github.com/zbuild/zbuild/internal/source"
	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

// listed is a job whose contexts can be listed, as the runner's are.
func listed(op *pb.Op, inputs ...runner.Input) runner.Job {
	var out bytes.Buffer
	j := job(op, &out, inputs...)
	j.List = (&source.Hasher{}).List
	return j
}

func inode(t *testing.T, name string) uint64 {
	t.Helper()
	info, err := os.Lstat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

// What a copy takes over from an earlier result is the earlier result's file; the
// tree is that of a copy that takes over nothing, and a RUN that writes to it leaves
// the earlier result alone.
func TestReuse(t *testing.T) {
	e := open(t, Options{})
	if !e.native {
		t.Fatal("overlay does not work here, and with it nothing of this")
	}
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("a/same", "same", 0o644)
	write("a/edited", "one", 0o644)
	write("a/mode", "mode", 0o644)
	write("b/touched", "touched", 0o755)
	write("ignored/x", "x", 0o644)
	if err := os.Symlink("same", filepath.Join(dir, "a/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "b"), 0o750|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	local := runner.Input{Local: &planner.Local{Dir: dir, Exclude: []string{"ignored"}}}
	run := func(j runner.Job) runner.Snapshot {
		t.Helper()
		out, err := e.Do(t.Context(), j)
		if err != nil {
			t.Fatal(err)
		}
		return out[0]
	}
	own := func(s runner.Snapshot) string {
		t.Helper()
		lowers, err := e.lowerDirs(string(s))
		if err != nil || len(lowers) == 0 {
			t.Fatalf("no directory of %s: %v", s, err)
		}
		return filepath.Join(lowers[0], "src")
	}
	tar := func(s runner.Snapshot) string {
		t.Helper()
		l, err := e.adopt(t.Context(), "", "", s, nil)
		if err != nil {
			t.Fatal(err)
		}
		return l.DiffID.String()
	}
	first := run(listed(copyOp("/", "/src"), local))
	write("a/edited", "two", 0o644)
	if err := os.Chmod(filepath.Join(dir, "a/mode"), 0o600); err != nil {
		t.Fatal(err)
	}
	later := syscall.NsecToTimespec(1_700_000_000_000_000_001)
	if err := syscall.UtimesNano(filepath.Join(dir, "b/touched"), []syscall.Timespec{later, later}); err != nil {
		t.Fatal(err)
	}
	second := run(listed(copyOp("/", "/src"), local))
	for name, shared := range map[string]bool{"a/same": true, "a/edited": false, "a/mode": false, "b/touched": false} {
		if got := inode(t, filepath.Join(own(first), name)) == inode(t, filepath.Join(own(second), name)); got != shared {
			t.Errorf("%s is one file in both results: %v, want %v", name, got, shared)
		}
	}
	if _, err := os.Lstat(filepath.Join(own(second), "ignored")); !os.IsNotExist(err) {
		t.Errorf("what is ignored was copied: %v", err)
	}

	// A directory of the context, whose time the copy keeps: then trees can be compared.
	sub := runner.Input{Local: &planner.Local{Dir: filepath.Dir(dir), Exclude: []string{"*/ignored"}}}
	src := "/" + filepath.Base(dir)
	fast := run(listed(copyOp(src, "/src"), sub))
	var out bytes.Buffer
	plain := run(job(copyOp(src, "/src"), &out, sub))
	again := run(listed(copyOp(src, "/src"), sub))
	if want := tar(plain); tar(fast) != want || tar(again) != want {
		t.Errorf("the layers differ: %s file by file, %s at once, %s linked", want, tar(fast), tar(again))
	}

	root := tinyRoot(t, e)
	full, _ := do(t, e, execOp(nil, "/bin/sh", "-ec", `
		mkdir -p /src/a/own /src/c; chmod 700 /src/a; chown 3:4 /src/b /src 2>/dev/null || chown 3:4 /src
		touch -d @1000000000 /src; echo old > /src/a/same; ln -s /etc/passwd /src/a/mode; echo x > /src/a/own/x`), runner.Input{Snapshot: root})
	merge := copyOp(src, "/src")
	merge.GetFile().Actions[0].Input, merge.GetFile().Actions[0].SecondaryInput = 0, 1
	merged, slowly := run(listed(merge, runner.Input{Snapshot: full}, sub)), run(job(merge, &out, runner.Input{Snapshot: full}, sub))
	if tar(merged) != tar(slowly) {
		t.Errorf("on another tree the layers differ: %s at once, %s file by file", tar(merged), tar(slowly))
	}
	if inode(t, filepath.Join(own(merged), "a/same")) != inode(t, filepath.Join(own(fast), "a/same")) {
		t.Error("nothing was taken over from the earlier result where directories are merged")
	}

	op := copyOp("/", "/src")
	op.GetFile().Actions[0].Input, op.GetFile().Actions[0].SecondaryInput = 0, 1
	onRoot := run(listed(op, runner.Input{Snapshot: root}, local))
	if inode(t, filepath.Join(own(onRoot), "a/same")) != inode(t, filepath.Join(own(second), "a/same")) {
		t.Error("the file was not taken over from the earlier result")
	}
	run(listed(execOp(nil, "/bin/sh", "-c", "echo changed > /src/a/same; chmod 777 /src/b/touched; rm /src/a/edited"), runner.Input{Snapshot: onRoot}))
	for _, s := range []runner.Snapshot{first, second, onRoot} {
		text, err := os.ReadFile(filepath.Join(own(s), "a/same"))
		if err != nil || strings.TrimSpace(string(text)) != "same" {
			t.Errorf("a RUN wrote through into another layer: %q, %v", text, err)
		}
	}
}

// treeOf stands for everything in /d but times: directories have that of the copy.
func treeOf(t *testing.T, e *Engine, s runner.Snapshot) string {
	t.Helper()
	sum, err := e.Content(t.Context(), s, source.Selection{Path: "/d"})
	if err != nil {
		t.Fatal(err)
	}
	return sum.String()
}

// Several copies in one operation see what those before them have left, whichever way
// they are done; and nothing is taken over that a later one has replaced.
func TestFillSeveral(t *testing.T) {
	e := open(t, Options{})
	if !e.native {
		t.Fatal("overlay does not work here, and with it nothing of this")
	}
	dir := t.TempDir()
	when := time.Unix(1_000_000_000, 0)
	write := func(name, text string) {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		for ; p != dir; p = filepath.Dir(p) { // all look the same but for what is in them
			if err := os.Chtimes(p, when, when); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("p/both", "p")
	write("p/sub/both", "p")
	write("p/sub/p", "p")
	write("q/both", "q")
	write("q/sub/both", "q")
	write("q/sub/q", "q")
	write("both", "x")
	local := runner.Input{Local: &planner.Local{Dir: dir}}
	several := func(sources ...string) *pb.Op {
		op := &pb.Op{Inputs: []*pb.Input{{}, {}}, Op: &pb.Op_File{File: &pb.FileOp{}}}
		for i, src := range sources {
			one := copyOp(src, "/d/").GetFile().Actions[0]
			one.Input, one.SecondaryInput, one.Output = 0, 1, -1
			if i > 0 {
				one.Input = int64(len(op.Inputs) + i - 1)
			}
			if i == len(sources)-1 {
				one.Output = 0
			}
			op.GetFile().Actions = append(op.GetFile().Actions, one)
		}
		return op
	}
	root := runner.Input{Snapshot: tinyRoot(t, e)}
	run := func(j runner.Job) string {
		t.Helper()
		out, err := e.Do(t.Context(), j)
		if err != nil {
			t.Fatal(err)
		}
		return treeOf(t, e, out[0])
	}
	for _, sources := range [][]string{{"/p", "/q"}, {"/q", "/p"}, {"/p", "/both"}, {"/both", "/p"}, {"/p", "/both", "/q"}, {"/p", "/q", "/p"}} {
		var out bytes.Buffer
		want := run(job(several(sources...), &out, root, local))
		for range 2 { // the second takes over what it can
			if got := run(listed(several(sources...), root, local)); got != want {
				t.Errorf("%v: the trees differ: %s at once, %s file by file", sources, got, want)
			}
		}
		// The first alone is another operation of the same copy.
		want = run(job(several(sources[0]), &out, root, local))
		if got := run(listed(several(sources[0]), root, local)); got != want {
			t.Errorf("%v: the trees of the first differ: %s after the others, %s file by file", sources, got, want)
		}
	}
}

// Copies that change modes, or take only some of the files, do so in either way.
func TestFillAltered(t *testing.T) {
	e := open(t, Options{})
	if !e.native {
		t.Fatal("overlay does not work here, and with it nothing of this")
	}
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"p/a/f": 0o644, "p/a/x": 0o711, "p/b/f": 0o600, "q/f": 0o4755} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode|mode&0o4000<<11); err != nil {
			t.Fatal(err)
		}
	}
	local := runner.Input{Local: &planner.Local{Dir: dir}}
	bare := tinyRoot(t, e)
	full, _ := do(t, e, execOp(nil, "/bin/sh", "-ec", "mkdir -p /d/p/a /d/q; chmod 700 /d/p; chown 3:4 /d/p /d/p/a; echo old > /d/p/a/f"), runner.Input{Snapshot: bare})
	for name, change := range map[string]func(*pb.FileActionCopy){
		"number":   func(a *pb.FileActionCopy) { a.Mode = 0o2750 },
		"symbolic": func(a *pb.FileActionCopy) { a.ModeStr = "u=rwX,go=rX" },
		"some":     func(a *pb.FileActionCopy) { a.IncludePatterns = []string{"p/a/f", "q"} },
		"both":     func(a *pb.FileActionCopy) { a.IncludePatterns, a.Mode = []string{"p/*/f"}, 0o640 },
		"not all":  func(a *pb.FileActionCopy) { a.ExcludePatterns = []string{"**/x", "q"} },
	} {
		for _, on := range []runner.Snapshot{bare, full} {
			op := copyOp("/", "/d")
			a := op.GetFile().Actions[0]
			a.Input, a.SecondaryInput = 0, 1
			change(a.GetCopy())
			slow, _ := do(t, e, op, runner.Input{Snapshot: on}, local)
			for range 2 {
				out, err := e.Do(t.Context(), listed(op, runner.Input{Snapshot: on}, local))
				if err != nil {
					t.Fatal(err)
				}
				if treeOf(t, e, out[0]) != treeOf(t, e, slow) {
					t.Errorf("%s: the trees differ: %s at once, %s file by file", name, treeOf(t, e, out[0]), treeOf(t, e, slow))
				}
			}
		}
	}
}

// A file that changed while it was copied is not what was listed, and so nothing that a
// later copy of what was listed could take over.
func TestReuseInexact(t *testing.T) {
	e := open(t, Options{})
	if !e.native {
		t.Fatal("overlay does not work here, and with it nothing of this")
	}
	dir := t.TempDir()
	name := filepath.Join(dir, "p/f")
	when := time.Unix(1_000_000_000, 0)
	write := func(text string) {
		t.Helper()
		err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644), os.Chtimes(name, when, when))
		if err != nil {
			t.Fatal(err)
		}
	}
	copied := func(j runner.Job) string {
		t.Helper()
		out, err := e.Do(t.Context(), j)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(layerDir(t, e, out[0]), "d/f"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	local := runner.Input{Local: &planner.Local{Dir: dir}}
	write("one")
	j := listed(copyOp("/p", "/d"), local)
	list := j.List
	j.List = func(ctx context.Context, tree source.Tree, sel source.Selection) (*source.Listing, error) {
		l, err := list(ctx, tree, sel)
		write("two")
		return l, err
	}
	if got := copied(j); got != "two" {
		t.Fatalf("the file was %q when it was copied, and not what it changed to", got)
	}
	write("one")
	if got := copied(listed(copyOp("/p", "/d"), local)); got != "one" {
		t.Errorf("the next copy of what was listed has %q, which an earlier one took by chance", got)
	}
}

// An archive with a hard link to a file that was copied before it gives that file
// another owner and mode: not the one that an earlier result has.
func TestUnpackOverLinks(t *testing.T) {
	e := open(t, Options{})
	if !e.native {
		t.Fatal("overlay does not work here, and with it nothing of this")
	}
	dir := t.TempDir()
	link := tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "f", Mode: 0o600, Uid: 7, Gid: 7}
	err := errors.Join(
		os.Mkdir(filepath.Join(dir, "p"), 0o755), os.WriteFile(filepath.Join(dir, "p/f"), []byte("text"), 0o644),
		os.WriteFile(filepath.Join(dir, "a.tar"), tarOf(t, link), 0o644),
	)
	if err != nil {
		t.Fatal(err)
	}
	local := runner.Input{Local: &planner.Local{Dir: dir}}
	alone, both := addOp("/p", "/d/"), addOp("/p", "/d/")
	both.GetFile().Actions[0].Output = -1
	unpack := addOp("/a.tar", "/d/").GetFile().Actions[0]
	unpack.Input = 1 // what the first one left
	both.GetFile().Actions = append(both.GetFile().Actions, unpack)
	var out []runner.Snapshot
	for _, op := range []*pb.Op{alone, both} {
		s, err := e.Do(t.Context(), listed(op, local))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s[0])
	}
	for i, want := range []string{"-rw-r--r-- 0", "-rw------- 7"} {
		info, err := os.Lstat(filepath.Join(layerDir(t, e, out[i]), "d/f"))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(info.Mode(), info.Sys().(*syscall.Stat_t).Uid); got != want {
			t.Errorf("the file of copy %d is %s, want %s", i, got, want)
		}
	}
}
