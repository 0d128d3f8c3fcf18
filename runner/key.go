package runner

// What decides whether a step must run again is decided here and nowhere else.

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"github.com/zbuild/zbuild/internal/source"
	"github.com/zbuild/zbuild/planner"
)

// keyFormat is part of every key: a new number gives up all caches.
const keyFormat = "zbuild-key-1"

// Part is one of the things that a key is made of, with a name for people.
type Part struct {
	Name   string        `json:"name"` // "instruction", "input 0 (RUN make)", "files services/api"
	Digest digest.Digest `json:"digest"`
}

// What the names of parts are, or begin with.
const (
	partInstruction = "instruction"
	partInput       = "input "
	partFiles       = "files "
)

// Key identifies what a step does: equal keys leave equal trees, as far as the
// step's process is a function of what it is given.
type Key struct {
	Digest digest.Digest
	Parts  []Part
}

// keyer makes keys. It remembers the digest of every selection of files, which
// many steps may share, for as long as one run lasts.
type keyer struct {
	hasher *source.Hasher

	mu    sync.Mutex
	files map[string]*fileDigest
}

type fileDigest struct {
	once   sync.Once
	digest digest.Digest
	err    error
}

func newKeyer(h *source.Hasher) *keyer {
	if h == nil {
		h = &source.Hasher{}
	}
	return &keyer{hasher: h, files: make(map[string]*fileDigest)}
}

// key makes a step's key. inputs are the keys of its inputs' steps, parallel to
// Step.Inputs. Secrets have no part in it, nor has the place of any file.
func (k *keyer) key(ctx context.Context, step *planner.Step, inputs []Key) (Key, error) {
	if step.Image != nil {
		return keyOf(imageParts(step.Image)), nil
	}
	if step.Local != nil {
		// What is read of a context is part of the keys of those who read it.
		return keyOf([]Part{{Name: "context", Digest: digest.FromString("local")}}), nil
	}
	op := step.Op.CloneVT()
	op.Inputs = nil
	op.Constraints = nil
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(op)
	if err != nil {
		return Key{}, fmt.Errorf("encoding an operation: %w", err)
	}
	parts := []Part{{Name: partInstruction, Digest: digest.FromBytes(raw)}}
	for i, in := range step.Inputs {
		parts = append(parts, Part{
			Name:   fmt.Sprintf(partInput+"%d (%s)", i, in.Step.Name),
			Digest: digest.FromString(fmt.Sprintf("%s#%d", inputs[i].Digest, in.Index)),
		})
	}
	files, err := k.fileParts(ctx, step)
	if err != nil {
		return Key{}, err
	}
	return keyOf(append(parts, files...)), nil
}

// imageParts are the image's layers: its name and the rest of its configuration
// reach the steps on it through their own instructions.
func imageParts(img *planner.BaseImage) []Part {
	var parts []Part
	for i, d := range img.DiffIDs {
		parts = append(parts, Part{Name: fmt.Sprintf("layer %d", i), Digest: d})
	}
	return parts
}

// fileParts are the contents that a step selects of build contexts.
func (k *keyer) fileParts(ctx context.Context, step *planner.Step) ([]Part, error) {
	var parts []Part
	for _, s := range selections(step) {
		d, err := k.hash(ctx, s)
		var none *source.NotFoundError
		if errors.As(err, &none) && none.Pattern && s.optional {
			d, err = digest.FromString("nothing"), nil
		}
		if err != nil {
			return nil, err
		}
		parts = append(parts, Part{Name: s.partName(), Digest: d})
	}
	return parts, nil
}

// selection is what one step takes of one context.
type selection struct {
	tree     source.Tree
	sel      source.Selection
	optional bool // it may select nothing
}

func (s selection) partName() string { return partFiles + strings.TrimPrefix(s.sel.Path, "/") }

func selections(step *planner.Step) []selection {
	local := func(i int64) *planner.Local {
		if i < 0 || int(i) >= len(step.Inputs) {
			return nil
		}
		return step.Inputs[i].Step.Local
	}
	var out []selection
	switch op := step.Op.Op.(type) {
	case *pb.Op_File:
		for _, a := range op.File.Actions {
			l := local(a.SecondaryInput)
			c := a.GetCopy()
			if l == nil || c == nil {
				continue
			}
			out = append(out, selection{
				tree: source.Tree{Dir: l.Dir, Exclude: l.Exclude},
				sel: source.Selection{
					Path: c.Src, Wildcard: c.AllowWildcard, FollowLinks: c.FollowSymlink,
					Include: c.IncludePatterns, Exclude: c.ExcludePatterns,
				},
				optional: c.AllowWildcard && c.AllowEmptyWildcard,
			})
		}
	case *pb.Op_Exec:
		for _, m := range op.Exec.Mounts {
			if l := local(m.Input); l != nil {
				out = append(out, selection{
					tree: source.Tree{Dir: l.Dir, Exclude: l.Exclude},
					sel:  source.Selection{Path: m.Selector, FollowLinks: true},
				})
			}
		}
	}
	return out
}

// hash digests a selection, once per run.
func (k *keyer) hash(ctx context.Context, s selection) (digest.Digest, error) {
	id := fmt.Sprintf("%#v %#v", s.tree, s.sel)
	k.mu.Lock()
	f, ok := k.files[id]
	if !ok {
		f = &fileDigest{}
		k.files[id] = f
	}
	k.mu.Unlock()
	f.once.Do(func() { f.digest, f.err = k.hasher.Hash(ctx, s.tree, s.sel) })
	return f.digest, f.err
}

func keyOf(parts []Part) Key {
	sum := sha256.New()
	write(sum, keyFormat)
	for _, p := range parts {
		write(sum, string(p.Digest))
	}
	return Key{Digest: digest.NewDigest(digest.SHA256, sum), Parts: slices.Clip(parts)}
}

// write adds a string with its length, so that no two sequences look alike.
func write(sum hash.Hash, s string) {
	fmt.Fprintf(sum, "%d:", len(s))
	io.WriteString(sum, s) //nolint:errcheck // a hash never fails
}
