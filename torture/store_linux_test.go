package torture

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/archive"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/internal/storecheck"
)

// place is a containers-storage of a test's own, with what zbuild, podman and
// buildah need to find it.
type place struct {
	t     *testing.T
	dir   string // everything is below it
	root  string // graphroot
	run   string // runroot
	tmp   string // TMPDIR
	conf  string
	env   []string
	known map[string]string // what layers hold, by ID
	texts map[string]string // the same at length
}

func newPlace(t *testing.T) *place {
	t.Helper()
	return newPlaceIn(t, t.TempDir())
}

// newPlaceIn puts the store into a directory, which may be on a file system of its
// own. The run directory is not there: it is in memory on most machines.
func newPlaceIn(t *testing.T, dir string) *place {
	t.Helper()
	p := &place{
		t: t, dir: dir, root: filepath.Join(dir, "root"), run: filepath.Join(t.TempDir(), "run"),
		tmp: filepath.Join(dir, "tmp"), conf: filepath.Join(dir, "storage.conf"), known: map[string]string{}, texts: map[string]string{},
	}
	for _, d := range []string{p.root, p.run, p.tmp, filepath.Join(dir, "home")} {
		must(t, os.MkdirAll(d, 0o700))
	}
	driver, options := storeDriver()
	text := fmt.Sprintf("[storage]\ndriver = %q\ngraphroot = %q\nrunroot = %q\n", driver, p.root, p.run)
	if driver == "overlay" {
		text += "\n[storage.options.overlay]\n"
	}
	for _, o := range options {
		key, value, _ := strings.Cut(strings.TrimPrefix(o, "overlay."), "=")
		text += fmt.Sprintf("%s = %q\n", key, value)
	}
	must(t, os.WriteFile(p.conf, []byte(text), 0o600))
	p.env = append(os.Environ(),
		"CONTAINERS_STORAGE_CONF="+p.conf, "TMPDIR="+p.tmp, "HOME="+filepath.Join(dir, "home"), "XDG_RUNTIME_DIR="+p.run,
	)
	t.Cleanup(func() {
		unmountBelow(dir)
		unmountBelow(filepath.Dir(p.run))
	})
	return p
}

// storeDriver is the driver that was asked for, and its options.
func storeDriver() (name string, options []string) {
	switch *drive {
	case "fuse":
		return "overlay", []string{"overlay.skip_mount_home=true", "overlay.mount_program=/usr/bin/fuse-overlayfs"}
	case "overlay":
		return "overlay", []string{"overlay.skip_mount_home=true"}
	}
	return *drive, nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// unmountBelow takes away what would keep a test's directory from being removed.
func unmountBelow(dir string) {
	mounts := mountsBelow(dir)
	for _, m := range slices.Backward(mounts) {
		_ = unix.Unmount(m, unix.MNT_DETACH)
	}
}

func mountsBelow(dir string) (mounts []string) {
	raw, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			mounts = append(mounts, f[4])
		}
	}
	return mounts
}

// command is a zbuild in a project.
func (p *place) command(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Dir, cmd.Env = dir, p.env
	return cmd
}

// zbuild runs a zbuild that has to succeed and gives what it printed.
func (p *place) zbuild(dir string, args ...string) string {
	p.t.Helper()
	out, err := p.command(dir, args...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("zbuild %s: %v\n%s", strings.Join(args, " "), err, tail(out))
	}
	if bytes.Contains(out, []byte("goroutine ")) || bytes.Contains(out, []byte("panic: ")) {
		p.t.Fatalf("zbuild %s: a stack trace\n%s", strings.Join(args, " "), out)
	}
	return string(out)
}

// tool runs another program on the store.
func (p *place) tool(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = p.env
	return cmd.CombinedOutput()
}

func tail(out []byte) []byte {
	const most = 6000
	return out[max(0, len(out)-most):]
}

