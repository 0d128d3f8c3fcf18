package bake

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
)

// maker makes a project out of chance.
type maker struct {
	*rand.Rand
	variables []string // that exist
	functions []string
	targets   []string
	groups    []string
	// axes are the names that only exist in the target that is being made.
	axes []string
}

func makeProject(seed uint64) *project {
	m := &maker{Rand: rand.New(rand.NewPCG(seed, 1))}
	p := &project{env: map[string]string{}, vars: map[string]string{}}
	for i := range m.IntN(5) {
		m.variables = append(m.variables, fmt.Sprintf("VAR%d", i))
	}
	for i := range 1 + m.IntN(6) {
		m.targets = append(m.targets, fmt.Sprintf("t%d", i))
	}
	for i := range m.IntN(3) {
		m.groups = append(m.groups, fmt.Sprintf("g%d", i))
	}
	if m.chance(70) {
		m.groups = append(m.groups, "default")
	} else {
		m.targets = append(m.targets, "default")
	}
	for i := range m.IntN(3) {
		m.functions = append(m.functions, fmt.Sprintf("f%d", i))
	}
	switch {
	case m.chance(15):
		p.files = append(p.files, file{"compose.yaml", m.compose()})
		fallthrough
	default:
		p.files = append(p.files, file{"docker-bake.hcl", m.hcl(true)})
	}
	if m.chance(30) {
		p.files = append(p.files, file{"over.hcl", m.hcl(false)})
	}
	if m.chance(20) {
		p.files = append(p.files, file{"over.json", m.json()})
	}
	if m.chance(20) {
		m.Shuffle(len(p.files), func(i, j int) { p.files[i], p.files[j] = p.files[j], p.files[i] })
	}
	for _, v := range m.variables {
		if m.chance(20) {
			p.env[v] = m.pick("env", "", "1", "true", "a,b", "x:y")
		}
		if m.chance(15) {
			p.vars[v] = m.pick("flag", "2", "false")
		}
	}
	for range m.IntN(4) {
		if m.chance(60) {
			p.targets = append(p.targets, m.pick(append(append(m.targets, m.groups...), "t*", "*", "default")...))
			if m.chance(5) {
				p.targets = append(p.targets, m.pick("nope", "g?", "x*", "t1.x"))
			}
		}
	}
	for range m.IntN(5) {
		if m.chance(50) {
			p.overrides = append(p.overrides, m.override())
		}
	}
	return p
}

func (m *maker) chance(percent int) bool    { return m.IntN(100) < percent }
func (m *maker) pick(from ...string) string { return from[m.IntN(len(from))] }
func (m *maker) some(from []string) []string {
	var some []string
	for _, s := range from {
		if m.chance(40) {
			some = append(some, s)
		}
	}
	return some
}

func (m *maker) override() string {
	target := m.pick(append(m.targets, "*", "t*")...)
	switch {
	case m.chance(60):
		target = "*"
	case m.chance(3):
		target = "nope*"
	case m.chance(3):
		return target + "." + m.pick("foo=bar", "tags.x=y", "args=x", "pull=x", "attest=mode=max", "contexts=x", "platform=x/y/z/a")
	}
	return target + "." + m.pick(
		"args.X=1", "arg.VAR0", "args.K0=o", "labels.l=x", "label.K1=", "tags=o:1", "tags+=o:2", "tag=", "platform=linux/s390x", "platforms+=linux/arm64",
		"context=ctx", "dockerfile=D", "target=t", "contexts.c0=", "contexts.c1=over", "network=host", "no-cache=true", "pull=0", "output=type=tar,dest=x",
		"output+=type=registry", "cache-from=a,b", "cache-from+=type=gha", "cache-to=type=inline", "annotations=a=b", "annotation=", "ulimits=nofile=3",
		"ulimit+=nproc=1", "no-cache-filter+=z", "shm-size=1g", "extra-hosts.h=1.2.3.4", "entitlements=network.host", "attest=type=sbom", "attest=",
		"resources.memory=1g", "push=true", "push=false", "secrets=id=z,env=Z", "call=check", "policy+=strict=true",
	)
}

