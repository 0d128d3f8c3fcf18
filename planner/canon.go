package planner

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"github.com/zbuild/zbuild/internal/remote"
)

// vertex is an operation in its canonical form. It is the same, byte for byte,
// whichever target asks for it. Vertices are never written to once made.
type vertex struct {
	id     digest.Digest
	op     *pb.Op
	data   []byte // op, marshaled; id is its digest
	inputs []edge // parallel to op.Inputs
	local  *Local
	image  *BaseImage
	file   *remote.File
	tree   *remote.Tree
}

// edge is an output of a vertex. That of no vertex is the empty tree.
type edge struct {
	v     *vertex
	index int
}

// graph is what one conversion became.
type graph struct {
	root edge
	sbom edge // without a vertex if nobody asks for one
	// order has every vertex once, inputs first. Those of other targets that
	// came in through a context are among them.
	order []*vertex
	// marks is what this conversion says about its own vertices.
	marks map[*vertex]*mark
	// asked are the addresses by which something remote was asked for.
	asked map[*vertex][]string
	// scan are those that are not of the Dockerfile: the scanner and its image.
	scan map[*vertex]bool
}

// mark is what a Dockerfile says about a vertex that does not change what the
// vertex is.
type mark struct {
	name string
	// lines are those of the instructions that the vertex stands for, own says
	// that they are its own. Otherwise it is a part of what they need.
	lines   []lineRange
	own     bool
	follow  []string // the paths that are named of a build context; nil means all of it
	noCache bool
	limits  *pb.LinuxResources
	proxy   *pb.ProxyEnv
}

// canonicalizer rewrites the LLB of one conversion from its sources upwards, so
// that equal work of different targets gets equal digests.
type canonicalizer struct {
	r     *run
	known map[digest.Digest]*vertex // canonical ones, by digest
	raw   map[string]edge           // the frontend's digest to what became of it, index unused
	marks map[*vertex]*mark
	// lines are those of the Dockerfile that an operation stands for, by the
	// frontend's digest; located are the operations whose own they are.
	lines   map[string][]lineRange
	located map[string]bool
	// follow are the paths that a build context is read for, by the frontend's digest.
	follow map[string][]string
	asked  map[*vertex][]string // see graph
}

// draft is a vertex on its way through the passes.
type draft struct {
	op     *pb.Op
	inputs []edge
	lines  []lineRange
	local  *Local
	image  *BaseImage
	file   *remote.File
	tree   *remote.Tree
	asked  string // the address of what is remote
	proxy  *pb.ProxyEnv
	name   string // wins over the frontend's
	scan   bool   // it makes an SBOM
}

// passes are applied to each operation in this order, after its inputs have been
// rewritten.
func passes() []func(*canonicalizer, *draft) error {
	return []func(*canonicalizer, *draft) error{
		(*canonicalizer).refuse,          // what no engine can do
		(*canonicalizer).canonicalLocal,  // contexts are directories, not sessions
		(*canonicalizer).canonicalImage,  // images are digests, not tags
		(*canonicalizer).canonicalRemote, // downloads are digests, branches are commits
		(*canonicalizer).materialize,     // nothing is built upon a directory of the host
		(*canonicalizer).addCacheMounts,  // every RUN has the target's
		(*canonicalizer).canonicalScan,   // a scanner leaves nothing but what it found
		(*canonicalizer).dropConstraints, // what constrains nothing is left out
		(*canonicalizer).mergeInputs,     // every input stands once
	}
}

func newCanonicalizer(r *run) *canonicalizer {
	c := &canonicalizer{
		r: r, known: make(map[digest.Digest]*vertex), raw: make(map[string]edge),
		marks: make(map[*vertex]*mark), lines: make(map[string][]lineRange), located: make(map[string]bool), follow: make(map[string][]string),
		asked: make(map[*vertex][]string),
	}
	// What came in through a context was made canonical by its own target.
	for _, dep := range r.u.after {
		for _, other := range dep.runs {
			for _, v := range other.graph.order {
				c.known[v.id] = v
			}
			for v, addresses := range other.graph.asked {
				c.asked[v] = slices.Clip(addresses)
			}
		}
	}
	return c
}

