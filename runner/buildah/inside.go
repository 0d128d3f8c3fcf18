//go:build linux

package buildah

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	rootfs "github.com/containerd/continuity/fs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// inside gives mounts with targets on the way to which there is no link, neither in
// the root nor in what is mounted before them. A runtime sees to that by itself;
// buildah's chroot would follow a link out of the root and make the mount point on
// the machine.
func inside(root string, mounts []specs.Mount) ([]specs.Mount, error) {
	for _, d := range []string{"/dev", "/proc", "/sys"} {
		if info, err := os.Lstat(root + d); err == nil && info.Mode()&fs.ModeSymlink != 0 {
			return nil, fmt.Errorf("%s is a link in this image, so it cannot be mounted without an OCI runtime; install runc or crun", d)
		}
	}
	out := make([]specs.Mount, 0, len(mounts))
	for _, m := range mounts {
		p, err := rootfs.RootPath(root, m.Destination)
		if err != nil {
			return nil, fmt.Errorf("mounting %s: %w", m.Destination, hideRoots(err, root))
		}
		at := path.Clean("/" + strings.TrimPrefix(p, root))
		var below *specs.Mount // the innermost that the target lies in
		for i := range out {
			if o := &out[i]; strings.HasPrefix(at, strings.TrimSuffix(o.Destination, "/")+"/") {
				below = o
			}
		}
		if below != nil && below.Type == "bind" {
			rel := strings.TrimPrefix(at, below.Destination)
			p, err := rootfs.RootPath(below.Source, rel)
			if err != nil || p != filepath.Join(below.Source, rel) {
				return nil, fmt.Errorf("mounting %s: the way there leads through a link in what is mounted at %s; name the place that it leads to", m.Destination, below.Destination)
			}
		}
		m.Destination = at
		out = append(out, m)
	}
	return out, nil
}
