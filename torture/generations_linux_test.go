package torture

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tree is a random project whose image says everything about the files that it was
// made of, times aside.
type tree struct {
	*project
	rnd   *rand.Rand
	saved map[string]string // what files held some edits ago
}

// dockerfiles are what a random project may be built with. {{list}} stands for a
// RUN that lists a directory.
var dockerfiles = []string{
	"COPY src /src\n{{list /src}}\n",
	"WORKDIR /w\nCOPY . .\n{{list /w}}\n",
	"COPY src/*.txt src/a* /d/\n{{list /d}}\n",
	"COPY --exclude=*.log --exclude=**/x src /src\n{{list /src}}\n",
	"COPY --parents src/**/*.txt /p/\n{{list /p}}\n",
	"COPY --chmod=640 --chown=7:8 src /src\n{{list /src}}\n",
	"COPY --link src/dir /l\nRUN echo y > /y\n{{list /l}}\n",
	"RUN --mount=type=bind,source=src,target=/m cp -a /m /copied\n{{list /copied}}\n",
	"COPY --from=made /out/t /t\nCOPY --from=made /out/all /all\n{{list /t}}\n",
	"RUN --mount=type=bind,from=made,source=/out,target=/m cat /m/* > /m2\n{{list /}}\n",
	"COPY --from=made --chown=3 /out /o\nCOPY src/dir /o/dir\n{{list /o}}\n",
	"COPY src src/dir src/a* /s/\n{{list /s}}\n",
	"COPY src /twice\nCOPY --chmod=711 src/dir src /twice/\n{{list /twice}}\n",
	"COPY --parents --chmod=u=rwX,go= src/*/x src/**/*.txt /q/\n{{list /q}}\n",
	"RUN --mount=type=bind,target=/m cp -a /m/src /c1\nRUN --mount=type=bind,target=/m,rw rm -r /m/src/dir; cp -a /m /c2\n{{list /c1}}\n",
	"COPY --from=made /src /g\nCOPY --from=made /src /g/again\nRUN echo changed >> /g/all2\nCOPY --from=made /out /src /g/\nRUN cp -a /g /g2\n{{list /g2}}\n",
	"ADD src /added\nCOPY <<EOF /here\nhello\nEOF\n{{list /added}}\n",
}

func newTree(t *testing.T, rnd *rand.Rand) *tree {
	t.Helper()
	x := &tree{project: newProject(t, 1, 1), rnd: rnd, saved: map[string]string{}}
	for _, f := range []string{"a.txt", "b.txt", "c.log", "dir/d.txt", "dir/x/e.txt", "dir/x/f", "abc", "Case.txt"} {
		x.write("src/"+f, f+"\n", 0o644)
	}
	must(t, os.Symlink("a.txt", filepath.Join(x.dir, "src/link")))
	must(t, os.Link(filepath.Join(x.dir, "src/b.txt"), filepath.Join(x.dir, "src/hard.txt")))
	x.write(".dockerignore", "**/*.log\nDockerfile\nzbuild.hcl\n", 0o644)
	body := ""
	for _, i := range rnd.Perm(len(dockerfiles))[:3] {
		body += dockerfiles[i]
	}
	// A list does not list itself: whether its file is there yet when find comes by
	// is up to the scheduler.
	for strings.Contains(body, "{{list ") {
		i := strings.Index(body, "{{list ")
		j := i + strings.Index(body[i:], "}}")
		dir := body[i+len("{{list ") : j]
		list := fmt.Sprintf(`RUN find %s -xdev -path /proc -prune -o -path /sys -prune -o -path /dev -prune -o -path /bin -prune -o -path /etc -prune -o -name 'list*' -prune -o -type f -exec md5sum {} + | sort > /list%d`, dir, i)
		body = body[:i] + list + body[j+2:]
	}
	x.write("Dockerfile", `FROM scratch AS base
COPY rootfs /
RUN ["/bin/busybox", "--install", "-s", "/bin"]

FROM base AS made
COPY src /src
RUN mkdir /out && cat /src/*.txt > /out/all && cat /src/dir/x/* | wc -c > /out/t

FROM base
ARG V=1
`+body+"RUN echo $V > /v\n", 0o644)
	return x
}

