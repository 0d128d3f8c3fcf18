package torture

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// damages are what may become of a file.
var damages = map[string]func(rnd *rand.Rand, raw []byte) []byte{
	"empty":   func(*rand.Rand, []byte) []byte { return nil },
	"half":    func(_ *rand.Rand, raw []byte) []byte { return raw[:len(raw)/2] },
	"zeros":   func(_ *rand.Rand, raw []byte) []byte { return make([]byte, len(raw)) },
	"garbage": func(*rand.Rand, []byte) []byte { return []byte("\x7fELF, or what do I know") },
	"a bit": func(rnd *rand.Rand, raw []byte) []byte {
		out := slices.Clone(raw)
		if len(out) > 0 {
			out[rnd.IntN(len(out))] ^= 1 << rnd.IntN(8)
		}
		return out
	},
	"longer": func(_ *rand.Rand, raw []byte) []byte { return append(slices.Clone(raw), raw...) },
}

// stateFiles are the files that zbuild keeps for itself, without those of cache
// mounts, which are the user's.
func (p *place) stateFiles() (files []string) {
	p.t.Helper()
	dir := filepath.Join(p.root, "zbuild")
	must(p.t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == "cache-mounts" {
			return filepath.SkipDir
		}
		if d.Type().IsRegular() {
			files = append(files, name)
		}
		return nil
	}))
	return files
}

// TestDamage damages what zbuild keeps for itself. Images come out right all the
// same, it is said once, and never again.
func TestDamage(t *testing.T) {
	rnd := random(t)
	p := newProject(t, 2, 10)
	s := newPlace(t)
	s.zbuild(p.dir, "bake", "--progress", "plain")
	want := s.fingerprints()
	kinds := make([]string, 0, len(damages))
	for kind := range damages {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	if !*long {
		rnd.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
		kinds = kinds[:3]
	}
	for range times(1, 30) {
		for _, kind := range kinds {
			for _, f := range s.stateFiles() {
				raw, err := os.ReadFile(f)
				must(t, err)
				must(t, os.WriteFile(f, damages[kind](rnd, raw), 0o600))
			}
			text := s.zbuild(p.dir, "bake", "--progress", "plain")
			for _, what := range []string{"an entry of the cache is damaged", "the index of file digests is damaged", "the history of a stage is damaged"} {
				if !strings.Contains(text, what) {
					t.Errorf("%s: it is not said that %s:\n%s", kind, what, text)
				}
			}
			s.same(want)
			s.clean()
			text = s.zbuild(p.dir, "bake", "--progress", "plain", "--explain")
			if strings.Contains(text, "damaged") || !strings.Contains(text, "No step ran.") {
				t.Errorf("%s: the bake after that:\n%s", kind, text)
			}
			// What nobody has noticed yet.
			s.zbuild(p.dir, "cache", "du")
			s.zbuild(p.dir, "cache", "prune")
			if t.Failed() {
				t.FailNow()
			}
		}
	}
}

// TestClock puts the times of everything that zbuild keeps, and of the project's
// files, where a clock that jumps would leave them.
func TestClock(t *testing.T) {
	p := newProject(t, 2, 10)
	s := newPlace(t)
	s.zbuild(p.dir, "bake", "--progress", "plain")
	want := s.fingerprints()
	for _, jump := range []time.Duration{10 * 365 * 24 * time.Hour, -10 * 365 * 24 * time.Hour, 2 * time.Second, 0} {
		at := time.Now().Add(jump)
		for _, f := range s.stateFiles() {
			must(t, os.Chtimes(f, at, at))
		}
		if text := s.zbuild(p.dir, "bake", "--progress", "plain", "--explain"); !strings.Contains(text, "No step ran.") {
			t.Errorf("times of the cache moved by %v: %s", jump, text)
		}
		s.zbuild(p.dir, "cache", "prune", "--older-than", "1h")
		if text := s.zbuild(p.dir, "bake", "--progress", "plain", "--explain"); jump >= 0 && !strings.Contains(text, "No step ran.") {
			t.Errorf("times of the cache moved by %v, and what is older than an hour removed: %s", jump, text)
		}
		s.same(want)

		// A file of the future that changes and keeps its size and its time.
		file := filepath.Join(p.dir, "services", p.services[0], "f0.txt")
		raw, err := os.ReadFile(file)
		must(t, err)
		for _, text := range []string{strings.ToUpper(string(raw)), string(raw)} {
			must(t, os.WriteFile(file, []byte(text), 0o644))
			must(t, os.Chtimes(file, at, at))
			s.zbuild(p.dir, "bake", "--progress", "plain")
			changed := s.fingerprints()["localhost/"+p.services[0]+":latest"] != want["localhost/"+p.services[0]+":latest"]
			if changed != (text != string(raw)) {
				t.Errorf("a file at %v was changed to %q, and the image: %t", jump, text, changed)
			}
		}
		s.same(want)
		s.clean()
	}
	// By age everything goes, wherever its times are.
	for _, f := range s.stateFiles() {
		at := time.Now().Add(-48 * time.Hour)
		must(t, os.Chtimes(f, at, at))
	}
	s.zbuild(p.dir, "cache", "prune", "--older-than", "24h")
	if text := s.zbuild(p.dir, "cache", "du", "--format", "json"); strings.Contains(text, `"step"`) {
		t.Errorf("steps that are older than a day are left: %s", text)
	}
}
