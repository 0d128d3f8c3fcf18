package conformance_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// staleDirectory is an edit that BuildKit does not notice: a directory that is copied gives
// its mode to the one that is made for it. zbuild runs what lies on that.
const staleDirectory = "a directory's mode"

const againProject = `
-- zbuild.hcl --
target "default" {
  args        = { DECLARED = "1", EARLY = "1" }
  secret      = ["id=word,src=word.txt"]
}
-- Dockerfile --
ARG BASE=busybox
ARG EARLY
FROM $BASE AS tools
COPY tools.txt /
RUN wget -qO /tools http://VISITORS/tools

FROM busybox AS main
COPY --chmod=644 chmodded.txt /
COPY src.txt dir/ /src/
RUN wget -qO /one http://VISITORS/one
ARG DECLARED
ARG HIDDEN=x
ENV HIDDEN=constant
RUN wget -qO /two http://VISITORS/two
LABEL l=1
EXPOSE 80
CMD ["true"]
RUN --mount=type=secret,id=word wget -qO /three http://VISITORS/three
RUN --mount=from=tools,source=/tools,target=/t --mount=source=dir,target=/d wget -qO /four http://VISITORS/four
COPY --from=tools /tools /
USER app
WORKDIR /tmp
RUN wget -qO /tmp/five http://VISITORS/five
COPY <<END /tmp/here
text
END
SHELL ["/bin/sh", "-ec"]
RUN wget -qO /tmp/six http://VISITORS/six
-- .dockerignore --
ignored*
dir/ignored
-- src.txt --
src
-- dir/file --
file
-- chmodded.txt --
c
-- tools.txt --
tools
-- word.txt --
word
`