// run rewrites what the frontend made.
func (c *canonicalizer) run(conv *conversion) (*graph, error) {
	g := &graph{marks: c.marks, asked: c.asked}
	var err error
	if g.root, err = c.rewriteAll(conv.def, false); err != nil {
		return nil, err
	}
	if v := g.root.v; v != nil && v.local != nil { // FROM a directory, and nothing else
		if g.root, err = c.copyOf(g.root, nil); err != nil {
			return nil, err
		}
	}
	g.order = postOrder(nil, g.root.v)
	if conv.sbom == nil {
		return g, nil
	}
	if g.sbom, err = c.rewriteAll(conv.sbom, true); err != nil {
		return nil, err
	}
	g.order = postOrder(g.order, g.sbom.v)
	g.scan = map[*vertex]bool{g.sbom.v: true}
	for _, in := range g.sbom.v.inputs {
		// Its own image, and what was copied for it.
		if m := c.marks[in.v]; m != nil && len(m.lines) == 0 && in.v != g.root.v {
			g.scan[in.v] = true
		}
	}
	return g, nil
}

// rewriteAll rewrites a definition and gives its result. Its operations come
// inputs first; what was rewritten before is not touched again. The last operation
// of a scan is the scanner.
func (c *canonicalizer) rewriteAll(def *pb.Definition, scan bool) (edge, error) {
	ops := make([]*pb.Op, len(def.Def))
	ids := make([]string, len(def.Def))
	for i, dt := range def.Def {
		ops[i] = new(pb.Op)
		if err := ops[i].UnmarshalVT(dt); err != nil {
			return edge{}, fmt.Errorf("reading the frontend's result: %w", err)
		}
		ids[i] = string(digest.FromBytes(dt))
	}
	c.locate(def, ops, ids)
	if err := c.resolveRemotes(ops, ids); err != nil {
		return edge{}, err
	}
	for i, op := range ops {
		if op.Op == nil { // the last one only says which output is the result
			if len(op.Inputs) != 1 {
				break
			}
			e, err := c.input(op.Inputs[0])
			if scan {
				e.index = 0
			}
			return e, err
		}
		if _, ok := c.raw[ids[i]]; ok {
			continue
		}
		if v := op.GetSource().GetAttrs()[pb.AttrFollowPaths]; v != "" {
			var paths []string
			if err := json.Unmarshal([]byte(v), &paths); err != nil {
				return edge{}, fmt.Errorf("reading paths of a context: %w", err)
			}
			c.follow[ids[i]] = paths
		}
		v, err := c.rewrite(ids[i], op, def.Metadata[ids[i]], scan && i == len(ops)-2)
		if err != nil {
			return edge{}, err
		}
		c.raw[ids[i]] = edge{v: v}
	}
	return edge{}, nil
}

func (c *canonicalizer) input(in *pb.Input) (edge, error) {
	e, ok := c.raw[in.Digest]
	if !ok {
		return edge{}, fmt.Errorf("the frontend's result lacks %s", in.Digest)
	}
	return edge{v: e.v, index: int(in.Index)}, nil
}

// rewrite makes one operation canonical, if it is not already. There is no
// mistaking one for the other: all of the frontend's own have constraints, and
// none that is canonical has.
func (c *canonicalizer) rewrite(id string, op *pb.Op, meta *pb.OpMetadata, scan bool) (*vertex, error) {
	if v, ok := c.known[digest.Digest(id)]; ok && c.marks[v] == nil {
		return v, nil
	}
	d := &draft{op: op, lines: c.lines[id], scan: scan}
	for _, in := range op.Inputs {
		e, err := c.input(in)
		if err != nil {
			return nil, err
		}
		d.inputs = append(d.inputs, e)
	}
	for _, apply := range passes() {
		if err := apply(c, d); err != nil {
			return nil, err
		}
	}
	v, err := c.finish(d)
	if err != nil {
		return nil, err
	}
	if d.asked != "" && !slices.Contains(c.asked[v], d.asked) {
		c.asked[v] = append(c.asked[v], d.asked)
	}
	c.mark(v, d, id, meta)
	return v, nil
}

