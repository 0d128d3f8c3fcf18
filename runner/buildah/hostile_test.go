//go:build linux

package buildah

// Trees that are made to lead outside: contexts that change while they are read,
// images whose directories are links to the machine's.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"go.podman.io/storage/pkg/unshare"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/internal/source"
	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

const secretText = "what is outside"

// restless is a context whose directory d/sub, and file d/file, are other things
// every now and then.
func restless(t *testing.T, becomes func(t *testing.T, outside, sub, file string)) *planner.Local {
	t.Helper()
	dir, outside := t.TempDir(), t.TempDir()
	for _, at := range []string{filepath.Join(dir, "d"), outside} {
		if err := os.MkdirAll(filepath.Join(at, "sub/deep"), 0o755); err != nil {
			t.Fatal(err)
		}
		text := "inside"
		if at == outside {
			text = secretText
		}
		names := []string{"file"}
		for i := range 20 {
			names = append(names, fmt.Sprintf("sub/f%d", i), fmt.Sprintf("sub/deep/f%d", i))
		}
		for _, name := range names {
			if err := os.WriteFile(filepath.Join(at, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	other := t.TempDir()
	becomes(t, outside, filepath.Join(other, "sub"), filepath.Join(other, "file"))
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			name := []string{"sub", "file"}[i%2]
			_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "d", name), unix.AT_FDCWD, filepath.Join(other, name), unix.RENAME_EXCHANGE)
			time.Sleep(time.Duration(i%7) * 100 * time.Microsecond)
		}
	})
	t.Cleanup(func() { stop(); wg.Wait() })
	return &planner.Local{Dir: dir}
}

