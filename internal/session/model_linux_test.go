package session_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zbuild/zbuild/internal/session"
	"github.com/zbuild/zbuild/planner"
)

// TestModel makes random changes to random projects. Whenever all is settled, the
// images are those of a fresh bake, and no more was built than had to be.
func TestModel(t *testing.T) {
	first := *seed
	switch {
	case first > 0:
	case *sequences <= fewSequences:
		first = 1 // what it finds is then of the change that it is run for
	default:
		first = rand.Uint64N(1 << 32)
	}
	for i := range *sequences {
		n := first + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", n), func(t *testing.T) { model(t, n) })
	}
}

// modelTarget is a target of the model's projects.
type modelTarget struct {
	attributes string
	// dockerfiles are what its Dockerfile may be. The last one is not a Dockerfile.
	dockerfiles []string
	// indirect says that it takes a part of what its steps leave: it may be built and
	// be what it was.
	indirect bool
}

const broken = "FROM scratch\nCPY a /a\n"

// modelTargets are what the model's projects have: each takes something else.
var modelTargets = map[string]modelTarget{
	"all":  {dockerfiles: []string{"FROM scratch\nCOPY . /\n", "FROM scratch\n# the same\nCOPY . /\n", "FROM scratch\nCOPY . /all/\nLABEL a=b\n", broken}},
	"dir":  {dockerfiles: []string{"FROM scratch\nCOPY a /a\n", "FROM scratch\nCOPY --chmod=750 a /a\n", broken}},
	"glob": {dockerfiles: []string{"FROM scratch\nCOPY b/*.txt /b/\n", "FROM scratch\nCOPY [ab]/*.txt /b/\n", broken}},
	"deep": {dockerfiles: []string{"FROM scratch\nCOPY a/c /c\nCOPY root.tx[t] b /d/\n", "FROM scratch\nCOPY root.txt /\nCOPY a/c /c\n", broken}},
	"link": {dockerfiles: []string{"FROM scratch\nCOPY link/ /l/\n", broken}},
	"stages": {
		dockerfiles: []string{
			"FROM scratch AS one\nCOPY a /a\nFROM scratch AS two\nCOPY b /b\nFROM scratch\nCOPY --from=one /a/c /c\nCOPY --from=two /b/x.tx[t] root.txt /b/\n",
			"FROM scratch AS one\nCOPY b /a\nFROM one\nCOPY a/c /c\n", broken,
		},
		indirect: true,
	},
	"above": {
		attributes:  "contexts = { base = \"target:dir\" }",
		dockerfiles: []string{"FROM base\nCOPY b /b\n", "FROM scratch\nCOPY --from=base /a/c* /c/\nCOPY root.txt /\n", broken},
		indirect:    true,
	},
	"other": {
		attributes:  "context = \"a\"\n  contexts = { more = \"b\", top = \"target:above\" }",
		dockerfiles: []string{"FROM scratch\nCOPY . /a/\nCOPY --from=more . /b/\n", "FROM scratch\nCOPY --from=more *.txt /b/\nCOPY --from=top / /top/\n", broken},
		indirect:    true,
	},
}

// modelProject is what a model's build file and Dockerfiles are made of.
type modelProject struct {
	names []string
	// dockerfile is which of its Dockerfiles a target has, label what it is labelled
	// with, and out says that it is in no group.
	dockerfile, label map[string]int
	out               map[string]bool
	wrong             bool // the build file is broken
}

func newProject() *modelProject {
	p := &modelProject{dockerfile: make(map[string]int), label: make(map[string]int), out: make(map[string]bool)}
	for name := range modelTargets {
		p.names = append(p.names, name)
	}
	slices.Sort(p.names)
	return p
}

func (p *modelProject) buildFile() string {
	var b strings.Builder
	var members []string
	for _, n := range p.names {
		if !p.out[n] {
			members = append(members, fmt.Sprintf("%q", n))
		}
		fmt.Fprintf(&b, "target %q {\n  dockerfile = \"%s/%s.Dockerfile\"\n  tags = [\"localhost/%s\"]\n", n, "${DIR}", n, n)
		if l := p.label[n]; l > 0 {
			fmt.Fprintf(&b, "  labels = { v = \"%d\" }\n", l)
		}
		fmt.Fprintf(&b, "  %s\n}\n", modelTargets[n].attributes)
	}
	fmt.Fprintf(&b, "group \"default\" { targets = [%s] }\n", strings.Join(members, ", "))
	if p.wrong {
		b.WriteString("target \"wrong\" {\n")
	}
	return b.String()
}