// open opens the store in this process. It must not be kept open while others
// work on it for longer than a look takes.
func (p *place) open() storage.Store {
	p.t.Helper()
	driver, options := storeDriver()
	store, err := storage.GetStore(storage.StoreOptions{
		GraphRoot: p.root, RunRoot: p.run, GraphDriverName: driver, GraphDriverOptions: options,
	})
	must(p.t, err)
	return store
}

// fingerprints says by name what images are, times aside: with the same
// instructions and files two builds agree in it.
func (p *place) fingerprints() map[string]string {
	p.t.Helper()
	store := p.open()
	defer store.Shutdown(false) //nolint:errcheck // nothing is mounted
	images, err := store.Images()
	must(p.t, err)
	all := make(map[string]string)
	for _, img := range images {
		if len(img.Names) == 0 {
			continue
		}
		fp, err := p.fingerprint(store, &img)
		if err != nil {
			p.t.Errorf("image %s %v: %v", img.ID, img.Names, err)
		}
		for _, n := range img.Names {
			all[n] = fp
		}
	}
	return all
}

func (p *place) fingerprint(store storage.Store, img *storage.Image) (string, error) {
	raw, err := store.ImageBigData(img.ID, "sha256:"+img.ID)
	if err != nil {
		return "", err
	}
	var config ocispecs.Image
	if err := json.Unmarshal(raw, &config); err != nil {
		return "", err
	}
	sum := sha256.New()
	config.Created = nil
	for i := range config.History {
		config.History[i].Created = nil
	}
	diffs := config.RootFS.DiffIDs
	config.RootFS.DiffIDs = nil
	clean, err := json.Marshal(config)
	if err != nil {
		return "", err
	}
	sum.Write(clean)
	id := img.TopLayer
	for i := len(diffs) - 1; i >= 0; i-- {
		layer, err := store.Layer(id)
		if err != nil {
			return "", err
		}
		content, err := p.layer(store, layer, diffs[i])
		if err != nil {
			return "", fmt.Errorf("layer %s: %w", id, err)
		}
		fmt.Fprintln(sum, content)
		id = layer.Parent
	}
	if id != "" {
		return "", fmt.Errorf("there are more layers than the configuration names: %s", id)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// layer says what a layer holds, times aside, and makes sure that it has the
// digest that the image says.
func (p *place) layer(store storage.Store, layer *storage.Layer, want digest.Digest) (string, error) {
	if s, ok := p.known[layer.ID]; ok {
		return s, nil
	}
	plain := archive.Uncompressed
	stream, err := store.Diff(layer.Parent, layer.ID, &storage.DiffOptions{Compression: &plain})
	if err != nil {
		return "", err
	}
	defer stream.Close()
	whole := digest.Canonical.Digester()
	in := io.TeeReader(stream, whole.Hash())
	s, text, err := listing(in)
	if err == nil {
		_, err = io.Copy(io.Discard, in)
	}
	if err != nil {
		return "", err
	}
	if whole.Digest() != want {
		return "", fmt.Errorf("its digest is %s, the image says %s", whole.Digest(), want)
	}
	p.known[layer.ID], p.texts[layer.ID] = s, text
	return s, nil
}

// describe lists what the layers of an image hold.
func (p *place) describe(name string) string {
	store := p.open()
	defer store.Shutdown(false) //nolint:errcheck // nothing is mounted
	img, err := store.Image(name)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for id := img.TopLayer; id != ""; {
		layer, err := store.Layer(id)
		if err != nil {
			return err.Error()
		}
		fmt.Fprintf(&b, "layer %s: %s\n", id, p.known[id])
		if p.texts[id] != "" && len(p.texts[id]) < 4000 {
			b.WriteString(p.texts[id] + "\n")
		}
		id = layer.Parent
	}
	return b.String()
}

func listing(in io.Reader) (short, long string, err error) {
	var lines []string
	r := tar.NewReader(in)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", "", err
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			return "", "", err
		}
		var attrs []string
		for k, v := range h.PAXRecords {
			if strings.HasPrefix(k, "SCHILY.xattr.") {
				attrs = append(attrs, k+"="+v)
			}
		}
		slices.Sort(attrs)
		lines = append(lines, fmt.Sprintf("%q %c %o %d:%d %q %d %x %q", h.Name, h.Typeflag, h.Mode, h.Uid, h.Gid, h.Linkname, h.Size, sum.Sum(nil), attrs))
	}
	slices.Sort(lines)
	all := strings.Join(lines, "\n")
	return fmt.Sprintf("%d %x", len(lines), sha256.Sum256([]byte(all))), all, nil
}