// finish gives a draft its identity.
func (c *canonicalizer) finish(d *draft) (*vertex, error) {
	d.op.Inputs = nil
	for _, in := range d.inputs {
		d.op.Inputs = append(d.op.Inputs, &pb.Input{Digest: string(in.v.id), Index: int64(in.index)})
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(d.op)
	if err != nil {
		return nil, err
	}
	id := digest.FromBytes(data)
	if v, ok := c.known[id]; ok {
		return v, nil
	}
	v := &vertex{id: id, op: d.op, data: data, inputs: d.inputs, local: d.local, image: d.image, file: d.file, tree: d.tree}
	c.known[id] = v
	return v, nil
}

// mark notes what the Dockerfile says about a vertex. Two of the frontend's
// operations may have become the same vertex.
func (c *canonicalizer) mark(v *vertex, d *draft, id string, meta *pb.OpMetadata) {
	m := c.marks[v]
	if m == nil {
		m = &mark{}
		c.marks[v] = m
	}
	if m.name == "" {
		m.name = d.name
		if m.name == "" && meta != nil {
			m.name = instruction(meta.Description["llb.customname"])
		}
	}
	if d.proxy != nil {
		m.proxy = d.proxy
	}
	if meta != nil {
		m.noCache = m.noCache || meta.IgnoreCache
		if meta.LinuxResources != nil {
			m.limits = meta.LinuxResources
		}
	}
	if v.local != nil {
		m.follow = c.follow[id]
	} else {
		m.lines = append(m.lines, d.lines...)
		m.own = m.own || c.located[id]
	}
}

// tree makes a state of the frontend's own library canonical, for operations
// that passes add.
func (c *canonicalizer) tree(st llb.State, name string, lines []lineRange) (edge, error) {
	def, err := st.Marshal(context.Background(), llb.WithCaps(llbCaps()))
	if err != nil {
		return edge{}, err
	}
	for _, dt := range def.Def {
		var op pb.Op
		if err := op.UnmarshalVT(dt); err != nil {
			return edge{}, err
		}
		if op.Op == nil {
			return c.input(op.Inputs[0])
		}
		id := string(digest.FromBytes(dt))
		if _, ok := c.raw[id]; ok {
			continue
		}
		c.lines[id] = lines
		v, err := c.rewrite(id, &op, &pb.OpMetadata{Description: map[string]string{"llb.customname": name}}, false)
		if err != nil {
			return edge{}, err
		}
		c.raw[id] = edge{v: v}
	}
	return edge{}, nil
}

// postOrder adds to a list what a vertex is made of and the list has not, itself
// last. It does not recurse: a Dockerfile may be as long as it likes.
func postOrder(out []*vertex, root *vertex) []*vertex {
	type frame struct {
		v    *vertex
		next int
	}
	seen := make(map[*vertex]bool)
	for _, v := range out {
		seen[v] = true
	}
	if root == nil || seen[root] {
		return out
	}
	seen[root] = true
	stack := []frame{{v: root}}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		if top.next == len(top.v.inputs) {
			out = append(out, top.v)
			stack = stack[:len(stack)-1]
			continue
		}
		in := top.v.inputs[top.next].v
		top.next++
		if !seen[in] {
			seen[in] = true
			stack = append(stack, frame{v: in})
		}
	}
	return out
}

// definition is the LLB of the graph's result, in its canonical form.
func (g *graph) definition() *pb.Definition {
	def := &pb.Definition{Metadata: make(map[string]*pb.OpMetadata)}
	if g.root.v == nil {
		return def
	}
	for _, v := range g.order {
		def.Def = append(def.Def, v.data)
		def.Metadata[string(v.id)] = &pb.OpMetadata{}
	}
	last := &pb.Op{Inputs: []*pb.Input{{Digest: string(g.root.v.id), Index: int64(g.root.index)}}}
	dt, err := proto.MarshalOptions{Deterministic: true}.Marshal(last)
	if err != nil {
		panic(err) // two fields of plain types
	}
	def.Def = append(def.Def, dt)
	def.Metadata[string(digest.FromBytes(dt))] = &pb.OpMetadata{}
	return def
}

// state is the graph's result as another conversion can start from it.
func (g *graph) state() (llb.State, error) {
	if g.root.v == nil {
		return llb.Scratch(), nil
	}
	op, err := llb.NewDefinitionOp(g.definition())
	if err != nil {
		return llb.State{}, err
	}
	return llb.NewState(op), nil
}
