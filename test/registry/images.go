package registry

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// epoch is when every file of a base image was written: an image made twice is the
// same.
var epoch = time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)

// File is a file of an image's layer.
type File struct {
	tar.Header
	Content []byte
}

// Busybox is a small base image: Debian's static busybox with a link for each of
// its applets, the directories of a root file system, and a few users and groups.
// Its one layer and its configuration depend on the host's busybox only.
func Busybox(ctx context.Context) (v1.Image, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("%w: install busybox-static", err)
	}
	if err := static(path); err != nil {
		return nil, err
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	applets, err := exec.CommandContext(ctx, path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox --list: %w", err)
	}
	dirs := []string{"bin/", "dev/", "etc/", "home/", "home/app/", "proc/", "root/", "sys/", "tmp/", "usr/", "usr/bin/", "var/", "var/spool/", "var/spool/mail/"}
	modes := map[string]int64{"root/": 0o700, "tmp/": 0o1777}
	var files []File
	for _, dir := range dirs {
		f := File{Header: tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: cmp.Or(modes[dir], 0o755)}}
		if dir == "home/app/" {
			f.Uid, f.Gid = 1000, 1000
		}
		files = append(files, f)
	}
	text := func(name, content string) {
		files = append(files, File{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, Content: []byte(content)})
	}
	text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nmail:x:8:8:mail:/var/spool/mail:/bin/false\napp:x:1000:1000:App,,,:/home/app:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n")
	text("etc/group", "root:x:0:\ndaemon:x:1:\nmail:x:8:app\nvideo:x:44:app\napp:x:1000:\nnogroup:x:65534:\n")
	files = append(files, File{Header: tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, Content: program})
	names := strings.Fields(string(applets))
	slices.Sort(names)
	for _, applet := range names {
		if applet != "busybox" {
			files = append(files, File{Header: tar.Header{Typeflag: tar.TypeLink, Name: "bin/" + applet, Linkname: "bin/busybox", Mode: 0o755}})
		}
	}
	layer, err := Layer(files)
	if err != nil {
		return nil, err
	}
	return Image(v1.Config{
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Cmd: []string{"sh"},
	}, layer)
}

// static fails for a program that needs what an image with nothing else lacks.
func static(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is dynamically linked: install busybox-static", path)
		}
	}
	return nil
}

// Layer makes a gzip-compressed layer of files, in their order. Files without a
// time get the same one.
func Layer(files []File) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := f.Header
		h.Size = int64(len(f.Content))
		if h.ModTime.IsZero() {
			h.ModTime = epoch
		}
		if err := w.WriteHeader(&h); err != nil {
			return nil, fmt.Errorf("%s: %w", h.Name, err)
		}
		if _, err := w.Write(f.Content); err != nil {
			return nil, fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
}

// Image makes an OCI image for this machine's architecture.
func Image(config v1.Config, layers ...v1.Layer) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Created = v1.Time{Time: epoch}
	file.Config = config
	if img, err = mutate.ConfigFile(img, file); err != nil {
		return nil, err
	}
	var adds []mutate.Addendum
	for i, layer := range layers {
		adds = append(adds, mutate.Addendum{Layer: layer, MediaType: types.OCILayer, History: v1.History{
			Created: v1.Time{Time: epoch}, CreatedBy: fmt.Sprintf("base layer %d", i),
		}})
	}
	return mutate.Append(img, adds...)
}

// Debian is Debian's minbase system as an image, made by debootstrap from the
// mirror that the host's apt uses. That takes a minute: the archive is kept in the
// directory cache, and made only if it is not there yet.
func Debian(ctx context.Context, suite, cache string) (v1.Image, error) {
	archive := filepath.Join(cache, "debian-"+suite+".tar")
	if _, err := os.Stat(archive); err != nil {
		if err := bootstrap(ctx, suite, archive); err != nil {
			return nil, err
		}
	}
	layer, err := tarball.LayerFromFile(archive, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	return Image(v1.Config{
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Cmd: []string{"bash"},
	}, layer)
}

func bootstrap(ctx context.Context, suite, archive string) error {
	if err := os.MkdirAll(filepath.Dir(archive), 0o755); err != nil {
		return err
	}
	root, err := os.MkdirTemp(filepath.Dir(archive), "debootstrap-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	args := []string{"--variant=minbase", suite, filepath.Join(root, "root")}
	if mirror := debianMirror(); mirror != "" {
		args = append(args, mirror)
	}
	if out, err := exec.CommandContext(ctx, "debootstrap", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("debootstrap: %w\n%s", err, out)
	}
	part := filepath.Join(root, "part")
	pack := exec.CommandContext(ctx, "tar", "--sort=name", "--numeric-owner", "--exclude=./var/cache/apt/archives/*.deb", "--exclude=./dev/*", "-C", filepath.Join(root, "root"), "-cf", part, ".")
	if out, err := pack.CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w\n%s", err, out)
	}
	return os.Rename(part, archive)
}

// debianMirror is the first mirror of the host's apt, empty if that is not Debian's.
func debianMirror() string {
	for _, path := range []string{"/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"} {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) < 2 || (fields[0] != "URIs:" && fields[0] != "deb") {
				continue
			}
			for _, field := range fields[1:] {
				if strings.HasPrefix(field, "http") && !strings.Contains(field, "security") {
					return field
				}
			}
		}
	}
	return ""
}
