package planner

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"

	"github.com/zbuild/zbuild/config"
)

// The schemes of the sources that engines know.
const (
	localScheme = "local://"
	imageScheme = "docker-image://"
)

// refuse reports what LLB can say and no engine can do yet, while it can still
// be said where it is written.
func (c *canonicalizer) refuse(d *draft) error {
	switch op := d.op.Op.(type) {
	case *pb.Op_File, *pb.Op_Merge, *pb.Op_Diff:
		return nil
	case *pb.Op_Source:
		return c.refuseSource(op.Source.Identifier, d)
	case *pb.Op_Exec:
		return c.refuseExec(op.Exec, d)
	}
	return c.unsupported(d, fmt.Sprintf("An operation of type %T", d.op.Op), "")
}

func (c *canonicalizer) refuseSource(id string, d *draft) error {
	scheme, _, _ := strings.Cut(id, "://")
	switch scheme + "://" {
	case localScheme, imageScheme, layoutScheme, gitScheme, httpScheme, httpsScheme:
		return nil
	}
	return c.unsupported(d, fmt.Sprintf("A source of type %q", scheme), "")
}

func (c *canonicalizer) refuseExec(exec *pb.ExecOp, d *draft) error {
	switch {
	case exec.Security != pb.SecurityMode_SANDBOX && !c.entitled("security.insecure"):
		return c.forbidden(d, "RUN --security=insecure", "security.insecure")
	case exec.Network == pb.NetMode_HOST && !c.entitled("network.host"):
		return c.forbidden(d, "RUN --network=host", "network.host")
	case exec.Meta.CgroupParent != "":
		return c.unsupported(d, "A cgroup parent", "")
	}
	return c.devices(exec, d)
}

// entitled reports whether the target has a right.
func (c *canonicalizer) entitled(to string) bool {
	return slices.Contains(c.r.u.cfg.Entitlements, to)
}

func (c *canonicalizer) forbidden(d *draft, what, entitlement string) error {
	err := &forbiddenError{what: what, entitlement: entitlement}
	if len(d.lines) > 0 {
		err.at = c.r.u.src.lines(d.lines[0].first, d.lines[0].last)
	}
	return err
}

func (c *canonicalizer) unsupported(d *draft, feature, advice string) error {
	err := &unsupportedError{feature: feature, advice: advice}
	if len(d.lines) > 0 {
		err.at = c.r.u.src.lines(d.lines[0].first, d.lines[0].last)
	}
	if err.at == nil {
		err.at = c.r.u.cfg.At("dockerfile")
	}
	return err
}

// canonicalLocal makes a build context a directory and its ignore rules. The
// frontend adds a session, hints for a cache that is not there, and the union of
// all paths that the target ever copies: with it, a COPY in one target would
// change what another target's COPY is. What is read of a context is a matter of
// the operation that reads it.
func (c *canonicalizer) canonicalLocal(d *draft) error {
	src := d.op.GetSource()
	if src == nil {
		return nil
	}
	name, ok := strings.CutPrefix(src.Identifier, localScheme)
	if !ok {
		return nil
	}
	u := c.r.u
	dir := ""
	if name == mainContext {
		dir = u.cfg.Context.Value
	} else if named, ok := strings.CutPrefix(name, namedPrefix); ok {
		dir = u.cfg.Contexts[named].Value
	}
	if dir == "" {
		return fmt.Errorf("the frontend's result has an unknown source %q", src.Identifier)
	}
	d.local = &Local{Dir: dir}
	attrs := map[string]string{}
	if v := src.Attrs[pb.AttrExcludePatterns]; v != "" {
		if err := json.Unmarshal([]byte(v), &d.local.Exclude); err != nil {
			return fmt.Errorf("reading ignore patterns: %w", err)
		}
		if len(d.local.Exclude) > 0 {
			attrs[pb.AttrExcludePatterns] = v
		}
	}
	d.op.Op = &pb.Op_Source{Source: &pb.SourceOp{Identifier: localScheme + dir, Attrs: attrs}}
	d.name = "load build context " + u.files.name(dir)
	return nil
}

// canonicalImage names an image by repository and digest alone, whatever its tag
// was.
func (c *canonicalizer) canonicalImage(d *draft) error {
	src := d.op.GetSource()
	if src == nil {
		return nil
	}
	ref, ok := strings.CutPrefix(src.Identifier, imageScheme)
	if !ok {
		if ref, ok = strings.CutPrefix(src.Identifier, layoutScheme); !ok {
			return nil
		}
	}
	platform := c.r.u.opt.Platform
	if d.op.Platform != nil {
		platform = d.op.Platform.Spec()
	}
	img := c.r.pins.find(ref, platform)
	if img == nil {
		return fmt.Errorf("the frontend's result has an image that it never asked for: %s for %s", ref, platforms.FormatAll(platform))
	}
	d.image = img
	d.op.Op = &pb.Op_Source{Source: &pb.SourceOp{Identifier: imageScheme + pinned(img)}}
	d.name = "FROM " + img.Ref
	return nil
}

