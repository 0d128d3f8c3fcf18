package torture

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestRoom gives bakes ever more room, from none to enough, so that they run out of it
// at every place where they write: in the store, in the project's own directory, and in
// the run directory. Each says what it was short of, and nothing is damaged or left.
func TestRoom(t *testing.T) {
	for what, scarce := range scarcities {
		for _, where := range []string{"store", "run"} {
			for _, known := range []bool{false, true} {
				name := what + " of the " + where
				if known {
					name += " known"
				}
				t.Run(name, func(t *testing.T) { newShortage(t, scarce, where, known).run() })
			}
		}
	}
}

// shortage is a scarcity of one of the places.
type shortage struct {
	*testing.T
	scarcity
	where   string
	known   bool   // the store has been opened before
	disk    string // of which there is little
	project string
	want    map[string]string // what has to come of a bake
	ways    map[string]int64  // in which bakes failed, and with how much room
	tries   int
}

// secretValue is what nobody is to find anywhere.
const secretValue = "hush-4f1d"

func newShortage(t *testing.T, scarce scarcity, where string, known bool) *shortage {
	x := &shortage{T: t, scarcity: scarce, where: where, known: known, disk: scarce.disk(t), ways: make(map[string]int64)}
	x.project = filepath.Join(x.disk, "project")
	if where == "run" {
		x.project = t.TempDir()
	}
	x.write()
	return x
}

// write writes the project: all kinds of steps, of outputs, and a cache for others.
func (x *shortage) write() {
	p := &project{t: x.T, dir: x.project}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		x.Fatal("busybox is missing: install the package busybox-static")
	}
	raw, err := os.ReadFile(busybox)
	must(x.T, err)
	p.write("rootfs/bin/busybox", string(raw), 0o755)
	for _, f := range []string{"app/a", "app/sub/b", "linked", "base"} {
		p.write(f, strings.Repeat(f+"\n", 2000), 0o644)
	}
	archive, err := exec.Command("tar", "-C", x.project, "-c", "app").Output()
	must(x.T, err)
	p.write("archive.tar", string(archive), 0o644)
	p.write("Dockerfile", `FROM scratch AS base
COPY rootfs /
COPY base /etc/base
RUN ["/bin/busybox", "sh", "-ec", "mkdir /opt; cd /opt; for i in 1 2 3 4; do cp /etc/base f$i; done"]

FROM base AS tools
RUN ["/bin/busybox", "sh", "-ec", "mkdir -p /tools/bin; cp /opt/f1 /tools/bin/tool; ln -s bin/tool /tools/link"]

FROM base
COPY app /app
COPY --link linked /linked/file
COPY --from=tools /tools /tools
ADD archive.tar /unpacked/
RUN --mount=type=bind,source=app,target=/mounted --mount=type=cache,target=/cache --mount=type=secret,id=s \
    ["/bin/busybox", "sh", "-ec", "cp -r /mounted /copy; cp /mounted/a /cache/a; cp /cache/a /app/a; test -s /run/secrets/s; rm /opt/f2; mv /opt/f3 /opt/f5"]
CMD ["/bin/busybox", "cat", "/copy/a"]
`, 0o644)
	p.write("zbuild.hcl", `group "default" { targets = ["image", "archive", "tree"] }
target "_" {
  secret = ["id=s,env=ROOM_SECRET"]
}
target "image" {
  inherits = ["_"]
  tags     = ["localhost/room:1", "localhost/room:2"]
  cache-to = ["type=local,dest=out/cache,mode=max"]
}
target "archive" {
  inherits = ["_"]
  args     = { SOURCE_DATE_EPOCH = "1000000000" }
  output   = ["type=oci,dest=out/image.tar,rewrite-timestamp=true"]
}
target "tree" {
  inherits = ["_"]
  target   = "tools"
  output   = ["type=local,dest=out/tree"]
}
`, 0o644)
}

