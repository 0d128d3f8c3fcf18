//go:build linux

package buildah

import (
	"context"
	"fmt"
	"path/filepath"

	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/internal/sealed"
	"github.com/zbuild/zbuild/internal/source"
	"github.com/zbuild/zbuild/runner"
)

// Content digests a selection of a snapshot, once: it never changes.
func (e *Engine) Content(ctx context.Context, s runner.Snapshot, sel source.Selection) (digest.Digest, error) {
	what := digest.FromString(fmt.Sprintf("%#v", sel)).Encoded()
	note := filepath.Join(e.StateDir(), notesName, string(s), "content-"+what[:32])
	var known digest.Digest
	if _, err := sealed.Read(note, &known); err == nil && known.Validate() == nil {
		return known, nil
	}
	v, err := e.view(s)
	if err != nil {
		return "", err
	}
	defer v.close()
	h := &source.Hasher{Owners: true}
	d, err := h.Hash(ctx, source.Tree{Dir: v.root}, sel)
	if err != nil {
		return "", hideRoots(err, v.root)
	}
	if s != "" {
		if err := sealed.Write(note, d); err != nil {
			e.log.Debug("the digest of a layer's content cannot be kept", "error", err)
		}
	}
	return d, nil
}