// everything reads all files of a tree.
func everything(t *testing.T, root string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(p)
		all.Write(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// TestContextChangesItsKind copies of contexts in which directories and files are
// swapped for links that lead outside, and for pipes that nobody writes to. Copying
// may fail, but it ends, and nothing from outside is in the result.
func TestContextChangesItsKind(t *testing.T) {
	e := open(t, Options{})
	root := tinyRoot(t, e)
	becomes := map[string]func(t *testing.T, outside, sub, file string){
		"links": func(t *testing.T, outside, sub, file string) {
			if err := errors.Join(os.Symlink(filepath.Join(outside, "sub"), sub), os.Symlink(filepath.Join(outside, "file"), file)); err != nil {
				t.Fatal(err)
			}
		},
		"pipes": func(t *testing.T, _, sub, file string) {
			if err := errors.Join(unix.Mkfifo(sub, 0o644), unix.Mkfifo(file, 0o644)); err != nil {
				t.Fatal(err)
			}
		},
	}
	chmod := copyOp("/d", "/to")
	chmod.GetFile().Actions[0].GetCopy().Mode = 0o700
	ways := map[string]struct {
		op   *pb.Op
		list bool
	}{
		"at once":      {copyOp("/d", "/to"), true},
		"file by file": {chmod, true},
		"one file":     {copyOp("/d/file", "/to"), true},
		"unlisted":     {copyOp("/d", "/to"), false},
		"ADD":          {addOp("/d/file", "/to"), true},
		"RUN": {execOp([]*pb.Mount{{Input: 1, Selector: "/d", Dest: "/ctx", Output: -1, MountType: pb.MountType_BIND, Readonly: true}},
			"sh", "-c", "mkdir /to && busybox cp -r /ctx/. /to/"), true},
	}
	for kind, makes := range becomes {
		local := restless(t, makes)
		for way, w := range ways {
			t.Run(way+" with "+kind, func(t *testing.T) {
				succeeded := 0
				for i := 0; i < 25 || succeeded == 0 && i < 2000; i++ {
					inputs := []runner.Input{{Local: local}}
					if way == "RUN" {
						inputs = []runner.Input{{Snapshot: root}, {Local: local}}
						i += 4 // they take longer
					}
					var out bytes.Buffer
					j := job(w.op, &out, inputs...)
					if w.list {
						j.List = (&source.Hasher{}).List
					}
					s, err := e.Do(t.Context(), j)
					if err != nil {
						continue
					}
					succeeded++
					v, err := e.view(s[0])
					if err != nil {
						t.Fatal(err)
					}
					text := everything(t, filepath.Join(v.root, "to"))
					v.close()
					if strings.Contains(text, secretText) {
						t.Fatal("what is outside is in the result")
					}
				}
				if succeeded == 0 {
					t.Error("nothing was ever copied")
				}
			})
		}
	}
	if left, err := os.ReadDir(filepath.Join(e.StateDir(), stagedName)); err != nil || len(left) > 0 {
		t.Errorf("of what was taken in there is left %v, %v", left, err)
	}
}

// TestSpecialFiles copies what is neither file nor directory nor link as what it is.
// A socket comes as an empty file, as with BuildKit.
func TestSpecialFiles(t *testing.T) {
	e := open(t, Options{})
	dir := t.TempDir()
	kinds := map[string]uint32{"fifo": unix.S_IFIFO, "socket": unix.S_IFSOCK}
	if !unshare.IsRootless() {
		kinds["char"] = unix.S_IFCHR
	}
	number := int(unix.Mkdev(7, 99)) // a small number
	for name, kind := range kinds {
		if err := unix.Mknod(filepath.Join(dir, name), kind|0o640, number); err != nil {
			t.Fatal(err)
		}
	}
	kinds["socket"] = unix.S_IFREG
	for _, src := range []string{"/", "/fifo"} {
		s, _ := do(t, e, copyOp(src, "/to/"), runner.Input{Local: &planner.Local{Dir: dir}})
		v, err := e.view(s)
		if err != nil {
			t.Fatal(err)
		}
		for name, kind := range kinds {
			if src != "/" && src != "/"+name {
				continue
			}
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(v.root, "to", name), &st); err != nil || st.Mode != kind|0o640 {
				t.Errorf("%s is %o, want %o: %v", name, st.Mode, kind|0o640, err)
			}
			if kind == unix.S_IFCHR && st.Rdev != uint64(number) {
				t.Errorf("%s is the device %x", name, st.Rdev)
			}
		}
		v.close()
	}
}

// TestLinksInRoots does everything that makes or reads files by path in an image
// that has links to a directory of the machine's. All of it happens in the image.
func TestLinksInRoots(t *testing.T) {
	for _, isolation := range []string{"", "chroot"} {
		t.Run("isolation="+isolation, func(t *testing.T) { linksInRoots(t, isolation) })
	}
}

func linksInRoots(t *testing.T, isolation string) {
	e := open(t, Options{Isolation: isolation})
	outside := t.TempDir()
	if err := errors.Join(
		os.Mkdir(filepath.Join(outside, "dir"), 0o700),
		os.WriteFile(filepath.Join(outside, "dir/secret"), []byte(secretText), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	list := func() string {
		var all []string
		_ = filepath.Walk(outside, func(p string, info fs.FileInfo, err error) error {
			if err == nil {
				all = append(all, fmt.Sprintf("%s %v %v", p, info.Mode(), info.ModTime()))
			}
			return err
		})
		return strings.Join(all, "\n")
	}
	before := list()
	base := tinyRoot(t, e)
	base, _ = do(t, e, execOp(nil, "sh", "-c", strings.ReplaceAll(
		"mkdir /holds; ln -s OUT /holds/link; ln -s OUT /abs; ln -s ../../../../../../..OUT /up; ln -s OUT/dir /dir; ln -s OUT/dir/secret /file", "OUT", outside)), runner.Input{Snapshot: base})
	action := func(a *pb.FileAction) *pb.Op {
		a.Output = 0
		if a.SecondaryInput == 0 {
			a.SecondaryInput = -1
		}
		return &pb.Op{Inputs: []*pb.Input{{}}, Op: &pb.Op_File{File: &pb.FileOp{Actions: []*pb.FileAction{a}}}}
	}
	local := &planner.Local{Dir: t.TempDir()}
	for name, text := range map[string]string{"f": "f", "tree/secret": "mine", "tree/sub/x": "x"} {
		p := filepath.Join(local.Dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	copying := func(src, dest string) *pb.Op {
		op := copyOp(src, dest)
		op.Inputs = append(op.Inputs, &pb.Input{})
		op.GetFile().Actions[0].Input, op.GetFile().Actions[0].SecondaryInput = 0, 1
		return op
	}
	mount := func(m *pb.Mount, script string) *pb.Op {
		if m.Output == 0 {
			m.Output = -1
		}
		return execOp([]*pb.Mount{m}, "sh", "-c", script)
	}
	inRoot := runner.Input{Snapshot: base}
	from := runner.Input{Local: local}
	ops := map[string]struct {
		op     *pb.Op
		inputs []runner.Input
	}{
		"COPY below a link":     {copying("/f", "/abs/"), []runner.Input{inRoot, from}},
		"COPY below a link up":  {copying("/f", "/up/x/y"), []runner.Input{inRoot, from}},
		"COPY of a tree":        {copying("/tree", "/dir"), []runner.Input{inRoot, from}},
		"COPY over a link":      {copying("/f", "/file"), []runner.Input{inRoot, from}},
		"COPY --from":           {copying("/abs/dir/secret", "/x"), []runner.Input{inRoot, inRoot}},
		"COPY --from up":        {copying("/up/dir", "/x"), []runner.Input{inRoot, inRoot}},
		"COPY --from a link":    {copying("/file", "/x"), []runner.Input{inRoot, inRoot}},
		"WORKDIR":               {action(&pb.FileAction{Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: "/abs/w/w", Mode: 0o755, MakeParents: true, Timestamp: -1}}}), []runner.Input{inRoot}},
		"a directory":           {action(&pb.FileAction{Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: "/dir/w", Mode: 0o755, Timestamp: -1}}}), []runner.Input{inRoot}},
		"a here-document":       {action(&pb.FileAction{Action: &pb.FileAction_Mkfile{Mkfile: &pb.FileActionMkFile{Path: "/dir/f", Mode: 0o644, Timestamp: -1}}}), []runner.Input{inRoot}},
		"a here-document there": {action(&pb.FileAction{Action: &pb.FileAction_Mkfile{Mkfile: &pb.FileActionMkFile{Path: "/file", Mode: 0o644, Timestamp: -1}}}), []runner.Input{inRoot}},
		"removing":              {action(&pb.FileAction{Action: &pb.FileAction_Rm{Rm: &pb.FileActionRm{Path: "/dir/secret", AllowNotFound: true}}}), []runner.Input{inRoot}},
		"removing by pattern":   {action(&pb.FileAction{Action: &pb.FileAction_Rm{Rm: &pb.FileActionRm{Path: "/abs/*", AllowWildcard: true, AllowNotFound: true}}}), []runner.Input{inRoot}},
		"a link":                {action(&pb.FileAction{Action: &pb.FileAction_Symlink{Symlink: &pb.FileActionSymlink{Oldpath: "x", Newpath: "/dir/l", Timestamp: -1}}}), []runner.Input{inRoot}},
		"a tmpfs":               {mount(&pb.Mount{Input: -1, Dest: "/abs/t", MountType: pb.MountType_TMPFS}, "echo x > /abs/t/x"), []runner.Input{inRoot}},
		"a cache":               {mount(&pb.Mount{Input: -1, Dest: "/dir/c", MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "c"}}, "echo x > /dir/c/x"), []runner.Input{inRoot}},
		"a cache from a link":   {mount(&pb.Mount{Input: 1, Selector: "/dir", Dest: "/c", MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "d"}}, "cat /c/secret; touch /c/x"), []runner.Input{inRoot, inRoot}},
		"a secret":              {mount(&pb.Mount{Input: -1, Dest: "/up/s", MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "s", Mode: 0o400}}, "cat /up/s"), []runner.Input{inRoot}},
		"a context":             {mount(&pb.Mount{Input: 1, Dest: "/dir/ctx", MountType: pb.MountType_BIND}, "touch /dir/ctx/x"), []runner.Input{inRoot, from}},
		"a tree by a link":      {mount(&pb.Mount{Input: 1, Selector: "/abs/dir", Dest: "/m", MountType: pb.MountType_BIND}, "cat /m/secret; touch /m/x"), []runner.Input{inRoot, inRoot}},
		"a mount in a mount": {execOp([]*pb.Mount{
			{Input: 1, Selector: "/holds", Dest: "/m", Output: -1, MountType: pb.MountType_BIND},
			{Input: -1, Dest: "/m/link/c", Output: -1, MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "e"}},
		}, "sh", "-c", "touch /m/link/c/x"), []runner.Input{inRoot, inRoot}},
		"over a link": {mount(&pb.Mount{Input: 1, Dest: "/file", Selector: "/f", MountType: pb.MountType_BIND, Readonly: true}, "cat /file"), []runner.Input{inRoot, from}},
	}
	cwd := execOp(nil, "sh", "-c", "touch x")
	cwd.GetExec().Meta.Cwd = "/abs/cwd"
	ops["a working directory"] = struct {
		op     *pb.Op
		inputs []runner.Input
	}{cwd, []runner.Input{inRoot}}
	for name, o := range ops {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			j := job(o.op, &out, o.inputs...)
			j.Secret = func(string) ([]byte, error) { return []byte("hush"), nil }
			s, err := e.Do(t.Context(), j)
			t.Log(err)
			if strings.Contains(out.String(), secretText) {
				t.Error("what is outside was read")
			}
			if err == nil {
				v, err := e.view(s[0])
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(everything(t, v.root), secretText) {
					t.Error("what is outside is in the result")
				}
				v.close()
			}
			if now := list(); now != before {
				t.Errorf("outside there is now\n%s\nand was\n%s", now, before)
				before = now
			}
		})
	}
}
