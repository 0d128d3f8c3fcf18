package runner

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/pack"
	"github.com/zbuild/zbuild/internal/stepcache"
)

func cachesInline(t *config.Target) bool {
	return slices.ContainsFunc(t.CacheTo, func(c config.Cache) bool { return c.Type == "inline" })
}

// withCache gives an image that says in its configuration which step left which of
// its layers. Layers that are not as a step left them say nothing.
func (r *run) withCache(ctx context.Context, x *export, img *pack.Image) (*pack.Image, error) {
	own := x.result.Layers
	base := len(img.Layers) - len(own)
	if base < 0 || x.target.Config.Squash && len(own) > 1 {
		return img, nil
	}
	var c stepcache.Config
	for _, l := range img.Layers {
		c.Layers = append(c.Layers, stepcache.Layer{DiffID: l.DiffID, Size: l.Size})
	}
	for i, in := range own {
		n := r.nodes[in.Step]
		if len(n.entry.Snapshots) != 1 {
			continue
		}
		if n.id != n.key.Digest {
			c.Records = append(c.Records, stepcache.Record{Key: n.key.Digest, SameAs: n.id})
		}
		rec := stepcache.Record{Key: n.id, Created: n.entry.Created, Outputs: []int{base + i}}
		if err := r.describeTaken(ctx, n, &rec); err != nil {
			return nil, err
		}
		c.Records = append(c.Records, rec)
	}
	fields := make(map[string]json.RawMessage)
	if err := json.Unmarshal(img.Config, &fields); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	fields[stepcache.InlineKey] = raw
	out := *img
	out.Config, err = json.Marshal(fields)
	return &out, err
}
