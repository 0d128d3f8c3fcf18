package config

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/docker/buildx/util/buildflags"
	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// wireFile is what the build files together are evaluated into.
type wireFile struct {
	Groups  []*wireGroup  `hcl:"group,block"`
	Targets []*wireTarget `hcl:"target,block"`
	// Project has at most one element, made from the settings that stand outside
	// of all blocks.
	Project []*wireTarget `hcl:"zbuild project,block"`
}

// projectBlock is the type and projectName the label of the block that the
// project's settings are made into. No one can write such a type in HCL.
const (
	projectBlock = "zbuild project"
	projectName  = "project"
)

type wireGroup struct {
	Name        string   `json:"-" hcl:"name,label" cty:"name"`
	Description string   `json:"description,omitempty" hcl:"description,optional" cty:"description"`
	Targets     []string `json:"targets" hcl:"targets" cty:"targets"`

	at hcl.Range // the header
	// exprs are where the targets are written.
	exprs []hcl.Expression
}

// wireTarget is a target as it is written: what is not said is nil. The order of
// its fields is the order in which bake prints them.
//
// The fields, the table of attributes and nothing else have to change for a new
// attribute; a test keeps the two together.
type wireTarget struct {
	Name             string                      `json:"-" hcl:"name,label" cty:"name"`
	Description      string                      `json:"description,omitempty" hcl:"description,optional" cty:"description"`
	Inherits         []string                    `json:"inherits,omitempty" hcl:"inherits,optional" cty:"inherits"`
	Annotations      []string                    `json:"annotations,omitempty" hcl:"annotations,optional" cty:"annotations"`
	Attest           buildflags.Attests          `json:"attest,omitempty" hcl:"attest,optional" cty:"attest"`
	Context          *string                     `json:"context,omitempty" hcl:"context,optional" cty:"context"`
	Contexts         map[string]string           `json:"contexts,omitempty" hcl:"contexts,optional" cty:"contexts"`
	Dockerfile       *string                     `json:"dockerfile,omitempty" hcl:"dockerfile,optional" cty:"dockerfile"`
	DockerfileInline *string                     `json:"dockerfile-inline,omitempty" hcl:"dockerfile-inline,optional" cty:"dockerfile-inline"`
	Args             map[string]*string          `json:"args,omitempty" hcl:"args,optional" cty:"args"`
	Labels           map[string]*string          `json:"labels,omitempty" hcl:"labels,optional" cty:"labels"`
	Tags             []string                    `json:"tags,omitempty" hcl:"tags,optional" cty:"tags"`
	CacheFrom        buildflags.CacheOptions     `json:"cache-from,omitempty" hcl:"cache-from,optional" cty:"cache-from"`
	CacheTo          buildflags.CacheOptions     `json:"cache-to,omitempty" hcl:"cache-to,optional" cty:"cache-to"`
	Target           *string                     `json:"target,omitempty" hcl:"target,optional" cty:"target"`
	Secrets          buildflags.Secrets          `json:"secret,omitempty" hcl:"secret,optional" cty:"secret"`
	SSH              buildflags.SSHKeys          `json:"ssh,omitempty" hcl:"ssh,optional" cty:"ssh"`
	Platforms        []string                    `json:"platforms,omitempty" hcl:"platforms,optional" cty:"platforms"`
	Outputs          buildflags.Exports          `json:"output,omitempty" hcl:"output,optional" cty:"output"`
	Pull             *bool                       `json:"-" hcl:"pull,optional" cty:"pull"`
	PullPolicy       *string                     `json:"-" hcl:"pull policy,optional" cty:"pull policy"` // see pull.go
	PullShown        any                         `json:"pull,omitempty"`                                 // by MarshalJSON
	NoCache          *bool                       `json:"no-cache,omitempty" hcl:"no-cache,optional" cty:"no-cache"`
	Network          *string                     `json:"network,omitempty" hcl:"network,optional" cty:"network"`
	NoCacheFilter    []string                    `json:"no-cache-filter,omitempty" hcl:"no-cache-filter,optional" cty:"no-cache-filter"`
	ShmSize          *string                     `json:"shm-size,omitempty" hcl:"shm-size,optional" cty:"shm-size"`
	Ulimits          []string                    `json:"ulimits,omitempty" hcl:"ulimits,optional" cty:"ulimits"`
	Resources        *buildflags.ResourcesConfig `json:"resources,omitempty" hcl:"resources,optional" cty:"resources"`
	Call             *string                     `json:"call,omitempty" hcl:"call,optional" cty:"call"`
	Entitlements     []string                    `json:"entitlements,omitempty" hcl:"entitlements,optional" cty:"entitlements"`
	ExtraHosts       map[string]*string          `json:"extra-hosts,omitempty" hcl:"extra-hosts,optional" cty:"extra-hosts"`
	Policy           buildflags.PolicyConfigs    `json:"policy,omitempty" hcl:"policy,optional" cty:"policy"`

	// What follows is zbuild's own.
	CacheMounts     wireCacheMounts `json:"cache-mount,omitempty" hcl:"cache-mount,optional" cty:"cache-mount"`
	Retries         *int            `json:"retries,omitempty" hcl:"retries,optional" cty:"retries"`
	RetryDelay      *string         `json:"retry-delay,omitempty" hcl:"retry-delay,optional" cty:"retry-delay"`
	DefaultRegistry *string         `json:"default-registry,omitempty" hcl:"default-registry,optional" cty:"default-registry"`
	Format          *string         `json:"format,omitempty" hcl:"format,optional" cty:"format"`
	Squash          *bool           `json:"squash,omitempty" hcl:"squash,optional" cty:"squash"`
	DependsOn       []string        `json:"depends-on,omitempty" hcl:"depends-on,optional" cty:"depends-on"`
	Watch           *wireWatch      `json:"watch,omitempty" hcl:"watch,optional" cty:"watch"`

	at hcl.Range // the header of the block that was read last
	// from says where each attribute, and each element "attribute.key" of a map,
	// was written last; exprs has all expressions that an attribute was merged
	// from.
	from  map[string]origin
	exprs map[string][]hcl.Expression
	// linked is set for a target that is only built because another needs it.
	linked bool
	// ownHost is set if the target itself asks for the network of the host.
	ownHost bool
	// failed are the attributes that are written and could not be evaluated.
	failed []string
}