// place is an empty store.
func (x *shortage) place() *place {
	x.Helper()
	dir, run := filepath.Join(x.disk, "place"), ""
	if x.where == "run" {
		dir, run = filepath.Join(x.TempDir(), "place"), filepath.Join(x.disk, "run")
	}
	must(x.T, errors.Join(os.RemoveAll(dir), os.RemoveAll(filepath.Join(x.project, "out"))))
	s := newPlaceIn(x.T, dir)
	if run != "" {
		must(x.T, os.RemoveAll(run))
		s.runIn(run)
	}
	s.env = append(s.env, "ROOM_SECRET="+secretValue)
	return s
}

// run finds out how much a bake needs, and bakes with less.
func (x *shortage) run() {
	before := x.free(x.T, x.disk)
	s := x.place()
	s.zbuild(x.project, "bake", "--progress", "plain")
	x.want = x.made(s)
	s.clean()
	needs := before - x.free(x.T, x.disk)
	if x.where == "run" {
		needs *= 4 // where nearly all is removed again
	}
	x.remove(s)
	grid := int64(times(0, 32))
	if grid == 0 {
		rnd := random(x.T)
		for range 2 {
			x.try(rnd.Int64N(needs))
		}
	} else {
		for x.try(needs) != "" {
			needs += needs/4 + 1
		}
		unit := max(needs/4096, 1) // neither a page more or less, nor an inode, goes unseen where it matters
		lastN, last := int64(0), x.try(0)
		for i := range grid {
			n := needs * (i + 1) / grid
			now := x.try(n)
			x.between(lastN, n, last, now, unit)
			lastN, last = n, now
		}
	}
	x.Logf("%d bakes, for which %d is enough; they failed in %d ways", x.tries, needs, len(x.ways))
	for _, way := range slices.Sorted(maps.Keys(x.ways)) {
		x.Logf("with %d left: %s", x.ways[way], way)
	}
}

// between looks for more ways to fail.
func (x *shortage) between(lo, hi int64, atLo, atHi string, unit int64) {
	if atLo == atHi || hi-lo <= unit {
		return
	}
	mid := lo + (hi-lo)/2
	at := x.try(mid)
	x.between(lo, mid, atLo, at, unit)
	x.between(mid, hi, at, atHi, unit)
}

// try bakes with so much room and says in which way that fails; "" if it does not.
func (x *shortage) try(n int64) string {
	x.Helper()
	x.tries++
	s := x.place()
	defer x.remove(s)
	if x.known {
		s.zbuild(x.project, "cache", "du")
	}
	giveBack := x.waste(x.T, x.disk, x.free(x.T, x.disk)-n)
	out, err := s.command(x.project, "bake", "--progress", "plain", "--jobs", "1").CombinedOutput()
	way := x.complaint(out, err)
	if _, ok := x.ways[way]; !ok {
		x.ways[way] = n
	}
	if err != nil && x.where == "store" && x.tries%2 == 0 {
		// What the message says to do has to work now.
		if text, err := s.command(x.project, "cache", "prune", "--all").CombinedOutput(); err != nil && !strings.Contains(string(text), "make room at") {
			x.Errorf("pruning: %v\n%s", err, tail(text))
		}
	}
	giveBack()
	if err == nil {
		x.same("a bake that succeeded", x.made(s), false)
	}
	x.same("a bake that failed", x.made(s), true)
	s.zbuild(x.project, "cache", "du") // the next start
	s.clean()
	s.zbuild(x.project, "bake", "--progress", "plain")
	x.same("the next bake", x.made(s), false)
	s.clean()
	x.strays()
	if x.Failed() {
		x.Fatalf("with %d left:\n%s", n, tail(out))
	}
	return way
}

func (x *shortage) remove(s *place) {
	unmountBelow(s.dir)
	must(x.T, errors.Join(os.RemoveAll(s.dir), os.RemoveAll(filepath.Join(x.project, "out"))))
}

// names are what differs from one bake to the next in what it says.
var names = regexp.MustCompile(`[0-9a-f]{12,}|[0-9A-Z]{26}|\d+(\.\d+)?(ms|s|B|kB|MB)?`)