// edit changes something and says what.
func (x *tree) edit() string {
	x.t.Helper()
	var files []string
	must(x.t, filepath.WalkDir(filepath.Join(x.dir, "src"), func(name string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, name)
		}
		return err
	}))
	f := files[x.rnd.IntN(len(files))]
	rel, err := filepath.Rel(x.dir, f)
	must(x.t, err)
	raw, err := os.ReadFile(f)
	must(x.t, err)
	info, err := os.Stat(f)
	must(x.t, err)
	dir := filepath.Dir(f)
	switch x.rnd.IntN(14) {
	case 0:
		at := time.Now().Add(-time.Duration(x.rnd.IntN(1e6)) * time.Second)
		must(x.t, os.Chtimes(f, at, at))
		return "touch " + rel
	case 1:
		mode := []os.FileMode{0o644, 0o755, 0o600, 0o444}[x.rnd.IntN(4)]
		must(x.t, os.Chmod(f, mode))
		return fmt.Sprintf("chmod %o %s", mode, rel)
	case 2:
		mode := []os.FileMode{0o755, 0o700, 0o775}[x.rnd.IntN(3)]
		must(x.t, os.Chmod(dir, mode))
		return fmt.Sprintf("chmod %o the directory of %s", mode, rel)
	case 3: // the same size and the same time
		x.saved[f] = string(raw)
		text := strings.ToUpper(string(raw))
		must(x.t, os.WriteFile(f, []byte(text), info.Mode()))
		must(x.t, os.Chtimes(f, info.ModTime(), info.ModTime()))
		return "uppercase with the old time " + rel
	case 4, 5: // back to what it was
		for name, text := range x.saved {
			delete(x.saved, name)
			if _, err := os.Stat(name); err == nil {
				must(x.t, os.WriteFile(name, []byte(text), 0o644))
				return "back " + name
			}
		}
		fallthrough
	case 6, 7:
		x.saved[f] = string(raw)
		must(x.t, os.WriteFile(f, fmt.Appendf(nil, "edit %d\n", x.rnd.IntN(100)), info.Mode()))
		return "write " + rel
	case 8: // atomic, as editors do it
		must(x.t, os.WriteFile(f+"~", fmt.Appendf(nil, "saved %d\n", x.rnd.IntN(100)), 0o644))
		must(x.t, os.Rename(f+"~", f))
		return "save " + rel
	case 9:
		to := filepath.Join(dir, []string{"a2.txt", "new", "x.log", "Z.txt"}[x.rnd.IntN(4)])
		must(x.t, os.Rename(f, to))
		return "rename " + rel + " to " + filepath.Base(to)
	case 10: // case
		to := filepath.Join(dir, strings.ToUpper(filepath.Base(f)))
		must(x.t, os.Rename(f, to))
		return "rename " + rel + " to upper case"
	case 11:
		link := filepath.Join(x.dir, "src", "link")
		must(x.t, os.RemoveAll(link))
		to := []string{"b.txt", "a.txt", "dir", "nowhere"}[x.rnd.IntN(4)]
		must(x.t, os.Symlink(to, link))
		return "link to " + to
	case 12:
		name := filepath.Join(x.dir, "src", fmt.Sprintf("n%d.txt", x.rnd.IntN(5)))
		if os.Remove(name) == nil {
			return "remove " + name
		}
		if x.rnd.IntN(2) == 0 {
			must(x.t, os.Link(f, name))
			return "hard link " + name + " to " + rel
		}
		must(x.t, os.WriteFile(name, []byte("new\n"), 0o644))
		return "make " + name
	}
	raw, err = os.ReadFile(filepath.Join(x.dir, "Dockerfile"))
	must(x.t, err)
	text := string(raw)
	if strings.Contains(text, "ARG V=1") {
		text = strings.Replace(text, "ARG V=1", "ARG V=2", 1)
	} else {
		text = strings.Replace(text, "ARG V=2", "ARG V=1", 1)
	}
	x.write("Dockerfile", text, 0o644)
	return "the Dockerfile's V"
}

// TestGenerations edits random projects at random. After every edit the image is
// what an empty cache gives: layers are compared file by file and configurations
// field by field, times aside, which tell of when a step ran.
func TestGenerations(t *testing.T) {
	rnd := random(t)
	projects, edits := 2, times(3, 40)
	if *long {
		projects = 25
	}
	for n := range projects {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			x := newTree(t, rnd)
			// Some patterns may match nothing after an edit; these stay.
			x.write("src/keep.txt", "keep\n", 0o644)
			x.write("src/akeep", "keep\n", 0o644)
			x.write("src/dir/x/keep", "keep\n", 0o644)
			s := newPlace(t)
			s.zbuild(x.dir, "bake", "--progress", "plain")
			history := []string{}
			for range edits {
				for range 1 + rnd.IntN(2) {
					history = append(history, x.edit())
				}
				x.write("src/keep.txt", "keep\n", 0o644)
				x.write("src/akeep", "keep\n", 0o644)
				x.write("src/dir/x/keep", "keep\n", 0o644)
				text := s.zbuild(x.dir, "bake", "--progress", "plain", "--explain")
				empty := newPlace(t)
				empty.zbuild(x.dir, "bake", "--progress", "plain")
				s.same(empty.fingerprints())
				if t.Failed() {
					file, _ := os.ReadFile(filepath.Join(x.dir, "Dockerfile"))
					t.Fatalf("after %q\n%s\n%s\nis:\n%s\nwant:\n%s", history, file, text, s.describe("localhost/svc00:latest"), empty.describe("localhost/svc00:latest"))
				}
				unmountBelow(empty.dir)
				must(t, os.RemoveAll(empty.root))
			}
			s.clean()
		})
	}
}
