package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/hashicorp/hcl/v2"
	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/internal/source"
	"github.com/zbuild/zbuild/planner"
)

// Fingerprint identifies what a target comes to, as far as it is known before
// anything runs: steps, the files they take, the image's configuration, its names.
// If it is the same there is nothing to build.
type Fingerprint = digest.Digest

// Fingerprints makes those of all targets of a plan. A step that cannot have a key
// counts with the reason why. Files are read through hasher and memory, both of
// which may be nil.
func Fingerprints(ctx context.Context, plan *planner.Plan, hasher *source.Hasher, memory *source.Memory) (map[string]Fingerprint, error) {
	k := newKeyer(hasher)
	k.memory = memory
	k.lookAll(ctx, plan.Steps)
	keys := make(map[*planner.Step]digest.Digest, len(plan.Steps))
	for _, step := range plan.Steps {
		inputs := make([]digest.Digest, len(step.Inputs))
		for i, in := range step.Inputs {
			inputs[i] = keys[in.Step]
		}
		key, err := k.key(ctx, step, inputs)
		if err != nil {
			key.Digest = digest.FromString(fmt.Sprintf("%s\x00%v\x00%s", step.ID, err, inputs))
		}
		keys[step] = key.Digest
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	out := make(map[string]Fingerprint, len(plan.Targets))
	for _, t := range plan.Targets {
		f, err := fingerprint(t, keys)
		if err != nil {
			return nil, err
		}
		out[t.Name] = f
	}
	return out, nil
}

func fingerprint(t *planner.Target, keys map[*planner.Step]digest.Digest) (Fingerprint, error) {
	type image struct {
		Root, Base string
		SBOM       string
		Layers     []string
		Config     []byte
		Platform   any
		Epoch      *time.Time
	}
	at := func(in planner.Input) string { return fmt.Sprintf("%s#%d", keys[in.Step], in.Index) }
	var images []image
	for _, r := range t.Results {
		i := image{Root: at(r.Root), SBOM: at(r.SBOM), Config: r.Config, Platform: r.Platform, Epoch: r.Epoch}
		if r.Base != nil {
			i.Base = string(r.Base.Digest)
		}
		for _, l := range r.Layers {
			i.Layers = append(i.Layers, at(l))
		}
		images = append(images, i)
	}
	// Of the target itself what does not work through its steps alone.
	c := *t.Config
	c.Description, c.Requested, c.Range, c.Ranges, c.Watch = "", false, hcl.Range{}, nil, nil
	c.Contexts, c.Dockerfile, c.DockerfileInline = nil, "", nil
	c.Context.Value, c.Context.Raw = "", ""
	c.Args, c.Stage, c.Secrets, c.Retries, c.RetryDelay = nil, "", nil, 0, 0
	c.CacheMounts, c.NoCache, c.NoCacheFilter, c.Pull, c.DefaultRegistry = nil, false, nil, "", ""
	c.DependsOn = nil
	raw, err := json.Marshal(struct {
		Images []image
		Target any
	}{images, c})
	if err != nil {
		return "", fmt.Errorf("%s: %w", t.Name, err)
	}
	return digest.FromBytes(raw), nil
}

// Selected is what one step takes of a directory of this host.
type Selected struct {
	Tree      source.Tree
	Selection source.Selection
}

// SelectedBy lists what the steps of a target take of directories of this host,
// each once, in no order.
func SelectedBy(t *planner.Target) []Selected {
	var out []Selected
	steps := make(map[*planner.Step]bool)
	closure(t, steps)
	seen := make(map[string]bool)
	for step := range steps {
		for _, s := range selections(step) {
			if id := s.id(); !seen[id] {
				seen[id] = true
				out = append(out, Selected{Tree: s.tree, Selection: s.sel})
			}
		}
	}
	return out
}
