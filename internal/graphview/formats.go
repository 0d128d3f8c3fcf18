package graphview

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/platforms"

	"github.com/zbuild/zbuild/planner"
)

// network is a plan as nodes and edges, from what is there first to what comes
// of it. Both formats draw it the same way.
type network struct {
	nodes []node
	edges []edge
}

type kind int

const (
	imageNode kind = iota
	stageNode
	targetNode
)

type node struct {
	id     string
	kind   kind
	lines  []string // of its label
	shared bool     // several targets need it
	faint  bool     // nobody asked for it
	flush  bool     // lines are set flush left
}

// edge is a need. A soft one copies or mounts files, or only sets an order; the
// others are built upon.
type edge struct {
	from, to string
	soft     bool
}

func (v View) network(p *planner.Plan) *network {
	n := &network{}
	multi, files := multiPlatform(p), dockerfiles(p)
	ids := make(map[string]string) // of images, by name
	for _, s := range p.Stages {
		id := "s_" + s.ID
		for _, name := range images(s) {
			if ids[name] == "" {
				ids[name] = fmt.Sprintf("i_%d", len(ids))
				n.nodes = append(n.nodes, node{id: ids[name], kind: imageNode, lines: []string{name}})
			}
			n.edges = append(n.edges, edge{from: ids[name], to: id, soft: !isBase(s, name)})
		}
		n.nodes = append(n.nodes, node{id: id, kind: stageNode, lines: v.label(s, multi, files > 1), shared: len(s.Targets) > 1, flush: v.Steps})
		for _, need := range s.Needs {
			n.edges = append(n.edges, edge{from: "s_" + need.ID, to: id, soft: need != s.From})
		}
	}
	for i, t := range p.Targets {
		id := fmt.Sprintf("t_%d", i)
		label := append([]string{t.Name}, platformsOf(t)...)
		n.nodes = append(n.nodes, node{id: id, kind: targetNode, lines: label, faint: !t.Requested})
		for _, r := range t.Results {
			if r.Stage == nil {
				continue
			}
			if e := (edge{from: "s_" + r.Stage.ID, to: id}); !slices.Contains(n.edges, e) {
				n.edges = append(n.edges, e)
			}
			if r.SBOMStage != nil {
				n.edges = append(n.edges, edge{from: "s_" + r.SBOMStage.ID, to: id, soft: true})
			}
		}
		if t.Config == nil {
			continue
		}
		for _, name := range t.Config.DependsOn {
			if j := slices.IndexFunc(p.Targets, func(o *planner.Target) bool { return o.Name == name }); j >= 0 {
				n.edges = append(n.edges, edge{from: fmt.Sprintf("t_%d", j), to: id, soft: true})
			}
		}
	}
	return n
}

// label is what is written on a stage.
func (v View) label(s *planner.Stage, multi, files bool) []string {
	out := []string{s.Name}
	if files {
		out = append(out, s.Dockerfile)
	}
	what := plural(len(work(s)), "step")
	if multi {
		what += ", " + platforms.FormatAll(s.Platform)
	}
	out = append(out, what)
	if v.Steps {
		for _, step := range work(s) {
			out = append(out, clean(step.Name, maxName))
		}
	}
	if len(s.Targets) > 1 {
		out = append(out, "shared by "+targetsOf(s.Targets))
	}
	return out
}

// Mermaid draws the plan as a Mermaid flowchart, which GitHub and others show in
// Markdown.
func (v View) Mermaid(w io.Writer, p *planner.Plan) error {
	n := v.network(p)
	out := bufio.NewWriter(w)
	fmt.Fprintln(out, "flowchart LR")
	shape := map[kind][2]string{imageNode: {"[(", ")]"}, stageNode: {"[", "]"}, targetNode: {"([", "])"}}
	for _, x := range n.nodes {
		lines := make([]string, len(x.lines))
		for i, l := range x.lines {
			lines[i] = mermaidText(l)
		}
		fmt.Fprintf(out, "  %s%s\"%s\"%s%s\n", x.id, shape[x.kind][0], strings.Join(lines, "<br>"), shape[x.kind][1], class(x))
	}
	for _, e := range n.edges {
		arrow := "-->"
		if e.soft {
			arrow = "-.->"
		}
		fmt.Fprintf(out, "  %s %s %s\n", e.from, arrow, e.to)
	}
	fmt.Fprintln(out, "  classDef shared stroke-width:3px")
	fmt.Fprintln(out, "  classDef target font-weight:bold")
	fmt.Fprintln(out, "  classDef needed stroke-dasharray:4 3")
	return out.Flush()
}

func class(x node) string {
	switch {
	case x.shared:
		return ":::shared"
	case x.faint:
		return ":::needed"
	case x.kind == targetNode:
		return ":::target"
	}
	return ""
}

// mermaidText writes every character that means something to Mermaid, Markdown
// or HTML as an entity.
func mermaidText(s string) string {
	var b strings.Builder
	for _, r := range s {
		if strings.ContainsRune("\"#&<>`*_~|\\[]{}()$;%", r) {
			fmt.Fprintf(&b, "#%d;", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// DOT draws the plan in the language of Graphviz.
func (v View) DOT(w io.Writer, p *planner.Plan) error {
	n := v.network(p)
	out := bufio.NewWriter(w)
	fmt.Fprint(out, "digraph zbuild {\n  rankdir=LR\n  node [fontname=\"sans-serif\" shape=box style=rounded]\n")
	for _, x := range n.nodes {
		fmt.Fprintf(out, "  %s [label=%s%s]\n", x.id, dotLabel(x), dotStyle(x))
	}
	for _, e := range n.edges {
		style := ""
		if e.soft {
			style = " [style=dashed]"
		}
		fmt.Fprintf(out, "  %s -> %s%s\n", e.from, e.to, style)
	}
	fmt.Fprintln(out, "}")
	return out.Flush()
}

// dotLabel is a label as a quoted string. Lines of steps are flush left.
func dotLabel(x node) string {
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	end := `\n`
	if x.flush {
		end = `\l`
	}
	var b strings.Builder
	for i, l := range x.lines {
		if i > 0 {
			b.WriteString(end)
		}
		b.WriteString(quote.Replace(l))
	}
	if end == `\l` {
		b.WriteString(end)
	}
	return `"` + b.String() + `"`
}

func dotStyle(x node) string {
	switch {
	case x.kind == imageNode:
		return " shape=cylinder style=solid"
	case x.faint:
		return ` shape=box style="rounded,dashed"`
	case x.kind == targetNode:
		return ` shape=box style="rounded,bold"`
	case x.shared:
		return " penwidth=3"
	}
	return ""
}