func quote(s string) string { return fmt.Sprintf("%q", s) }

// hcl makes a file; all is set for the one that has to define everything.
func (m *maker) hcl(all bool) string {
	var b strings.Builder
	for _, v := range m.variables {
		if all || m.chance(20) {
			m.variable(&b, v)
		}
	}
	if m.chance(30) {
		fmt.Fprintf(&b, "glob%d = %s\n", m.IntN(2), m.text(1))
	}
	for _, f := range m.functions {
		if all || m.chance(20) {
			fmt.Fprintf(&b, "function %q {\n  params = [p]\n  result = %s\n}\n", f, m.pick(
				`"${p}-x"`, `upper(p)`, `p == "" ? "none" : p`, `join("-", [p, p])`, `replace(p, "a", "b")`, `p`))
		}
	}
	for _, t := range m.targets {
		if all || m.chance(30) {
			m.target(&b, t)
		}
	}
	for _, g := range m.groups {
		if all || m.chance(20) {
			members := m.some(m.targets)
			if m.chance(20) {
				members = append(members, m.some(m.groups)...)
			}
			fmt.Fprintf(&b, "group %q {\n  targets = %s\n", g, list(members))
			if m.chance(20) {
				fmt.Fprintf(&b, "  description = %s\n", m.text(0))
			}
			b.WriteString("}\n")
		}
	}
	return b.String()
}

