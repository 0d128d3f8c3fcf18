package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/planner"
)

// copyStep copies src of a directory into an image.
func copyStep(dir, src string, exclude ...string) *planner.Step {
	base := &planner.Step{Name: "FROM", Image: &planner.BaseImage{Ref: "base", DiffIDs: []digest.Digest{digest.FromString("layer")}}}
	local := &planner.Step{Name: "context", Local: &planner.Local{Dir: dir, Exclude: exclude}}
	return &planner.Step{
		Name:   "COPY",
		Inputs: []planner.Input{{Step: base}, {Step: local}},
		Op: &pb.Op{Op: &pb.Op_File{File: &pb.FileOp{Actions: []*pb.FileAction{{
			Input: 0, SecondaryInput: 1,
			Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{Src: src, Dest: "/", Mode: -1, AllowWildcard: true}},
		}}}}},
	}
}

func keyOfStep(t *testing.T, s *planner.Step) digest.Digest {
	t.Helper()
	k := newKeyer(nil)
	inputs := make([]digest.Digest, len(s.Inputs))
	for i, in := range s.Inputs {
		key, err := k.key(t.Context(), in.Step, nil)
		if err != nil {
			t.Fatal(err)
		}
		inputs[i] = key.Digest
	}
	key, err := k.key(t.Context(), s, inputs)
	if err != nil {
		t.Fatal(err)
	}
	return key.Digest
}

func write1(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

func TestKeyChangesWithContent(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "src", "a")
	write1(t, file, "one", 0o644)
	write1(t, filepath.Join(dir, "other"), "x", 0o644)
	step := copyStep(dir, "/src", "*.log")
	first := keyOfStep(t, step)

	same := func(what string) {
		t.Helper()
		if keyOfStep(t, step) != first {
			t.Errorf("%s: the key changed", what)
		}
	}
	differs := func(what string) {
		t.Helper()
		if keyOfStep(t, step) == first {
			t.Errorf("%s: the key stayed the same", what)
		}
	}
	same("nothing")
	write1(t, filepath.Join(dir, "other"), "y", 0o644)
	same("a file that is not selected")
	write1(t, file, "one", 0o644)
	same("a new time")
	write1(t, filepath.Join(dir, "src", "x.log"), "kept", 0o644)
	differs("a file that only the root's pattern would ignore")
	if err := os.Remove(filepath.Join(dir, "src", "x.log")); err != nil {
		t.Fatal(err)
	}
	same("A -> B -> A")
	write1(t, file, "two", 0o644)
	differs("other content")
	write1(t, file, "one", 0o755)
	differs("another mode")
	write1(t, file, "one", 0o644)
	if err := os.Symlink("a", filepath.Join(dir, "src", "link")); err != nil {
		t.Fatal(err)
	}
	differs("a link more")

	// The same tree in another place is the same input.
	moved := t.TempDir()
	write1(t, filepath.Join(moved, "src", "a"), "one", 0o644)
	if keyOfStep(t, copyStep(moved, "/src", "*.log")) != first {
		t.Error("the key depends on where the context lies")
	}
}

func TestKeyIgnoresSecrets(t *testing.T) {
	step := &planner.Step{Name: "RUN", Op: &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Meta: &pb.Meta{Args: []string{"true"}}}}}}
	first := keyOfStep(t, step)
	step.Secrets = map[string]config.Secret{"token": {ID: "token", Path: "/home/somebody/token"}}
	if keyOfStep(t, step) != first {
		t.Error("where a secret comes from is in the key")
	}
	step.Op.GetExec().Meta.Args = []string{"false"}
	if keyOfStep(t, step) == first {
		t.Error("another command has the same key")
	}
}

func TestDirCache(t *testing.T) {
	dir := t.TempDir()
	c := NewDirCache(filepath.Join(dir, "cache"))
	key := digest.FromString("key")
	if _, ok, _ := c.Get(key); ok {
		t.Error("an empty cache has an entry")
	}
	if err := c.Put(key, Entry{Snapshots: []Snapshot{"s"}, Step: "RUN x"}); err != nil {
		t.Fatal(err)
	}
	if e, ok, _ := c.Get(key); !ok || e.Snapshots[0] != "s" {
		t.Errorf("got %v, %v", e, ok)
	}
	// Half a file is a miss.
	if err := os.WriteFile(c.file(key), []byte(`{"snapshots":["s"`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := c.Get(key); ok || err == nil {
		t.Errorf("half an entry was taken for a whole one, or nothing was said: %t, %v", ok, err)
	}
	if _, ok, err := c.Get(key); ok || err != nil {
		t.Errorf("the damage is still there: %t, %v", ok, err)
	}
	// A whole one under another name is not that of the name.
	other := digest.FromString("other")
	if err := c.Put(key, Entry{Snapshots: []Snapshot{"s"}, Step: "RUN x"}); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(c.file(other)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(c.file(key), c.file(other)); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := c.Get(other); ok || err == nil {
		t.Errorf("another's entry was taken: %t, %v", ok, err)
	}
}

func TestVariants(t *testing.T) {
	c := NewDirCache(filepath.Join(t.TempDir(), "cache"))
	rest := digest.FromString("rest")
	key := func(i int) digest.Digest { return digest.FromString(fmt.Sprint(i)) }
	for i := range 2 * maxVariants {
		if err := c.PutVariant(rest, Variant{Key: key(i), Taken: []Taken{{Snapshot: "s"}}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.PutVariant(rest, Variant{Key: key(10), Taken: []Taken{{Snapshot: "s", Content: rest}}}); err != nil {
		t.Fatal(err)
	}
	all := c.Variants(rest)
	if len(all) != maxVariants || all[0].Key != key(10) || all[0].Taken[0].Content != rest || all[1].Key != key(2*maxVariants-1) {
		t.Errorf("%d variants, %+v", len(all), all)
	}
	// They go when no entry is left of them.
	if err := c.Put(key(10), Entry{Snapshots: []Snapshot{"s"}}); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(2 * time.Hour)
	if err := c.tidy(later); err != nil || len(c.Variants(rest)) == 0 {
		t.Errorf("an entry is left: %v, %v", c.Variants(rest), err)
	}
	if err := c.Remove(key(10)); err != nil {
		t.Fatal(err)
	}
	if err := c.tidy(later); err != nil || len(c.Variants(rest)) != 0 {
		t.Errorf("no entry is left: %v, %v", c.Variants(rest), err)
	}
}
