package planner

import (
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"

	"github.com/zbuild/zbuild/internal/remote"
)

// Material is a file behind a URL, or the tree of a commit of a git repository, that a
// result is made of.
type Material struct {
	// Address is what was asked for: URL, or REPOSITORY#REF. It may have credentials in it.
	Address string
	// File and Tree are what that was; one of them is nil.
	File *remote.File
	Tree *remote.Tree
}

// material pins a remote source of LLB.
func (u *unit) material(src *pb.SourceOp) (m Material, err error) {
	if isHTTP(src.Identifier) {
		want, err := remoteFile(src)
		if err != nil {
			return m, err
		}
		m.Address = want.URL
		m.File, err = u.remotes.file(want, u.cfg)
		return m, err
	}
	want, err := remoteTree(src)
	if err != nil {
		return m, err
	}
	m.Address = want.Remote
	if want.Ref != "" {
		m.Address += "#" + want.Ref
	}
	m.Tree, err = u.remotes.tree(want, u.cfg)
	return m, err
}

// isRemote reports whether a source of LLB is one that material knows.
func isRemote(src *pb.SourceOp) bool {
	return src != nil && (isHTTP(src.Identifier) || strings.HasPrefix(src.Identifier, gitScheme))
}

// materials are what the frontend has read the Dockerfile from, and what the result's
// steps take from elsewhere.
func (r *run) materials() []Material {
	out := slices.Clone(r.read)
	for _, v := range r.graph.order {
		for _, address := range r.graph.asked[v] {
			out = append(out, Material{Address: address, File: v.file, Tree: v.tree})
		}
	}
	return out
}