// change changes the build file or a Dockerfile.
func (p *modelProject) change(w *watched, r *rand.Rand) string {
	n := p.names[r.IntN(len(p.names))]
	switch r.IntN(4) {
	case 0, 1:
		all := modelTargets[n].dockerfiles
		i := r.IntN(len(all))
		if i == len(all)-1 && r.IntN(3) > 0 {
			i = 0 // there is little to see while it is broken
		}
		p.dockerfile[n] = i
		w.write(n+".Dockerfile", all[i])
		return fmt.Sprintf("Dockerfile %d of %s", i, n)
	case 2:
		p.label[n] = r.IntN(3)
	default:
		p.out[n] = r.IntN(3) == 0
		p.out["all"] = false // there has to be one
	}
	p.wrong = r.IntN(8) == 0
	p.write(w)
	return fmt.Sprintf("build file: labels %v, without %v, broken %t", p.label, p.out, p.wrong)
}

func (p *modelProject) write(w *watched) {
	w.Helper()
	w.write("zbuild.hcl", strings.ReplaceAll(p.buildFile(), "${DIR}", w.dir))
}

// repair makes all files of the project whole.
func (p *modelProject) repair(w *watched) {
	for _, n := range p.names {
		if all := modelTargets[n].dockerfiles; p.dockerfile[n] == len(all)-1 {
			p.dockerfile[n] = 0
			w.write(n+".Dockerfile", all[0])
		}
	}
	if p.wrong {
		p.wrong = false
		p.write(w)
	}
}

func model(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	p := newProject()
	files := map[string]string{"root.txt": "0", "link/f": "0", ".dockerignore": "*.log\n**/skip\n!a/keep.log\nout\nzbuild.hcl\n*.Dockerfile\n"}
	for _, n := range p.names {
		files[n+".Dockerfile"] = modelTargets[n].dockerfiles[0]
	}
	for _, d := range []string{"a", "a/c", "a/skip", "b", "out"} {
		for _, f := range []string{"x.txt", "y.txt", "z.log"} {
			files[d+"/"+f] = "0"
		}
	}
	w := newWatched(t, files)
	p.write(w)
	w.start()
	last := make(map[string]string)
	for step := range 4 {
		w.forget()
		var log []string
		if step == 3 {
			p.repair(w)
		}
		for range 1 + r.IntN(6) {
			if step != 3 && r.IntN(5) == 0 {
				log = append(log, p.change(w, r))
			} else {
				log = append(log, w.random(r))
			}
			if r.IntN(4) == 0 {
				time.Sleep(time.Duration(r.IntN(120)) * time.Millisecond)
			}
		}
		w.quiet()
		fresh := filepath.Join(t.TempDir(), "fresh")
		g := bake(t, w.dir, fresh)
		if !g.OK() {
			// A target that does not build says nothing about the others: what is
			// named then are images of before.
			w.compareFailed(g)
			clear(last)
			continue
		}
		var built []string
		for _, t := range g.Plan.Targets {
			if t.Requested {
				built = append(built, t.Name)
			}
		}
		if d := cmp.Diff(images(t, fresh, built), images(t, w.store, built)); d != "" {
			t.Fatalf("step %d, after %q (-fresh +watched):\n%s\nnotices: %+v\nproblems: %v", step, log, d, w.notices, w.problems())
		}
		w.exact(last, log)
	}
}

// problems are those of the last generation.
func (w *watched) problems() (all []error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range slices.Backward(w.notices) {
		f, ok := n.(session.Finished)
		if !ok {
			continue
		}
		if g := f.Generation; g.Result != nil {
			all = append(all, g.Result.Failures...)
		}
		return append(append(all, f.Generation.Err), f.Generation.Diagnostics.Errs()...)
	}
	return nil
}

// compareFailed looks whether what fails has been said to fail.
func (w *watched) compareFailed(g *session.Generation) {
	w.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range slices.Backward(w.notices) {
		if rest, ok := n.(session.Waiting); ok {
			if len(rest.Failed) == 0 && !rest.Broken {
				w.Fatalf("the bake fails (%v), and nothing is said to fail", g.Err)
			}
			return
		}
	}
}