// TestRunsAgain compares which steps run again after edits, in stores that have all that
// was built before.
func TestRunsAgain(t *testing.T) {
	s, v := newSuite(t), newVisitors(t)
	w := newCacheWorld(t, s, v, againProject)
	at := func(name string) string { return filepath.Join(w.dir, name) }
	replace := func(file, old, with string) func(t *testing.T) {
		return func(t *testing.T) {
			t.Helper()
			raw, err := os.ReadFile(at(file))
			check(t, err)
			if !strings.Contains(string(raw), old) {
				t.Fatalf("%s has no %q", file, old)
			}
			check(t, os.WriteFile(at(file), []byte(strings.ReplaceAll(string(raw), old, with)), 0o644))
		}
	}
	write := func(file, text string) func(t *testing.T) {
		return func(t *testing.T) { check(t, os.WriteFile(at(file), []byte(text), 0o644)) }
	}
	hcl := func(line string) func(t *testing.T) {
		return replace("zbuild.hcl", "target \"default\" {\n", "target \"default\" {\n"+line+"\n")
	}
	arg := func(more string) func(t *testing.T) { return replace("zbuild.hcl", `DECLARED = "1"`, more) }
	edits := []struct {
		name string
		edit func(t *testing.T)
	}{
		{"nothing", func(*testing.T) {}},
		{"times", func(t *testing.T) { check(t, age(w.dir)) }},
		{"the source", write("src.txt", "other\n")},
		{"a mode", func(t *testing.T) { check(t, os.Chmod(at("src.txt"), 0o600)) }},
		{"a mode that COPY --chmod gives", func(t *testing.T) { check(t, os.Chmod(at("chmodded.txt"), 0o600)) }},
		{"an owner", func(t *testing.T) { check(t, os.Chown(at("src.txt"), 12, 34)) }},
		{"a file more", write("dir/more", "more\n")},
		{"a file less", func(t *testing.T) { check(t, os.Remove(at("dir/file"))) }},
		{staleDirectory, func(t *testing.T) { check(t, os.Chmod(at("dir"), 0o700)) }},
		{"what is ignored", write("dir/ignored", "x\n")},
		{"what nobody copies", write("other.txt", "x\n")},
		{"the ignore file", replace(".dockerignore", "dir/ignored", "dir/fil?")},
		{"the ignore file without effect", replace(".dockerignore", "dir/ignored", "nothing")},
		{"a stage that leaves the same", write("tools.txt", "other\n")},
		{"a secret", write("word.txt", "other\n")},
		{"which secret", replace("Dockerfile", "id=word wget", "id=another wget")},
		{"an argument", arg(`DECLARED = "2"`)},
		{"an argument that ENV hides", arg(`DECLARED = "1", HIDDEN = "y"`)},
		{"an argument that nobody declares", arg(`DECLARED = "1", NOBODY = "y"`)},
		{"an argument before FROM", replace("zbuild.hcl", `EARLY = "1"`, `EARLY = "2"`)},
		{"a proxy", arg(`DECLARED = "1", NO_PROXY = "x.example"`)},
		{"the base by another name", arg(`DECLARED = "1", BASE = "busybox:1.36"`)},
		{"a comment", replace("Dockerfile", "LABEL l=1", "# comment\n\nLABEL l=1")},
		{"lines", replace("Dockerfile", "RUN wget -qO /one", "RUN wget \\\n  -qO /one")},
		{"spaces", replace("Dockerfile", "RUN wget -qO /one", "RUN   wget -qO  /one")},
		{"cases", replace("Dockerfile", "RUN wget -qO /one", "run wget -qO /one")},
		{"a name of a stage", replace("Dockerfile", "AS main", "AS other")},
		{"a stage in between", replace("Dockerfile", "FROM busybox AS main", "FROM busybox AS between\nRUN wget -qO /x http://"+v.Listener.Addr().String()+"/between\nFROM busybox AS main")},
		{"a label", replace("Dockerfile", "LABEL l=1", "LABEL l=2")},
		{"what a container is told", replace("Dockerfile", "EXPOSE 80", "EXPOSE 81\nVOLUME /v\nHEALTHCHECK CMD true\nSTOPSIGNAL 9")},
		{"the environment", replace("Dockerfile", "LABEL l=1", "ENV MORE=1")},
		{"the user", replace("Dockerfile", "USER app", "USER mail")},
		{"the user by number", replace("Dockerfile", "USER app", "USER 1000:1000")},
		{"the directory", replace("Dockerfile", "WORKDIR /tmp", "WORKDIR /var")},
		{"the shell", replace("Dockerfile", `"-ec"`, `"-c"`)},
		{"a here-document", replace("Dockerfile", "text\n", "other\n")},
		{"an option of a mount", replace("Dockerfile", "source=dir,target=/d", "source=dir,target=/d,rw")},
		{"the source of a mount", replace("Dockerfile", "source=dir,target=/d", "source=dir/file,target=/d")},
		{"a file of a mount", write("dir/file", "other\n")},
		{"a copy's owner", replace("Dockerfile", "COPY src.txt", "COPY --chown=1:1 src.txt")},
		{"a copy's link", replace("Dockerfile", "COPY src.txt", "COPY --link src.txt")},
		{"a host", hcl(`extra-hosts = { "h.example" = "10.0.0.1" }`)},
		{"the shared memory", hcl(`shm-size = "32m"`)},
		{"a limit", hcl(`ulimits = ["nofile=100:200"]`)},
		{"the platform spelled out", hcl(`platforms = ["linux/amd64"]`)},
		{"an output", hcl(`output = ["type=registry,compression=zstd"]`)},
		{"a stage without the cache", hcl(`no-cache-filter = ["tools"]`)},
		{"labels of the target", hcl(`labels = { x = "y" }`)},
	}
	var ran [2][]string
	for i, program := range programs() {
		var o outcome
		if ran[i], o = w.again(t, program, "default", nil); o.err != nil {
			t.Fatalf("%s: %v\n%s", program, o.err, o.output)
		}
	}
	if d := cmp.Diff(ran[1], ran[0]); d != "" || len(ran[0]) < 7 {
		t.Fatalf("at first there ran (-buildkit +zbuild):\n%s%q", d, ran[0])
	}
	keep := filepath.Join(t.TempDir(), "kept")
	check(t, os.CopyFS(keep, os.DirFS(w.dir)))
	for _, e := range edits {
		t.Run(e.name, func(t *testing.T) {
			// The same directory, for whoever remembers it by its name.
			entries, err := os.ReadDir(w.dir)
			check(t, err)
			for _, entry := range entries {
				check(t, os.RemoveAll(at(entry.Name())))
			}
			check(t, os.CopyFS(w.dir, os.DirFS(keep)))
			e.edit(t)
			var ran [2][]string
			for i, program := range programs() {
				var o outcome
				if ran[i], o = w.again(t, program, "default", nil); o.err != nil {
					t.Fatalf("%s: %v\n%s", program, o.err, o.output)
				}
			}
			if d := cmp.Diff(ran[1], ran[0]); d != "" && e.name != staleDirectory {
				t.Errorf("there ran (-buildkit +zbuild):\n%s", d)
			}
		})
	}
}
