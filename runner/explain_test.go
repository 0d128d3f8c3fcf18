package runner

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/internal/source"
	"github.com/zbuild/zbuild/planner"
)

func part(name, content string) Part { return Part{Name: name, Digest: digest.FromString(content)} }

func runStep(name string, env ...string) *planner.Step {
	return &planner.Step{Name: name, Op: &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Meta: &pb.Meta{Env: env}}}}}
}

func TestWhy(t *testing.T) {
	parts := []Part{part(partInstruction, "make"), part("input 0 (RUN npm ci)", "npm"), part("files src", "src")}
	was := pastStep{Name: "RUN make", Key: keyOf(parts).Digest, Parts: parts, Env: envParts(runStep("", "A=1", "B=2"))}
	changed := func(i int, p Part) []Part {
		out := append([]Part(nil), parts...)
		out[i] = p
		return out
	}
	for _, c := range []struct {
		name string
		node node
		was  pastStep
		want Explanation
	}{
		{name: "new", want: Explanation{Reason: ReasonNew}},
		{name: "no cache", node: node{noCache: true}, was: was, want: Explanation{Reason: ReasonInputNoCache}},
		{name: "gone", node: node{key: keyOf(parts), lost: true}, was: was, want: Explanation{Reason: ReasonGone}},
		{name: "forgotten", node: node{key: keyOf(parts)}, was: was, want: Explanation{Reason: ReasonForgotten}},
		{
			name: "an input that is another step", was: was,
			node: node{key: keyOf(changed(1, part("input 0 (RUN npm install)", "other")))},
			want: Explanation{Reason: ReasonChanged, Changes: []Change{{What: "its input (RUN npm install)"}}},
		},
		{
			name: "an input of another name and the same key", was: was,
			node: node{key: keyOf(append(changed(1, part("input 0 (RUN other)", "npm")), part("files new", "x")))},
			want: Explanation{Reason: ReasonChanged, Changes: []Change{{What: "files new", New: "files new"}}},
		},
		{
			name: "files", was: was, node: node{key: keyOf(changed(2, part("files src", "other")))},
			want: Explanation{Reason: ReasonChanged, Changes: []Change{{What: "files src"}}},
		},
		{
			name: "files that are not selected any more", was: was, node: node{key: keyOf(parts[:2])},
			want: Explanation{Reason: ReasonChanged, Changes: []Change{{What: "files src", Old: "files src"}}},
		},
		{
			name: "instruction", was: was,
			node: node{step: runStep("RUN make all", "A=1", "B=2"), key: keyOf(changed(0, part(partInstruction, "all")))},
			want: Explanation{Reason: ReasonChanged, Changes: []Change{{What: "instruction", Old: "RUN make", New: "RUN make all"}}},
		},
		{
			name: "variables", was: was,
			node: node{step: runStep("RUN make", "A=2", "C=3"), key: keyOf(changed(0, part(partInstruction, "env")))},
			want: Explanation{Reason: ReasonChanged, Changes: []Change{
				{What: "variable A"}, {What: "variable C", New: "C"}, {What: "variable B", Old: "B"},
			}},
		},
		{
			name: "something else about the instruction", was: was,
			node: node{key: keyOf(changed(0, part(partInstruction, "user")))},
			want: Explanation{Reason: ReasonChanged, Changes: []Change{{What: "instruction"}}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := c.node
			n.started = true
			if n.step == nil {
				n.step = runStep("RUN make", "A=1", "B=2")
			}
			r := &run{keyer: newKeyer(nil)}
			got := r.why(&n, c.was)
			if got.Step != n.step {
				t.Errorf("it is about %v", got.Step)
			}
			got.Step = nil
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestChangedFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"src/a", "src/b", "src/c/d", "src/e", "src/f", "src/g", "srcs", "x.go", "y.md"} {
		write1(t, filepath.Join(dir, name), name, 0o644)
	}
	r := &run{keyer: newKeyer(&source.Hasher{})}
	for _, c := range []struct {
		src  string
		want []string
		more int
	}{
		{"/src", []string{"src/a", "src/b", "src/c/d", "src/e", "src/f"}, 1},
		{"/src/c", []string{"src/c/d"}, 0},
		{"/*.go", []string{"x.go"}, 0},
		{"/sr?", []string{"src/a", "src/b", "src/c/d", "src/e", "src/f"}, 1},
		{"/", []string{"src/a", "src/b", "src/c/d", "src/e", "src/f"}, 4},
	} {
		step := copyStep(dir, c.src)
		key, err := r.keyer.key(t.Context(), step, make([]digest.Digest, 2))
		if err != nil {
			t.Fatal(err)
		}
		files := key.Parts[len(key.Parts)-1].Name
		got, more := r.changedFiles(step, files, time.Time{})
		if d := cmp.Diff(c.want, got); d != "" || c.more != more {
			t.Errorf("%s: %d more, want %d (-want +got):\n%s", c.src, more, c.more, d)
		}
		if got, more := r.changedFiles(step, files, time.Now().Add(time.Hour)); len(got)+more > 0 {
			t.Errorf("%s: changed in the future: %q", c.src, got)
		}
	}
}

// stageOf is a stage of one Dockerfile with one step.
func stageOf(step string, targets ...string) *planner.Stage {
	st := &planner.Stage{Name: "build", Dockerfile: "Dockerfile", Targets: targets}
	s := runStep(step)
	s.Stage = st
	s.Location = &hcl.Range{Filename: "/src/Dockerfile"}
	st.Steps = []*planner.Step{s}
	return st
}

// TestAlign: each step is compared with what it was, and not with what had its number.
func TestAlign(t *testing.T) {
	for _, c := range []struct {
		name                 string
		before, now, matched []string
	}{
		{"nothing", nil, []string{"RUN a"}, []string{""}},
		{"the same", []string{"RUN a", "COPY b"}, []string{"RUN a", "COPY b"}, []string{"RUN a", "COPY b"}},
		{"one more", []string{"COPY src", "RUN make"}, []string{"COPY mod", "COPY src", "RUN make"}, []string{"", "COPY src", "RUN make"}},
		{"one less", []string{"COPY mod", "COPY src", "RUN make"}, []string{"COPY src", "RUN make"}, []string{"COPY src", "RUN make"}},
		{"the rest of a stage that is not shared any more", []string{"COPY src", "RUN echo 7"}, []string{"RUN echo 1"}, []string{"RUN echo 7"}},
		{"another text", []string{"RUN a", "RUN b", "RUN c"}, []string{"RUN a", "RUN x", "RUN c"}, []string{"RUN a", "RUN b", "RUN c"}},
		{"another kind", []string{"RUN a", "RUN b"}, []string{"RUN a", "COPY b"}, []string{"RUN a", ""}},
		{"several between two", []string{"A", "RUN 1", "COPY 2", "RUN 3", "Z"}, []string{"A", "COPY x", "RUN y", "Z"}, []string{"A", "COPY 2", "RUN 3", "Z"}},
		{"twice the same", []string{"RUN a", "RUN a"}, []string{"RUN a", "RUN a", "RUN b"}, []string{"RUN a", "RUN a", ""}},
		{"never done", []string{"", "RUN b"}, []string{"RUN a", "RUN b"}, []string{"", "RUN b"}},
	} {
		var past pastStage
		for _, name := range c.before {
			step := pastStep{Name: name}
			if name != "" {
				step.Key = digest.FromString(name)
			}
			past.Steps = append(past.Steps, step)
		}
		var steps []*planner.Step
		for _, name := range c.now {
			steps = append(steps, runStep(name))
		}
		var got []string
		for _, was := range past.align(steps) {
			got = append(got, was.Name)
		}
		if d := cmp.Diff(c.matched, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
	if got := (*pastStage)(nil).align([]*planner.Step{runStep("RUN a")}); len(got) != 1 || got[0].Key != "" {
		t.Errorf("of a stage that was never built: %v", got)
	}
}

func TestHistoryByTargets(t *testing.T) {
	h := NewHistory(filepath.Join(t.TempDir(), "last"), "/src")
	record := func(stages ...*planner.Stage) string {
		t.Helper()
		all, _ := h.chapters(&planner.Plan{Stages: stages})
		if len(all) != 1 {
			t.Fatalf("%d chapters", len(all))
		}
		now := make([]pastStage, len(stages))
		for i, st := range stages {
			now[i] = pastStage{Targets: st.Targets, Steps: []pastStep{{Name: st.Steps[0].Name, Key: digest.FromString(st.Steps[0].Name)}}}
		}
		if err := all[0].write(now); err != nil {
			t.Fatal(err)
		}
		return all[0].file
	}
	before := func(targets ...string) string {
		t.Helper()
		st := stageOf("", targets...)
		all, _ := h.chapters(&planner.Plan{Stages: []*planner.Stage{st}})
		if p := all[0].before(st); p != nil {
			return p.Steps[0].Name
		}
		return ""
	}
	check := func(want string, targets ...string) {
		t.Helper()
		if got := before(targets...); got != want {
			t.Errorf("%q was %q, want %q", targets, got, want)
		}
	}
	check("", "a")
	record(stageOf("one", "a", "b"))
	check("one", "a", "b")
	check("one", "b")
	check("", "c")
	// One of the targets alone: the other one shares what it shared before.
	record(stageOf("two", "a"))
	check("two", "a")
	check("two", "b")
	// They part.
	record(stageOf("three", "a"), stageOf("four", "b"))
	check("three", "a")
	check("four", "b")
	file := record(stageOf("five", "c"))
	check("three", "a")
	check("five", "c")

	// What has not changed is not written again; what is damaged is forgotten.
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(file, old, old); err != nil {
		t.Fatal(err)
	}
	record(stageOf("five", "c"))
	if info, err := os.Stat(file); err != nil || time.Since(info.ModTime()) < time.Minute {
		t.Errorf("written again: %v", err)
	}
	if err := os.WriteFile(file, []byte(`[{"targets":["a"],`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.chapters(&planner.Plan{Stages: []*planner.Stage{stageOf("six", "a")}}); err == nil {
		t.Error("nothing is said of the damage")
	}
	check("", "a")
	record(stageOf("six", "a"))
	check("six", "a")
}

// TestHistoryOfProjects: projects with the same names for everything, on one store.
func TestHistoryOfProjects(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "history")
	one, other := NewHistory(dir, "/src/one"), NewHistory(dir, "/src/other")
	st := stageOf("make", "app")
	plan := &planner.Plan{Stages: []*planner.Stage{st}}
	all, _ := one.chapters(plan)
	if err := all[0].write([]pastStage{{Targets: st.Targets, Steps: []pastStep{{Name: "make", Key: digest.FromString("make")}}}}); err != nil {
		t.Fatal(err)
	}
	for h, want := range map[*History]bool{one: true, other: false, NewHistory(dir, "/src/one"): true} {
		all, err := h.chapters(plan)
		if err != nil || (all[0].before(st) != nil) != want {
			t.Errorf("%s knows the stage: %v (%v)", h.dir, !want, err)
		}
	}
}

func TestHistoryUnchanged(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "history")
	now := time.Now()
	h := NewHistory(dir, "/src")
	one, two := digest.FromString("one"), digest.FromString("two")
	check := func(want bool, sum digest.Digest) {
		t.Helper()
		if got := h.unchanged(sum, now); got != want {
			t.Errorf("unchanged: %v", got)
		}
	}
	check(false, one)
	h.forget(now)
	h.remember(one)
	check(true, one)
	check(false, two)
	h.forget(now) // and stopped
	check(false, one)
	h.remember(two)
	check(true, two)

	// What is in use is never old; another project's first run lets go of what is.
	old := now.Add(-2 * historyAge)
	file := filepath.Join(h.dir, lastName)
	stale := filepath.Join(dir, "of another version")
	if err := errors.Join(os.WriteFile(stale, nil, 0o600), os.Chtimes(file, old, old), os.Chtimes(h.dir, old, old), os.Chtimes(stale, old, old)); err != nil {
		t.Fatal(err)
	}
	check(true, two)
	NewHistory(dir, "/new").forget(now)
	check(true, two)
	if _, err := os.Lstat(stale); err == nil {
		t.Error("what nobody has used for long is still there")
	}
	if err := os.Chtimes(h.dir, old, old); err != nil {
		t.Fatal(err)
	}
	NewHistory(dir, "/new").forget(now)
	check(false, two)
}