// exact looks whether anything was built that did not have to be. images has the
// last image of every target; a build that leaves a target's image as it was did
// nothing that was needed, unless the build before it failed.
func (w *watched) exact(last map[string]string, log []string) {
	w.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	steps := 0
	for _, n := range w.notices {
		f, ok := n.(session.Finished)
		if !ok || f.Generation.Result == nil {
			continue
		}
		for _, s := range f.Generation.Plan.Steps {
			if s.Local == nil {
				steps++
			}
		}
		if len(f.Started.Affected) == 0 {
			w.Errorf("built nothing, after %q", log)
		}
		needed := make(map[string]bool)
		for _, t := range f.Started.Affected {
			need(f.Generation.Plan, t, needed)
		}
		for _, s := range f.Generation.Plan.Stages {
			if !slices.ContainsFunc(s.Targets, func(t string) bool { return needed[t] }) {
				w.Errorf("a stage of %q was built for %q", s.Targets, f.Started.Affected)
			}
		}
		if !f.Generation.OK() || f.Canceled {
			clear(last) // what is built after a failure may be as it was before it
			continue
		}
		for _, t := range f.Generation.Result.Targets {
			if !slices.Contains(f.Started.Affected, t.Name) {
				w.Errorf("%s was built without being affected, after %q", t.Name, log)
			}
			if was := last[t.Name]; was == t.Image.Digest.String() && !f.Started.Rescan && !modelTargets[t.Name].indirect {
				w.Errorf("%s was built again for %q, and is what it was, after %q; notices: %+v", t.Name, f.Started.Changed, log, w.notices)
			}
			last[t.Name] = t.Image.Digest.String()
		}
	}
	if len(w.ran) > steps {
		w.Errorf("%d steps ran (%q), and the affected targets have %d, after %q", len(w.ran), w.ran, steps, log)
	}
}

// need adds a target and those whose results it may use.
func need(p *planner.Plan, target string, needed map[string]bool) {
	if needed[target] {
		return
	}
	needed[target] = true
	for _, n := range p.Target(target).Needs {
		need(p, n, needed)
	}
}

// random makes one random change.
func (w *watched) random(r *rand.Rand) string {
	dirs := []string{"a", "a/c", "a/skip", "b", "out", "a/new", "b/deep/er"}
	names := []string{"x.txt", "y.txt", "z.log", "keep.log", "n.txt"}
	file := dirs[r.IntN(len(dirs))] + "/" + names[r.IntN(len(names))]
	dir := dirs[r.IntN(len(dirs))]
	// Whatever cannot be done, because something is not there, is not.
	switch op := r.IntN(11); op {
	case 0, 1, 2:
		w.write2(file, fmt.Sprint(r.IntN(3)))
		return "write " + file
	case 3:
		_ = os.Remove(w.path(file))
		return "remove " + file
	case 4:
		tmp := w.path("." + filepath.Base(file) + ".tmp~")
		if os.WriteFile(tmp, []byte(fmt.Sprint(r.IntN(3))), 0o644) == nil && os.Rename(tmp, w.path(file)) != nil {
			_ = os.Remove(tmp)
		}
		return "save " + file
	case 5:
		_ = os.Chmod(w.path(file), 0o600|fs.FileMode(r.IntN(2))*0o100)
		return "chmod " + file
	case 6:
		to := dirs[r.IntN(len(dirs))]
		_ = os.Rename(w.path(dir), w.path(to))
		return "rename " + dir + " to " + to
	case 7:
		_ = os.RemoveAll(w.path(dir))
		return "remove all of " + dir
	case 8:
		now := time.Now()
		_ = os.Chtimes(w.path(file), now, now)
		return "touch " + file
	case 9:
		_ = os.Remove(w.path("link"))
		_ = os.RemoveAll(w.path("link"))
		_ = os.Symlink(dir, w.path("link"))
		return "link to " + dir
	default:
		w.write2(".dockerignore", fmt.Sprintf("*.log\n**/skip\n!a/keep.log\nout%d\nzbuild.hcl\n*.Dockerfile\n", r.IntN(2)))
		return "ignore"
	}
}

// write2 writes a file if that can be done.
func (w *watched) write2(name, text string) {
	if os.MkdirAll(filepath.Dir(w.path(name)), 0o755) == nil {
		_ = os.WriteFile(w.path(name), []byte(text), 0o644)
	}
}