// materialize copies a build context that is used as a root file system into a
// tree of its own: a directory of the host is read from, never built upon.
func (c *canonicalizer) materialize(d *draft) error {
	base := func(i int64) error {
		if i < 0 || int(i) >= len(d.inputs) || d.inputs[i].v.local == nil {
			return nil
		}
		e, err := c.copyOf(d.inputs[i], d.lines)
		if err == nil {
			d.inputs[i] = e // also for those that only read it: it is the same tree
		}
		return err
	}
	switch op := d.op.Op.(type) {
	case *pb.Op_Exec:
		for _, m := range op.Exec.Mounts {
			if m.Dest == "/" && m.MountType == pb.MountType_BIND {
				return base(m.Input)
			}
		}
	case *pb.Op_File:
		for _, a := range op.File.Actions {
			if err := base(a.Input); err != nil {
				return err
			}
		}
	case *pb.Op_Merge:
		for _, in := range op.Merge.Inputs {
			if err := base(in.Input); err != nil {
				return err
			}
		}
	case *pb.Op_Diff:
		return errors.Join(base(op.Diff.Lower.Input), base(op.Diff.Upper.Input))
	}
	return nil
}

// copyOf is the tree that a build context has.
func (c *canonicalizer) copyOf(in edge, lines []lineRange) (edge, error) {
	return c.copied(in, &draft{lines: lines, name: "COPY " + c.r.u.files.name(in.v.local.Dir)}, &pb.FileActionCopy{})
}

// copied copies a build context, or what the copy says of it, into a tree of its own,
// of which the draft says the rest.
func (c *canonicalizer) copied(in edge, d *draft, what *pb.FileActionCopy) (edge, error) {
	what.Src, what.Dest, what.Mode, what.Timestamp = "/", "/", -1, -1
	what.DirCopyContents, what.CreateDestPath = true, true
	d.inputs = []edge{in}
	d.op = &pb.Op{Op: &pb.Op_File{File: &pb.FileOp{Actions: []*pb.FileAction{{
		Input: -1, SecondaryInput: 0, Output: 0, Action: &pb.FileAction_Copy{Copy: what},
	}}}}}
	v, err := c.finish(d)
	if err != nil {
		return edge{}, err
	}
	c.mark(v, d, "", nil)
	return edge{v: v}, nil
}

// addCacheMounts gives a RUN the cache mounts of its target, unless it mounts
// something there already. The result is what the frontend makes of a RUN that
// has the --mount itself.
func (c *canonicalizer) addCacheMounts(d *draft) error {
	exec := d.op.GetExec()
	if exec == nil || d.scan || len(c.r.u.cfg.CacheMounts) == 0 {
		return nil
	}
	taken := make(map[string]bool)
	for _, m := range exec.Mounts {
		taken[path.Clean(m.Dest)] = true
	}
	added := false
	for _, cm := range c.r.u.cfg.CacheMounts {
		dest := path.Join("/", cm.Target)
		if taken[dest] {
			continue
		}
		taken[dest], added = true, true
		m, err := c.cacheMount(d, cm, dest)
		if err != nil {
			return err
		}
		exec.Mounts = append(exec.Mounts, m)
	}
	if added {
		sortMounts(d, exec)
	}
	return nil
}

func (c *canonicalizer) cacheMount(d *draft, cm config.CacheMount, dest string) (*pb.Mount, error) {
	id := cm.ID
	if id == "" {
		id = cm.Name
	}
	if id == "" {
		id = dest
	}
	m := &pb.Mount{
		Input: int64(pb.Empty), Output: int64(pb.SkipOutput), Dest: dest, MountType: pb.MountType_CACHE,
		CacheOpt: &pb.CacheOpt{ID: c.r.u.cfg.Args["BUILDKIT_CACHE_MOUNT_NS"] + "/" + id},
	}
	switch cm.Sharing {
	case "private":
		m.CacheOpt.Sharing = pb.CacheSharingOpt_PRIVATE
	case "locked":
		m.CacheOpt.Sharing = pb.CacheSharingOpt_LOCKED
	}
	mode := os.FileMode(cm.Mode)
	if mode == 0 {
		mode = 0o755
	}
	if cm.UID == 0 && cm.GID == 0 && mode == 0o755 {
		return m, nil
	}
	const dir = "/cache"
	st := llb.Scratch().File(llb.Mkdir(dir, mode, llb.WithUIDGID(cm.UID, cm.GID)))
	in, err := c.tree(st, "[internal] setting cache mount permissions", d.lines)
	if err != nil {
		return nil, err
	}
	m.Input, m.Selector = int64(len(d.inputs)), dir
	d.inputs = append(d.inputs, in)
	return m, nil
}