// clean fails the test if the store is damaged or anything is left over. A zbuild
// has been started and has ended since anything was killed.
func (p *place) clean() {
	p.t.Helper()
	store := p.open()
	problems, err := storecheck.Problems(store)
	must(p.t, err)
	images, err := store.Images()
	for i := range images {
		if _, err := store.ImageBigData(images[i].ID, storage.ImageDigestBigDataKey); err != nil {
			problems = append(problems, fmt.Sprintf("an image has no manifest: %v %v", images[i].Names, err))
		}
	}
	_, err2 := store.Shutdown(false)
	must(p.t, errors.Join(err, err2))
	p.leftovers(problems)
}

// leftovers fails the test if processes, mounts or files were left.
func (p *place) leftovers(problems []string) {
	p.t.Helper()
	for _, m := range append(mountsBelow(p.dir), mountsBelow(filepath.Dir(p.run))...) {
		problems = append(problems, "a mount was left: "+m)
	}
	for _, dir := range []string{
		p.tmp, filepath.Join(p.run, "zbuild"), filepath.Join(p.root, "zbuild", "staged"),
		filepath.Join(p.root, "overlay", "staging"), filepath.Join(p.root, "overlay", "tempdirs"),
	} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			problems = append(problems, err.Error())
		}
		for _, e := range entries {
			problems = append(problems, "a file was left: "+filepath.Join(dir, e.Name()))
		}
	}
	for _, dir := range []string{filepath.Join(p.root, "zbuild")} {
		_ = filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
			if err == nil && (strings.HasPrefix(d.Name(), ".new-") || strings.HasPrefix(d.Name(), ".index-") || strings.HasPrefix(d.Name(), "new-")) {
				problems = append(problems, "a temporary file was left: "+name)
			}
			return nil
		})
	}
	stages, _ := filepath.Glob(filepath.Join(p.root, "overlay", "*", "zbuild-*"))
	for _, dir := range stages {
		problems = append(problems, "a half-made layer was left: "+dir)
	}
	left := p.processes()
	for end := time.Now().Add(5 * time.Second); len(left) > 0 && time.Now().Before(end); left = p.processes() {
		time.Sleep(50 * time.Millisecond) // fuse-overlayfs ends some time after it was unmounted
	}
	problems = append(problems, left...)
	if len(problems) > 0 {
		p.t.Errorf("%d problems:\n%s", len(problems), strings.Join(problems, "\n"))
	}
}

// processes lists the processes that have to do with the store.
func (p *place) processes() (found []string) {
	for _, pid := range p.running() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		found = append(found, fmt.Sprintf("a process was left: %d: %q", pid, line))
	}
	return found
}

// running are the numbers of those processes.
func (p *place) running() (found []int) {
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range entries {
		line, _ := os.ReadFile(filepath.Join(proc, "cmdline"))
		root, _ := os.Readlink(filepath.Join(proc, "root"))
		if bytes.Contains(line, []byte(p.dir+"/")) || bytes.Contains(line, []byte(p.run+"/")) || strings.HasPrefix(root, p.dir+"/") {
			if pid, err := strconv.Atoi(filepath.Base(proc)); err == nil {
				found = append(found, pid)
			}
		}
	}
	return found
}

// start starts a zbuild; its output goes to the buffer.
func (p *place) start(dir string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	p.t.Helper()
	cmd := p.command(dir, args...)
	out := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	// What it starts may outlive it and hold its output open.
	cmd.WaitDelay = 100 * time.Millisecond
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(p.t, cmd.Start())
	return cmd, out
}