// complaint makes sure that a bake says what it was short of, and gives that.
func (x *shortage) complaint(out []byte, err error) string {
	x.Helper()
	text := string(out)
	for _, never := range []string{"goroutine ", "panic: ", secretValue} {
		if strings.Contains(text, never) {
			x.Errorf("there is %q in\n%s", never, tail(out))
		}
	}
	short := make(map[string]bool)
	for line := range strings.Lines(text) {
		if strings.Contains(strings.ToLower(line), "no space left") {
			short[names.ReplaceAllString(strings.TrimSpace(line), "N")] = true
		}
	}
	way := strings.Join(slices.Sorted(maps.Keys(short)), "\n\t")
	if err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 && exit.ExitCode() != 125 {
			x.Errorf("%v\n%s", err, tail(out))
		}
		if len(short) == 0 {
			x.Errorf("nothing is said of the disk:\n%s", tail(out))
		}
		if !strings.Contains(text, "make room") && !strings.Contains(text, "makes room") {
			x.Errorf("it is not said what to do:\n%s", tail(out))
		}
		way = "FAILED " + way
	}
	return way
}

// made says what there is of a bake's results.
func (x *shortage) made(s *place) map[string]string {
	x.Helper()
	all := s.fingerprints()
	out := filepath.Join(x.project, "out")
	if raw, err := os.ReadFile(filepath.Join(out, "image.tar")); err == nil {
		sum := sha256.Sum256(raw)
		all["image.tar"] = hex.EncodeToString(sum[:])
	}
	all["driver"] = s.driver()
	if raw, err := os.ReadFile(filepath.Join(out, "tree", "tools", "bin", "tool")); err == nil {
		sum := sha256.Sum256(raw)
		all["tree"] = hex.EncodeToString(sum[:])
	}
	if raw, err := os.ReadFile(filepath.Join(out, "cache", "index.json")); err == nil {
		all["cache"] = "is whole"
		if !json.Valid(raw) {
			all["cache"] = fmt.Sprintf("has the index %q", raw)
		}
		blobs, _ := filepath.Glob(filepath.Join(out, "cache", "blobs", "sha256", "*"))
		for _, b := range blobs {
			raw, err := os.ReadFile(b)
			must(x.T, err)
			if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != filepath.Base(b) {
				all["cache"] = "has a blob that is damaged"
			}
		}
	}
	return all
}

// driver is what the store's driver has written down about what can be done here.
func (p *place) driver() string {
	known, _ := filepath.Glob(filepath.Join(p.run, "overlay", "*-*"))
	flag, _ := os.ReadFile(filepath.Join(p.root, "overlay", ".has-mount-program"))
	for i := range known {
		known[i] = filepath.Base(known[i])
	}
	return fmt.Sprintf("%q, mount program: %q", known, flag)
}

// same compares what there is with what there has to be; some may be missing.
func (x *shortage) same(of string, got map[string]string, some bool) {
	x.Helper()
	for name, w := range x.want {
		g, ok := got[name]
		if some && (!ok || name == "tree" || name == "driver") { // which are not made all at once
			continue
		}
		if g != w {
			x.Errorf("%s: %s is %q, want %q", of, name, g, w)
		}
	}
}

// strays fails the test if something was left beside the results.
func (x *shortage) strays() {
	x.Helper()
	_ = filepath.WalkDir(filepath.Join(x.project, "out"), func(name string, d fs.DirEntry, err error) error {
		must(x.T, err)
		lock := strings.HasSuffix(d.Name(), ".lock") && d.Name() != "cache.lock" // which local caches have
		if strings.HasPrefix(d.Name(), ".") || d.Name() == "ingest" || lock {
			x.Errorf("a file was left: %s", name)
		}
		return nil
	})
}

// runIn gives a store another run directory.
func (p *place) runIn(dir string) {
	p.t.Helper()
	must(p.t, os.MkdirAll(dir, 0o700))
	raw, err := os.ReadFile(p.conf)
	must(p.t, err)
	must(p.t, os.WriteFile(p.conf, bytes.ReplaceAll(raw, []byte(p.run), []byte(dir)), 0o600))
	for i := range p.env {
		p.env[i] = strings.ReplaceAll(p.env[i], p.run, dir)
	}
	p.run = dir
	p.t.Cleanup(func() { unmountBelow(filepath.Dir(dir)) })
}
