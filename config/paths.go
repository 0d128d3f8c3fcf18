package config

import (
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/buildx/util/ocilayout"
	"github.com/docker/buildx/util/osutil"
	"github.com/docker/buildx/util/urlutil"
	"github.com/hashicorp/hcl/v2"

	"github.com/zbuild/zbuild/internal/vcs"
)

const (
	cwdPrefix   = "cwd://"
	imagePrefix = "docker-image://"
	ociPrefix   = "oci-layout://"
)

// base is the directory that relative paths written in a file start from. What
// is written on the command line starts from the working directory.
func (l *loader) base(filename string) string {
	if s := l.source(filename); s != nil {
		return s.base
	}
	return l.req.Dir
}

// contextFile is the file that says where the target's main context starts from.
func (r *resolver) contextFile(t *wireTarget) string {
	o, ok := t.from["context"]
	if !ok {
		return t.at.Filename
	}
	for seen := map[string]bool{}; o.like != "" && !seen[o.like]; {
		seen[o.like] = true
		other := r.targets[o.like]
		if other == nil {
			break
		}
		if next, ok := other.from["context"]; ok {
			o = next
			continue
		}
		return other.at.Filename
	}
	return o.at.Filename
}

// isPath reports whether a context is a path that a base matters to.
func isPath(s string) bool {
	return !strings.HasPrefix(s, cwdPrefix) && !strings.HasPrefix(s, targetPrefix) && !strings.HasPrefix(s, "docker-image:") &&
		!strings.HasPrefix(s, ociPrefix) && !urlutil.IsRemoteURL(s)
}

// shown is how bake --print shows a path that is written in a file: as it is there, or
// if paths start from the files, after the directory by which the file was named.
func (l *loader) shown(written, filename string) string {
	if written == "" || !isPath(written) || filepath.IsAbs(written) {
		return written
	}
	if s := l.source(filename); s != nil && s.named != "" {
		return filepath.ToSlash(filepath.Join(s.named, filepath.FromSlash(written)))
	}
	base := l.base(filename)
	if base == l.project.Dir {
		return written
	}
	rel, err := filepath.Rel(l.project.Dir, filepath.Join(base, written))
	if err != nil {
		return filepath.Join(base, written)
	}
	return filepath.ToSlash(rel)
}

// cleanContext is what bake makes of a main context before it prints it.
func cleanContext(s string) string {
	if after, ok := strings.CutPrefix(s, cwdPrefix); ok {
		return path.Clean(after)
	}
	if urlutil.IsRemoteURL(s) {
		return s
	}
	return path.Clean(s)
}

// context classifies what is written as a build context.
func (l *loader) context(written, base string) Context {
	c := Context{Raw: written, Value: written}
	switch {
	case strings.HasPrefix(written, targetPrefix):
		c.Kind, c.Value = ContextTarget, strings.TrimPrefix(written, targetPrefix)
	case strings.HasPrefix(written, imagePrefix):
		c.Kind, c.Value = ContextImage, strings.TrimPrefix(written, imagePrefix)
	case strings.HasPrefix(written, ociPrefix):
		c.Kind = ContextOCILayout
		if ref, ok, err := ocilayout.Parse(written); ok && err == nil {
			ref.Path = joinPath(base, ref.Path)
			c.Value = ref.String()
		}
	case strings.HasPrefix(written, cwdPrefix):
		c.Kind, c.Value = ContextDir, l.abs(strings.TrimPrefix(written, cwdPrefix))
	case isGit(written):
		c.Kind = ContextGit
	case urlutil.IsHTTPURL(written):
		c.Kind = ContextHTTP
	default:
		c.Kind, c.Value = ContextDir, joinPath(base, filepath.FromSlash(written))
	}
	return c
}

// isGit reports whether a context is a git repository: a URL that git has its own
// scheme for, or one of HTTP that ends in .git.
func isGit(s string) bool {
	if !urlutil.IsHTTPURL(s) {
		return urlutil.IsRemoteURL(s)
	}
	u, err := url.Parse(s)
	return err == nil && strings.HasSuffix(u.Path, ".git")
}

// withoutLinks is an absolute path with its symbolic links followed, as far as
// it exists.
func withoutLinks(p string) string {
	existing, rest, err := osutil.EvaluateToExistingPath(p)
	if err != nil {
		return filepath.Clean(p)
	}
	return filepath.Join(existing, rest)
}

func within(p, dir string) bool {
	rel, err := filepath.Rel(dir, p)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(os.PathSeparator))
}

// roots are the directories that a build may use without --allow: the working
// directory, as in bake; and with zbuild's own files, those of the files and the
// repositories that all of these are in.
func (l *loader) roots() []string {
	roots := []string{l.req.Dir, l.project.Dir}
	own := false
	for _, s := range l.sources {
		if s.ours && s.path != "" && !s.included {
			own = true
			roots = append(roots, filepath.Dir(s.path))
		}
	}
	for _, dir := range slices.Clone(roots) {
		if root := vcs.Root(dir); own && root != "" {
			roots = append(roots, root)
		}
	}
	for i := range roots {
		roots[i] = withoutLinks(roots[i])
	}
	slices.Sort(roots) // outer ones come before those in them
	var outer []string
	for _, dir := range roots {
		if !slices.ContainsFunc(outer, func(o string) bool { return within(dir, o) }) {
			outer = append(outer, dir)
		}
	}
	return outer
}

// checkRead reports a path that the build would read and may not.
func (r *resolver) checkRead(at *hcl.Range, what, p string) {
	if !r.allow.anyRead {
		r.checkPath(at, what, p, r.allow.read, "fs.read", "read")
	}
}

// checkWrite reports a path that the build would write and may not.
func (r *resolver) checkWrite(at *hcl.Range, what, p string) {
	if !r.allow.anyWrite {
		r.checkPath(at, what, p, r.allow.write, "fs.write", "write")
	}
}

func (r *resolver) checkPath(at *hcl.Range, what, p string, allowed []string, entitlement, verb string) {
	if r.fsUnchecked {
		return
	}
	resolved := withoutLinks(p)
	for _, root := range slices.Concat(r.rootDirs, allowed) {
		if within(resolved, root) {
			return
		}
	}
	link := ""
	if resolved != filepath.Clean(p) {
		link = ", which is " + resolved
	}
	r.refuse(at, entitlement+"="+resolved, "The path is outside of the project",
		"%s is %s%s. That is outside of %s. To let the build %s it", what, p, link, strings.Join(r.rootDirs, " and "), verb)
}
