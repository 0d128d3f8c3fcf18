package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"path"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/util/staticfs"
	digest "github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// withAttestations adds to a file tree what is stated about its files, as BuildKit
// does it: files beside them.
func (r *run) withAttestations(ctx context.Context, x *export, o *outgoing, tree fsutil.FS, split bool) (fsutil.FS, error) {
	wanted := x.result.SBOM.Step != nil
	for _, a := range x.target.Config.Attest {
		wanted = wanted || x.hasProvenance(a) && !isTrue(a.Attrs["inline-only"])
	}
	if !wanted {
		return tree, nil
	}
	subjects := []subject{}
	err := tree.Walk(ctx, "", func(p string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		f, err := tree.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		d, err := digest.FromReader(f)
		subjects = append(subjects, subject{Name: p, Digest: digestMap(d)})
		return err
	})
	if err != nil {
		return nil, err
	}
	sboms, err := r.sboms(ctx, x)
	if err != nil {
		return nil, err
	}
	statements, err := r.statements(ctx, x, sboms, subjects)
	if err != nil {
		return nil, err
	}
	files := staticfs.NewFS()
	for _, s := range statements {
		name, ext := o.spec.Tree.AttestationPrefix+s.Name, path.Ext(s.Name)
		if several(x.target) && !split {
			name = strings.TrimSuffix(name, ext) + "." + platformDir(platforms.FormatAll(x.result.Platform)) + ext
		}
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, s.Data, "", "  "); err != nil {
			return nil, err
		}
		const mode = 0o600
		modified := r.begin
		if e := x.epoch(o); e != nil {
			modified = *e
		}
		files.Add(name, &fstypes.Stat{Mode: mode, Path: name, ModTime: modified.UnixNano()}, pretty.Bytes())
	}
	return staticfs.NewMergeFS(tree, files), nil
}
