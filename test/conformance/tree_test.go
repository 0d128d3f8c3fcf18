package conformance_test

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// node is what has content: several paths have the same one if they are hard links.
type node struct {
	kind    byte // as in a tar header; never a hard link
	mode    int64
	uid     int
	gid     int
	link    string // a symbolic link's target
	size    int64
	digest  string
	device  [2]int64
	xattrs  map[string]string
	changed time.Time
	head    string // the content's beginning, for messages
}

// tree is an image's file system, by cleaned paths without a leading slash.
type tree map[string]*node

// flatten reads an image's layers, the lowest first, as the OCI image
// specification says ("Applying Changesets").
func flatten(img v1.Image) (tree, error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	t := make(tree)
	for i, layer := range layers {
		if err := t.apply(layer); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return t, nil
}

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

func (t tree) apply(layer v1.Layer) error {
	r, err := layer.Uncompressed()
	if err != nil {
		return err
	}
	defer r.Close()
	own := make(map[string]bool) // paths of this layer: whiteouts do not concern them
	archive := tar.NewReader(r)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		dir, base := path.Split(name)
		switch {
		case base == opaque:
			t.remove(path.Clean(dir), false, own)
			continue
		case strings.HasPrefix(base, whiteout):
			t.remove(path.Join(dir, strings.TrimPrefix(base, whiteout)), true, own)
			continue
		}
		own[name] = true
		if err := t.add(name, h, archive); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

// remove removes what lower layers have at and below a path.
func (t tree) remove(name string, itself bool, own map[string]bool) {
	prefix := name + "/"
	if name == "." {
		prefix = ""
	}
	for p := range t {
		if (itself && p == name || strings.HasPrefix(p, prefix)) && !own[p] {
			delete(t, p)
		}
	}
}

func (t tree) add(name string, h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeLink {
		target, ok := t[strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")]
		if !ok {
			return fmt.Errorf("a hard link to %s, which is not there", h.Linkname)
		}
		t[name] = target
		return nil
	}
	n := &node{
		kind: h.Typeflag, mode: h.Mode & 0o7777, uid: h.Uid, gid: h.Gid, link: h.Linkname, size: h.Size,
		device: [2]int64{h.Devmajor, h.Devminor}, changed: h.ModTime, xattrs: make(map[string]string),
	}
	for key, value := range h.PAXRecords {
		if attr, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			n.xattrs[attr] = value
		}
	}
	if n.kind == tar.TypeReg {
		sum := sha256.New()
		head := make([]byte, min(h.Size, 4096))
		if _, err := io.ReadFull(content, head); err != nil {
			return err
		}
		sum.Write(head)
		if _, err := io.Copy(sum, content); err != nil {
			return err
		}
		n.digest, n.head = hex.EncodeToString(sum.Sum(nil)), string(head)
	}
	// A directory over a directory keeps what is in it.
	if old := t[name]; old != nil && old.kind == tar.TypeDir && n.kind != tar.TypeDir {
		t.remove(name, false, nil)
	}
	t[name] = n
	return nil
}

// links are, for each path, the other paths of the same file.
func (t tree) links() map[string]string {
	paths := make(map[*node][]string)
	for _, p := range slices.Sorted(maps.Keys(t)) {
		paths[t[p]] = append(paths[t[p]], p)
	}
	out := make(map[string]string)
	for p, n := range t {
		if len(paths[n]) > 1 {
			out[p] = strings.Join(paths[n], " ")
		}
	}
	return out
}

// differences says in which paths two trees differ, and how. A time that both
// made while the test ran, which is to say after started, is the same time.
func differences(zbuild, buildkit tree, started time.Time) []string {
	var out []string
	names := make(map[string]bool)
	for p := range zbuild {
		names[p] = true
	}
	for p := range buildkit {
		names[p] = true
	}
	ours, theirs := zbuild.links(), buildkit.links()
	for _, p := range slices.Sorted(maps.Keys(names)) {
		a, b := zbuild[p], buildkit[p]
		switch {
		case a == nil:
			out = append(out, fmt.Sprintf("/%s: only in buildkit's: %s", p, b))
		case b == nil:
			out = append(out, fmt.Sprintf("/%s: only in zbuild's: %s", p, a))
		default:
			for _, d := range a.differences(b, started) {
				out = append(out, "/"+p+": "+d)
			}
			if ours[p] != theirs[p] {
				out = append(out, fmt.Sprintf("/%s: hard links: zbuild [%s], buildkit [%s]", p, ours[p], theirs[p]))
			}
		}
	}
	return out
}

func (n *node) differences(o *node, started time.Time) []string {
	var out []string
	differ := func(what string, a, b any) {
		if a != b {
			out = append(out, fmt.Sprintf("%s: zbuild %v, buildkit %v", what, a, b))
		}
	}
	differ("type", string(n.kind), string(o.kind))
	differ("mode", fmt.Sprintf("%#o", n.mode), fmt.Sprintf("%#o", o.mode))
	differ("owner", fmt.Sprintf("%d:%d", n.uid, n.gid), fmt.Sprintf("%d:%d", o.uid, o.gid))
	differ("link to", n.link, o.link)
	differ("device", n.device, o.device)
	if !maps.Equal(n.xattrs, o.xattrs) {
		differ("xattrs", fmt.Sprintf("%q", n.xattrs), fmt.Sprintf("%q", o.xattrs))
	}
	if n.digest != o.digest {
		differ("content", fmt.Sprintf("%d bytes %q", n.size, n.head), fmt.Sprintf("%d bytes %q", o.size, o.head))
	}
	if a, b := n.changed.Unix(), o.changed.Unix(); a != b && (a < started.Unix() || b < started.Unix()) {
		differ("mtime", n.changed.UTC().Format(time.RFC3339), o.changed.UTC().Format(time.RFC3339))
	}
	return out
}

// String is for messages.
func (n *node) String() string {
	s := fmt.Sprintf("type %c mode %#o owner %d:%d", n.kind, n.mode, n.uid, n.gid)
	if n.kind == tar.TypeReg {
		s += fmt.Sprintf(" %d bytes %.80q", n.size, n.head)
	}
	if n.link != "" {
		s += " -> " + n.link
	}
	return s
}