func list(of []string) string {
	var quoted []string
	for _, s := range of {
		quoted = append(quoted, quote(s))
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

func (m *maker) variable(b *strings.Builder, name string) {
	fmt.Fprintf(b, "variable %q {\n", name)
	if m.chance(25) {
		fmt.Fprintf(b, "  type = %s\n", m.pick("string", "number", "bool", "list(string)", "map(string)", "any", "set(string)", "tuple([string, number])"))
		if m.chance(50) {
			b.WriteString("}\n")
			return
		}
	}
	if m.chance(80) {
		fmt.Fprintf(b, "  default = %s\n", m.pick(`"v"`, `"v"`, `"v"`, `"w"`, `""`, "1", "true", "null", `"${BAKE_LOCAL_PLATFORM}"`, m.text(1)))
	}
	if m.chance(5) {
		fmt.Fprintf(b, "  validation {\n    condition = %s\n    error_message = \"no: ${%s}\"\n  }\n", m.pick(name+` != ""`, "true", name+" != null", `can(regex("^v", `+name+`))`), name)
	}
	b.WriteString("}\n")
}

// text makes an expression that is a text, mostly.
func (m *maker) text(depth int) string {
	if depth <= 0 || m.chance(40) {
		return m.pick(`"a"`, `"b:1"`, `"x-${1 + 1}"`, `""`, `"$${esc}"`, `"1.2.3"`)
	}
	switch m.IntN(14) {
	case 0, 1, 2:
		if len(m.variables) > 0 {
			return `"${` + m.pick(m.variables...) + `}"`
		}
	case 3:
		return fmt.Sprintf("%s(%s)", m.pick("upper", "lower", "title", "reverse", "sha1", "md5", "trimspace", "base64encode"), m.text(depth-1))
	case 4:
		return fmt.Sprintf("%s == %s ? %s : %s", m.text(depth-1), m.text(depth-1), m.text(depth-1), m.text(depth-1))
	case 5:
		return fmt.Sprintf(`join("-", [%s, %s])`, m.text(depth-1), m.text(depth-1))
	case 6:
		if len(m.functions) > 0 {
			return fmt.Sprintf("%s(%s)", m.pick(m.functions...), m.text(depth-1))
		}
	case 7:
		return fmt.Sprintf("try(%s, %s)", m.pick("NOPE", m.text(depth-1), "target."+m.pick(m.targets...)+".tags[0]"), m.text(depth-1))
	case 8:
		return fmt.Sprintf(`"%%{ if %s != "" }%s%%{ else }z%%{ endif }"`, m.text(depth-1), m.pick("y", "${1}"))
	case 9:
		if len(m.axes) > 0 {
			return `"${` + m.pick(m.axes...) + `}"`
		}
	case 10:
		return fmt.Sprintf(`replace(%s, "a", "c")`, m.text(depth-1))
	case 11:
		if m.chance(10) {
			return "target." + m.pick(m.targets...) + "." + m.pick("context", "target", "dockerfile", "args.K0", "tags[0]", "name")
		}
	case 12:
		return fmt.Sprintf("coalesce(null, %s)", m.text(depth-1))
	}
	return m.pick(`"c"`, "null", "2", "true", "1.50", `element(["p", "q"], 1)`)
}

func (m *maker) texts(from ...string) string {
	var all []string
	for range m.IntN(4) {
		e := quote(m.pick(from...))
		if m.chance(10) {
			e = m.text(1)
		}
		all = append(all, e)
	}
	expr := "[" + strings.Join(all, ", ") + "]"
	switch m.IntN(12) {
	case 0:
		return fmt.Sprintf(`concat(%s, %s)`, expr, list(m.some(from)))
	case 1:
		return fmt.Sprintf(`[for x in %s : x if x != ""]`, expr)
	case 2:
		return fmt.Sprintf(`%s == "" ? [] : %s`, m.text(1), expr)
	case 3:
		return fmt.Sprintf("compact(%s)", expr)
	case 4:
		return "null"
	}
	return expr
}

func (m *maker) pairs(keys ...string) string {
	var all []string
	for _, k := range keys {
		if m.chance(50) {
			all = append(all, fmt.Sprintf("%s = %s", m.pick(k, quote(k)), m.text(2)))
		}
	}
	expr := "{ " + strings.Join(all, ", ") + " }"
	if m.chance(10) {
		return fmt.Sprintf("merge(%s, { K0 = %s })", expr, m.text(1))
	}
	return expr
}

func (m *maker) target(b *strings.Builder, name string) {
	fmt.Fprintf(b, "target %q {\n", name)
	m.axes = nil
	if m.chance(12) {
		m.axes = append(m.axes, "ax")
		fmt.Fprintf(b, "  name = \"%s-${ax}\"\n  matrix = { ax = %s }\n", name, m.pick(`["1", "2"]`, `["x"]`, `[1, 2]`, `[for i in range(2) : "i${i}"]`))
	}
	for _, a := range m.attributes() {
		if m.chance(14) {
			fmt.Fprintf(b, "  %s = %s\n", a.name, a.value())
		}
	}
	m.axes = nil
	b.WriteString("}\n")
}

type attribute struct {
	name  string
	value func() string
}

func (m *maker) attributes() []attribute {
	one := func(from ...string) func() string {
		return func() string {
			if m.chance(20) {
				return m.text(2)
			}
			return quote(m.pick(from...))
		}
	}
	many := func(from ...string) func() string { return func() string { return m.texts(from...) } }
	raw := func(from ...string) func() string { return func() string { return m.pick(from...) } }
	pairs := func(keys ...string) func() string { return func() string { return m.pairs(keys...) } }
	return []attribute{
		{"description", one("d", "e")},
		{"inherits", func() string { return list(m.some(m.targets)) }},
		{"not-an-attribute", one("x")},
		{"annotations", raw(`["a=1", "a=1"]`, `["index:b=2"]`, `[]`, `["c=${1}"]`, `["d=4", ""]`)},
		{"attest", raw(`["type=sbom"]`, `["type=provenance,mode=max"]`, `[{ type = "sbom", disabled = true }]`, `[]`)},
		{"context", one(".", "./x/../y", "cwd://z", "docker-image://i", "https://example.com/a.git", "/abs", "")},
		{"contexts", func() string {
			values := []string{"", "docker-image://x", "dir", "target:" + m.pick(m.targets...)}
			return fmt.Sprintf("{ c%d = %q, c%d = %q }", m.IntN(2), m.pick(values...), 2+m.IntN(2), m.pick(values...))
		}},
		{"dockerfile", one("Dockerfile", "x/D", "", "./a/../b")},
		{"dockerfile-inline", one("FROM x", "FROM y\nRUN z")},
		{"args", pairs("K0", "K1", "K2")},
		{"labels", pairs("K0", "l", "m")},
		{"extra-hosts", pairs("h", "i")},
		{"tags", many("t:1", "t:2", "u", "")},
		{"platforms", func() string {
			return list(m.some([]string{"linux/amd64", "linux/arm64", "linux/arm/v7", "local", "linux/amd64"}))
		}},
		{"target", one("build", "release")},
		{"cache-from", raw(`["a"]`, `["a,b", "type=gha"]`, `[{ type = "registry", ref = "a" }]`, `[]`, `["", "b"]`)},
		{"cache-to", raw(`["type=inline"]`, `["type=gha,mode=max", "type=inline"]`, `[]`)},
		{"secret", raw(`["id=a,env=A"]`, `["id=b,env=B", "id=a,env=C"]`, `[{ id = "c", env = "D" }]`, `[]`)},
		{"output", raw(`["type=image"]`, `["type=registry"]`, `["type=local,dest=o"]`, `["type=docker", "type=docker"]`, `[{ type = "oci", dest = "x" }]`, `["out"]`, `[]`)},
		{"pull", raw("true", "false", "null", `"true"`, `1 == 1`)},
		{"no-cache", raw("true", "false", "null")},
		{"network", one("host", "none", "default")},
		{"no-cache-filter", many("s1", "s2")},
		{"shm-size", raw(`"1g"`, `"64m"`, "1024", "null")},
		{"ulimits", raw(`["nofile=1:2"]`, `["nproc=3", "nproc=3"]`, `[]`)},
		{"resources", raw(`{ memory = "1g" }`, `{ cpu-shares = 5, memory-swap = "-1" }`, `{}`)},
		{"call", one("check", "build")},
		{"entitlements", many("network.host", "security.insecure")},
		{"policy", raw(`[{ filename = "p" }]`, `[{ disabled = true }]`, `[]`)},
	}
}

// json makes a file that adds to what there is.
func (m *maker) json() string {
	targets := map[string]any{}
	for _, t := range m.some(m.targets) {
		values := map[string]any{}
		for _, a := range []struct {
			name  string
			value any
		}{
			{"tags", []string{"json:1", "${upper(\"x\")}"}},
			{"args", map[string]any{"K1": "j", "N": 1, "B": true, "Z": nil}},
			{"target", "json"},
			{"no-cache", true},
			{"inherits", m.some(m.targets)},
			{"labels", map[string]string{"l": "$${x}"}},
			{"output", []string{"type=cacheonly"}},
			{"cache-from", []any{map[string]string{"type": "gha"}, "j"}},
		} {
			if m.chance(30) {
				values[a.name] = a.value
			}
		}
		targets[t] = values
	}
	all := map[string]any{"target": targets}
	if m.chance(20) {
		all["variable"] = map[string]any{"VAR0": map[string]any{"default": "from-json"}}
	}
	text, err := json.Marshal(all)
	if err != nil {
		panic(err)
	}
	return string(text) + "\n"
}

// compose makes a Compose file whose services are targets too.
func (m *maker) compose() string {
	var b strings.Builder
	b.WriteString("services:\n  svc:\n    build: ./svc\n")
	for _, t := range m.some(m.targets) {
		fmt.Fprintf(&b, "  %s:\n    image: img/%s\n    build:\n      context: %s\n", t, t, m.pick(".", "./c", "../up"))
		for _, line := range []string{
			"args: {K0: c, K1: }", "tags: [c:1]", "labels: [l=c]", "target: c", "cache_from: [c]", "platforms: [linux/amd64]",
			"additional_contexts: {c0: ./d}", "no_cache: true", "network: none", "x-bake: {tags: [xb], output: type=docker}",
			"ulimits: {nofile: {soft: 1, hard: 2}}", "extra_hosts: [h=1.1.1.1]", "shm_size: 2g", "pull: true",
		} {
			if m.chance(20) {
				fmt.Fprintf(&b, "      %s\n", line)
			}
		}
	}
	return b.String()
}