// sortMounts puts mounts and inputs into the frontend's order: mounts by their
// place, secrets behind them, inputs as the mounts use them.
func sortMounts(d *draft, exec *pb.ExecOp) {
	late := func(m *pb.Mount) int {
		if m.MountType == pb.MountType_SECRET || m.MountType == pb.MountType_SSH {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(exec.Mounts, func(a, b *pb.Mount) int {
		if x, y := late(a), late(b); x != y || x == 1 {
			return x - y
		}
		return strings.Compare(a.Dest, b.Dest)
	})
	var inputs []edge
	moved := make(map[int64]int64)
	for _, m := range exec.Mounts {
		if m.Input < 0 {
			continue
		}
		to, ok := moved[m.Input]
		if !ok {
			to = int64(len(inputs))
			moved[m.Input] = to
			inputs = append(inputs, d.inputs[m.Input])
		}
		m.Input = to
	}
	d.inputs = inputs
}

// dropConstraints leaves out what makes no difference: worker filters, of which
// there are none, proxies, and the platform of operations that only handle files. A
// COPY into a scratch image is the same for every platform.
func (c *canonicalizer) dropConstraints(d *draft) error {
	d.op.Constraints = nil
	if meta := d.op.GetExec().GetMeta(); meta != nil {
		d.proxy, meta.ProxyEnv = meta.ProxyEnv, nil
	}
	if d.op.Platform == nil {
		return nil
	}
	isFile := false
	switch d.op.Op.(type) {
	case *pb.Op_File, *pb.Op_Merge, *pb.Op_Diff:
		isFile = true
	}
	if d.local != nil || d.file != nil || d.tree != nil || isFile && d.op.Platform.OS != "windows" {
		d.op.Platform = nil
		return nil
	}
	p := platforms.Normalize(d.op.Platform.Spec())
	d.op.Platform = &pb.Platform{
		OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures,
	}
	return nil
}

// mergeInputs has each input once. Different inputs of the frontend's may have
// become the same.
func (c *canonicalizer) mergeInputs(d *draft) error {
	var inputs []edge
	moved := make([]int64, len(d.inputs))
	for i, in := range d.inputs {
		j := slices.Index(inputs, in)
		if j < 0 {
			j = len(inputs)
			inputs = append(inputs, in)
		}
		moved[i] = int64(j)
	}
	if len(inputs) == len(d.inputs) {
		return nil
	}
	move := func(i int64) int64 {
		switch {
		case i < 0:
			return i
		case int(i) < len(moved):
			return moved[i]
		default: // the result of an action
			return i - int64(len(d.inputs)-len(inputs))
		}
	}
	switch op := d.op.Op.(type) {
	case *pb.Op_Exec:
		for _, m := range op.Exec.Mounts {
			m.Input = move(m.Input)
		}
	case *pb.Op_File:
		for _, a := range op.File.Actions {
			a.Input, a.SecondaryInput = move(a.Input), move(a.SecondaryInput)
		}
	case *pb.Op_Merge:
		for _, in := range op.Merge.Inputs {
			in.Input = move(in.Input)
		}
	case *pb.Op_Diff:
		op.Diff.Lower.Input, op.Diff.Upper.Input = move(op.Diff.Lower.Input), move(op.Diff.Upper.Input)
	}
	d.inputs = inputs
	return nil
}

// locate says which lines of the Dockerfile each of the frontend's operations
// stands for. What has no lines of its own, such as a heredoc, has those of the
// operations that use it.
func (c *canonicalizer) locate(def *pb.Definition, ops []*pb.Op, ids []string) {
	out := c.lines
	for i := len(ops) - 1; i >= 0; i-- {
		id := ids[i]
		if def.Source != nil && def.Source.Locations[id] != nil {
			own := c.ownLines(def.Source, def.Source.Locations[id].Locations)
			if len(own) > 0 {
				out[id] = own
				c.located[id] = true
			}
		}
		for _, in := range ops[i].Inputs {
			if lines := out[id]; len(lines) > 0 && !c.located[in.Digest] {
				for _, l := range lines {
					if !slices.Contains(out[in.Digest], l) {
						out[in.Digest] = append(out[in.Digest], l)
					}
				}
			}
		}
	}
}

func (c *canonicalizer) ownLines(src *pb.Source, locations []*pb.Location) []lineRange {
	var out []lineRange
	for _, l := range locations {
		if int(l.SourceIndex) >= len(src.Infos) || src.Infos[l.SourceIndex].Filename != c.r.u.entry {
			continue
		}
		var lines lineRange
		for _, r := range l.Ranges {
			if first := int(r.Start.Line); lines.first == 0 || first < lines.first {
				lines.first = first
			}
			lines.last = max(lines.last, int(r.Start.Line), int(r.End.Line))
		}
		if lines.first > 0 && !slices.Contains(out, lines) {
			out = append(out, lines)
		}
	}
	return out
}

// instruction is an instruction as its author wrote it, on one line, given what
// the frontend calls it: for its progress display it puts "[stage 1/2] " before it.
func instruction(name string) string {
	if i := strings.IndexAny(name, "]\n"); i > 0 && name[0] == '[' && strings.HasPrefix(name[i:], "] ") {
		name = name[i+2:]
	}
	return strings.Join(strings.Fields(name), " ")
}