// origin is where a value was written.
type origin struct {
	at hcl.Range
	// set is true for a value of the command line.
	set bool
	// like is the name of another target whose context this one's was taken from
	// by a reference; its path starts where the other's does.
	like string
}

// SetBlockSource notes where the target's values are written.
func (t *wireTarget) SetBlockSource(block *hcl.Block) {
	t.at = block.DefRange
	t.from = map[string]origin{}
	t.exprs = map[string][]hcl.Expression{}
	attrs, _ := block.Body.JustAttributes()
	for i := range attributes {
		a := &attributes[i]
		attr, ok := attrs[a.name]
		if !ok || a.has == nil || !a.has(t) {
			continue
		}
		o := origin{at: attr.Expr.Range()}
		if a.name == "context" {
			o.like = contextReference(attr.Expr)
		}
		t.from[a.name] = o
		t.exprs[a.name] = append(t.exprs[a.name], attr.Expr)
		if a.name == "watch" {
			t.Watch.locate(o.at)
		}
		if a.keys == nil {
			continue
		}
		elements := elementRanges(attr.Expr)
		for _, key := range a.keys(t) {
			o := o
			if at, ok := elements[key]; ok {
				o.at = at
			}
			t.from[a.name+"."+key] = o
		}
	}
}

// size is how much merging with the target copies: its elements, and where they
// were written.
func (t *wireTarget) size() int64 {
	n := len(t.Args) + len(t.Labels) + len(t.Contexts) + len(t.ExtraHosts) + len(t.Tags) + len(t.Annotations) + len(t.Platforms) +
		len(t.Entitlements) + len(t.Ulimits) + len(t.NoCacheFilter) + len(t.Secrets) + len(t.CacheFrom) + len(t.CacheTo) + len(t.from)
	return int64(n)
}

