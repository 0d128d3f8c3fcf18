package session

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/hashicorp/hcl/v2"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/vcs"
)

// entrypointLabel is Docker's label for the Dockerfile that an image is built with.
const entrypointLabel = "com.docker.image.source.entrypoint"

// commitLabels gives a project whose images have the labels of the commit that they
// are built from, if the environment asks for them. They win over those of the
// build file, as with buildx. What git refuses is warned of, once for a working tree.
func commitLabels(ctx context.Context, p *config.Project) (*config.Project, hcl.Diagnostics) {
	if !p.CommitLabels.Wanted {
		return p, nil
	}
	var diags hcl.Diagnostics
	checkouts := make(map[string]*vcs.Checkout)
	labeled := *p
	labeled.Targets = maps.Clone(p.Targets)
	for _, name := range slices.Sorted(maps.Keys(p.Targets)) {
		t := p.Targets[name]
		if t.Context.Kind != config.ContextDir {
			continue
		}
		root := vcs.Root(t.Context.Value)
		if root == "" {
			continue
		}
		c, asked := checkouts[root]
		if !asked {
			var err error
			if c, err = vcs.Look(ctx, root, p.CommitLabels.MarkDirty); err != nil && ctx.Err() == nil {
				diags = append(diags, &hcl.Diagnostic{
					Severity: hcl.DiagWarning, Summary: "Images get no labels of the commit",
					Detail: fmt.Sprintf("BUILDX_GIT_LABELS asks for them, but of %s nothing can be said: %v.", root, err),
				})
			}
			checkouts[root] = c
		}
		if c == nil {
			continue
		}
		clone := *t
		clone.Labels = maps.Clone(t.Labels)
		maps.Copy(clone.Labels, labelsOf(c, t))
		labeled.Targets[name] = &clone
	}
	return &labeled, diags
}

// labelsOf are the labels of a target whose context is in a working tree.
func labelsOf(c *vcs.Checkout, t *config.Target) map[string]string {
	labels := make(map[string]string)
	if c.Revision != "" {
		labels[ocispecs.AnnotationRevision] = c.Revision
	}
	if c.Source != "" {
		labels[ocispecs.AnnotationSource] = c.Source
	}
	if filepath.IsAbs(t.Dockerfile) {
		if rel, ok := c.Rel(t.Dockerfile); ok {
			labels[entrypointLabel] = rel
		}
	}
	return labels
}

// relabel reports whether a project that was loaded earlier would get other labels
// of the commit now.
func relabel(ctx context.Context, p *config.Project) bool {
	if !p.CommitLabels.Wanted {
		return false
	}
	now, _ := commitLabels(ctx, p)
	for name, t := range p.Targets {
		if !maps.Equal(t.Labels, now.Targets[name].Labels) {
			return true
		}
	}
	return false
}
