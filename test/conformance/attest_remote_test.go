package conformance_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

// remoteFiles are a git repository with an annotated tag and a light one, and files
// beside it. The Dockerfile in it is that of a context.
const remoteFiles = `
-- Dockerfile --
FROM scratch
ADD http://SERVER/repo.git#v1 /v1
ADD http://SERVER/repo.git?branch=other&subdir=sub /other
ADD http://SERVER/repo.git#light /light
ADD http://SERVER/repo.git /default
ADD http://SERVER/one.txt?x=y http://SERVER/sub/two.txt /files/
-- contexts.Dockerfile --
FROM scratch
COPY --from=files one /
COPY --from=archive / /archive
-- one.txt --
one
-- sub/two.txt --
two
-- setup.sh --
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@a GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@a GIT_AUTHOR_DATE="2020-01-01T00:00:00Z" GIT_COMMITTER_DATE="2020-01-01T00:00:00Z" GIT_CONFIG_NOSYSTEM=1 HOME=$PWD
mkdir work && cd work && git init -q -b main
echo one > one && mkdir sub && echo deep > sub/deep
printf "FROM scratch\nCOPY one /\n" > Dockerfile && printf "FROM scratch\nCOPY deep /\n" > sub/Dockerfile && printf "FROM scratch\nENV a=b\nADD http://SERVER/one.txt /\n" > alone.Dockerfile
git add -A && git commit -qm one && git tag -a v1 -m v1 && echo two > two && git add two && git commit -qm two && git branch other && git tag light
cd .. && git clone -q --bare work repo.git && (cd repo.git && git update-server-info)
cp work/alone.Dockerfile plain.txt && echo a > a.txt && tar -cf context.tar -C work . && tar -cf files.tar a.txt && rm -rf work
`

// TestRemoteMaterials compares what both state of builds that take something from
// servers: of contexts, Dockerfiles, and files and repositories that are added.
func TestRemoteMaterials(t *testing.T) {
	s := newSuite(t)
	for name, more := range map[string]string{
		"added":                 "",
		"git context":           `context = "http://SERVER/repo.git#v1"`,
		"git context by query":  `context = "http://SERVER/repo.git?ref=main&subdir=sub"`,
		"git context by commit": `context = "http://SERVER/repo.git"` + "\n" + `dockerfile = "alone.Dockerfile"`,
		"http context":          `context = "http://SERVER/plain.txt"`,
		"tar context":           `context = "http://SERVER/context.tar"`,
		"named contexts": `dockerfile = "contexts.Dockerfile"
			contexts = { files = "http://SERVER/repo.git#other", archive = "http://SERVER/files.tar", unused = "http://SERVER/repo.git" }`,
	} {
		for _, mode := range []string{"min", "max"} {
			t.Run(name+" "+mode, func(t *testing.T) {
				t.Parallel()
				base := "materials-" + strings.ReplaceAll(name, " ", "-") + "-" + mode
				dir := filepath.Join(t.TempDir(), base)
				check(t, os.MkdirAll(dir, 0o755))
				places := strings.NewReplacer("REGISTRY", s.registry.Addr(), "SERVER", s.files.serve(base, dir))
				archive := txtar.Parse([]byte(remoteFiles))
				archive.Files = append(archive.Files, txtar.File{Name: "zbuild.hcl", Data: fmt.Appendf(nil, "target \"default\" {\n  attest = [\"type=provenance,mode=%s\"]\n  output = [\"type=registry\"]\n%s\n}\n", mode, more)})
				tc := &testCase{name: base, targets: []string{"default"}, archive: archive}
				check(t, tc.unpack(t.Context(), dir, places))
				s.compareAttested(t, tc, dir)
			})
		}
	}
}