// Merge lets what t2 says win over what t says, by the rule of each attribute.
// The evaluator calls it when a target has several blocks.
func (t *wireTarget) Merge(t2 *wireTarget) {
	for i := range attributes {
		if a := &attributes[i]; a.merge != nil && a.has(t2) {
			a.merge(t, t2)
		}
	}
	t.at = t2.at
	t.failed = unique(slices.Concat(t.failed, t2.failed))
	if t.from == nil {
		t.from, t.exprs = map[string]origin{}, map[string][]hcl.Expression{}
	}
	maps.Copy(t.from, t2.from)
	for name, exprs := range t2.exprs {
		t.exprs[name] = appendNew(t.exprs[name], exprs)
	}
}

// appendNew appends those expressions that are not in the list: a target that is
// inherited by two ways is merged twice.
func appendNew(list, more []hcl.Expression) []hcl.Expression {
	list = slices.Clone(list)
	for _, e := range more {
		if !slices.ContainsFunc(list, func(o hcl.Expression) bool { return o.Range() == e.Range() }) {
			list = append(list, e)
		}
	}
	return list
}

// SetBlockSource notes where the group is written.
func (g *wireGroup) SetBlockSource(block *hcl.Block) {
	g.at = block.DefRange
	if expr := expressionOf(block, "targets"); expr != nil {
		g.exprs = []hcl.Expression{expr}
	}
}

func expressionOf(block *hcl.Block, name string) hcl.Expression {
	content, _, _ := block.Body.PartialContent(&hcl.BodySchema{Attributes: []hcl.AttributeSchema{{Name: name}}})
	if content == nil || content.Attributes[name] == nil {
		return nil
	}
	return content.Attributes[name].Expr
}

// contextReference is X if the expression is target.X.context, else empty.
func contextReference(expr hcl.Expression) string {
	steps, diags := hcl.AbsTraversalForExpr(expr)
	if diags.HasErrors() || len(steps) != 3 || steps.RootName() != "target" {
		return ""
	}
	last, ok := steps[2].(hcl.TraverseAttr)
	if !ok || last.Name != "context" {
		return ""
	}
	switch step := steps[1].(type) {
	case hcl.TraverseAttr:
		return step.Name
	case hcl.TraverseIndex:
		if key := step.Key; key.Type() == cty.String && key.IsKnown() && !key.IsNull() {
			return key.AsString()
		}
	}
	return ""
}

// MarshalJSON writes a target as bake prints it: what HCL would take for a
// template is escaped in the attributes that often have such text.
func (t *wireTarget) MarshalJSON() ([]byte, error) {
	type plain wireTarget // without this method
	p := plain(*t)
	p.PullShown = t.shownPull()
	p.Annotations = slices.Clone(p.Annotations)
	for i, s := range p.Annotations {
		p.Annotations[i] = escapeTemplate(s)
	}
	if p.DockerfileInline != nil {
		s := escapeTemplate(*p.DockerfileInline)
		p.DockerfileInline = &s
	}
	p.Args = escapeTemplates(p.Args)
	p.Labels = escapeTemplates(p.Labels)
	p.ExtraHosts = escapeTemplates(p.ExtraHosts)
	return json.Marshal(p)
}

var templateEscaper = strings.NewReplacer("${", "$${", "%{", "%%{")

func escapeTemplate(s string) string { return templateEscaper.Replace(s) }

func escapeTemplates(m map[string]*string) map[string]*string {
	escaped := maps.Clone(m)
	for key, value := range m {
		if value != nil {
			s := escapeTemplate(*value)
			escaped[key] = &s
		}
	}
	return escaped
}
