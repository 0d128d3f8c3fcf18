package runner

// What decides whether a step must run again is decided here and nowhere else.

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/zbuild/zbuild/internal/source"
	"github.com/zbuild/zbuild/planner"
)

// keyFormat is part of every key: a new number gives up all caches.
const keyFormat = "zbuild-key-2"

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
	Parts  []Part // the instruction, the inputs in their order, then files

	files []*source.Listing // what those files were, parallel to the step's selections
}

// keyer makes keys. It remembers the digest of every selection of files, which
// many steps may share, for as long as one run lasts.
type keyer struct {
	hasher *source.Hasher
	memory *source.Memory // of earlier runs; may be nil

	mu    sync.Mutex
	files map[string]*fileDigest
}

type fileDigest struct {
	once sync.Once
	list *source.Listing
	err  error
}

func newKeyer(h *source.Hasher) *keyer {
	if h == nil {
		h = &source.Hasher{}
	}
	return &keyer{hasher: h, files: make(map[string]*fileDigest)}
}

// key makes a step's key. inputs identify what its inputs are, parallel to
// Step.Inputs. Secrets have no part in it, nor has the place of any file.
func (k *keyer) key(ctx context.Context, step *planner.Step, inputs []digest.Digest) (Key, error) {
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
			Digest: digest.FromString(fmt.Sprintf("%s#%d", inputs[i], in.Index)),
		})
	}
	files, lists, err := k.fileParts(ctx, step)
	if err != nil {
		return Key{}, err
	}
	key := keyOf(append(parts, files...))
	key.files = lists
	return key, nil
}

// rest identifies what is left of a key without the inputs of which the step takes
// no more than what selections name: which those are is part of the instruction.
func (k Key) rest(partial []bool) digest.Digest {
	parts := []Part{{Digest: digest.FromString("without its partial inputs")}}
	for i, p := range k.Parts {
		if in := i - 1; in < 0 || in >= len(partial) || !partial[in] {
			parts = append(parts, p)
		}
	}
	return keyOf(parts).Digest
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
func (k *keyer) fileParts(ctx context.Context, step *planner.Step) (parts []Part, lists []*source.Listing, err error) {
	for _, s := range selections(step) {
		var list *source.Listing
		d, err := s.digest(func() (d digest.Digest, err error) {
			if list, err = k.look(ctx, s); err != nil {
				return "", err
			}
			return list.Digest, nil
		})
		if err != nil {
			return nil, nil, err
		}
		parts = append(parts, Part{Name: s.partName(), Digest: d})
		lists = append(lists, list)
	}
	return parts, lists, nil
}

// selection is what one step takes of one of its inputs.
type selection struct {
	input    int
	local    bool // of a build context, which tree is; otherwise of another step's output
	tree     source.Tree
	sel      source.Selection
	optional bool // it may select nothing
}

func (s selection) partName() string { return partFiles + strings.TrimPrefix(s.sel.Path, "/") }

// selections lists what a step takes of build contexts.
func selections(step *planner.Step) []selection {
	all, _ := taken(step)
	return slices.DeleteFunc(all, func(s selection) bool { return !s.local })
}

// taken lists what a step takes of its inputs, and says of which of them, being
// other steps' outputs, it takes no more than that.
func taken(step *planner.Step) (all []selection, partial []bool) {
	partial = make([]bool, len(step.Inputs))
	whole := make([]bool, len(step.Inputs))
	// use notes how input i is used.
	use := func(i int64, selected bool, s selection) {
		if i < 0 || int(i) >= len(step.Inputs) {
			return
		}
		s.input = int(i)
		l := step.Inputs[i].Step.Local
		if s.local = l != nil; s.local {
			s.tree = source.Tree{Dir: l.Dir, Exclude: l.Exclude}
		}
		partial[i] = partial[i] || selected && !s.local
		whole[i] = whole[i] || !selected
		if selected {
			all = append(all, s)
		}
	}
	switch op := step.Op.Op.(type) {
	case *pb.Op_File:
		for _, a := range op.File.Actions {
			use(a.Input, false, selection{})
			c := a.GetCopy()
			if c == nil {
				use(a.SecondaryInput, false, selection{})
				continue
			}
			use(a.SecondaryInput, true, selection{
				sel: source.Selection{
					Path: c.Src, Wildcard: c.AllowWildcard, FollowLinks: c.FollowSymlink,
					Include: c.IncludePatterns, Exclude: c.ExcludePatterns,
				},
				optional: c.AllowWildcard && c.AllowEmptyWildcard,
			})
		}
	case *pb.Op_Exec:
		for _, m := range op.Exec.Mounts {
			// What a RUN changes of a mount that is no output is dropped after it.
			part := m.MountType == pb.MountType_BIND && path.Clean(m.Dest) != "/" && m.Output < 0
			use(m.Input, part, selection{sel: source.Selection{Path: m.Selector, FollowLinks: true}})
		}
	}
	for i := range partial {
		partial[i] = partial[i] && !whole[i]
	}
	return all, partial
}

// id tells selections apart.
func (s selection) id() string { return fmt.Sprintf("%#v %#v", s.tree, s.sel) }

// look says what a selection is, which is found out once per run.
func (k *keyer) look(ctx context.Context, s selection) (*source.Listing, error) {
	id := s.id()
	k.mu.Lock()
	f, ok := k.files[id]
	if !ok {
		f = &fileDigest{}
		k.files[id] = f
	}
	k.mu.Unlock()
	f.once.Do(func() {
		if f.err = s.sel.Check(); f.err == nil {
			f.list, f.err = k.memory.List(ctx, k.hasher, s.tree, s.sel)
		}
	})
	return f.list, f.err
}

// lookAll looks at all that steps select of build contexts, on all cores: reading files is
// what takes time, and keys depend on one another.
func (k *keyer) lookAll(ctx context.Context, steps []*planner.Step) {
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, step := range steps {
		for _, s := range selections(step) {
			g.Go(func() error {
				_, _ = k.look(ctx, s) // the key says what is wrong with it
				return nil
			})
		}
	}
	_ = g.Wait()
}

// lookAgain says what a selection is by now, and from then on look does, too.
func (k *keyer) lookAgain(ctx context.Context, s selection) (*source.Listing, error) {
	f := &fileDigest{}
	f.once.Do(func() { f.list, f.err = k.hasher.List(ctx, s.tree, s.sel) })
	k.mu.Lock()
	defer k.mu.Unlock()
	k.files[s.id()] = f
	return f.list, f.err
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
