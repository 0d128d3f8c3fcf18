package config

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/docker/buildx/bake/hclparser"
)

// about says what an attribute of a target is for: a sentence, what it is if it
// is not written, and an example. A test keeps it together with the table.
var about = map[string]struct{ text, fallback, example string }{
	"matrix":            {"Makes a target of each combination of the values of its axes.", "", `{ os = ["alpine", "debian"] }`},
	"name":              {"Names the targets that a matrix makes.", "", `"app-${os}"`},
	"description":       {"What the target is, for lists.", "", `"The server"`},
	"inherits":          {"Targets whose attributes this one starts from; later ones win, its own win last.", "", `["_common"]`},
	"annotations":       {"Annotations of the image's manifest or index.", "", `["manifest:org.opencontainers.image.title=api"]`},
	"attest":            {"Attestations: provenance and SBOMs.", "", `["type=provenance,mode=max"]`},
	"context":           {"What the Dockerfile copies from: a directory, or a git or HTTP URL.", "`.`", `"services/api"`},
	"contexts":          {"More contexts, by name: directories, `target:`, `docker-image://`, `oci-layout://`, URLs.", "", `{ tools = "target:tools" }`},
	"dockerfile":        {"The Dockerfile, relative to the context.", "`Dockerfile`", `"api.Dockerfile"`},
	"dockerfile-inline": {"The text of the Dockerfile; it wins over `dockerfile`.", "", `"FROM scratch"`},
	"args":              {"Arguments of the Dockerfile; null keeps its default.", "", `{ VERSION = "1.0" }`},
	"labels":            {"Labels of the image.", "", `{ "org.opencontainers.image.version" = "1.0" }`},
	"tags":              {"Names of the image.", "", `["registry.example.com/api:1.0"]`},
	"cache-from":        {"Where results of earlier builds are looked for, beside the store.", "", `["type=registry,ref=registry.example.com/cache"]`},
	"cache-to":          {"Where results are left for others.", "", `["type=registry,ref=registry.example.com/cache,mode=max"]`},
	"target":            {"The stage to build.", "the last one", `"release"`},
	"secret":            {"Secrets for `RUN --mount=type=secret`: where they are, never what they are.", "", `["id=token,env=TOKEN"]`},
	"ssh":               {"SSH agents and keys for `RUN --mount=type=ssh`.", "", `["default"]`},
	"platforms":         {"The platforms to build for.", "this machine's", `["linux/amd64", "linux/arm64"]`},
	"output":            {"What becomes of the result.", "an image in the store", `["type=image,push=true"]`},
	"pull":              {"When base images are fetched although they are in the store: a bool, or zbuild's `missing`, `newer`, `always`, `never`.", "`missing`", `"newer"`},
	"no-cache":          {"Run every step, with empty cache mounts.", "`false`", `true`},
	"network":           {"The network of RUN.", "`default`", `"none"`},
	"no-cache-filter":   {"Stages whose steps are always run, with empty cache mounts.", "", `["version"]`},
	"shm-size":          {"The size of /dev/shm in RUN.", "64m", `"128m"`},
	"ulimits":           {"Limits of the processes of RUN.", "", `["nofile=1024:2048"]`},
	"resources":         {"Limits of memory and CPU of RUN.", "", `{ memory = "1g" }`},
	"call":              {"What is asked of the Dockerfile: build, check, outline, targets.", "`build`", `"check"`},
	"entitlements":      {"Rights that steps need and that --allow has to grant.", "", `["network.host"]`},
	"extra-hosts":       {"More lines of /etc/hosts in RUN, by host name.", "", `{ "db.internal" = "10.0.0.7" }`},
	"policy":            {"Policies that sources have to meet.", "", `[{ filename = "Dockerfile.rego" }]`},
	"cache-mount":       {"A cache mount that every RUN gets unless it mounts that path itself. A block with a name.", "", ""},
	"retries":           {"How often a RUN that failed is tried again.", "0", `2`},
	"retry-delay":       {"How long to wait before that.", "0s", `"3s"`},
	"default-registry":  {"Where base images without a registry in their name come from, before the usual places.", "", `"registry.example.com/mirror"`},
	"format":            {"The format of the image.", "`oci`", `"docker"`},
	"squash":            {"Make one layer of everything above the base image.", "`false`", `true`},
	"depends-on":        {"Targets to wait for, without taking anything of theirs.", "", `["tools"]`},
	"watch":             {"Settings of `zbuild watch`. A block; the project's are apart from a target's.", "", ""},
}

// consumer says who reads an attribute, for people.
func (u use) consumer() string {
	switch u {
	case forEvaluation:
		return "evaluation"
	case forWatch:
		return "watch"
	case forPrint:
		return "shown only"
	case notYet:
		return "nobody yet: a build warns"
	default:
		return "the build"
	}
}

// WriteReference writes the reference of the language as Markdown: blocks,
// attributes, functions and built-in variables, from the tables that evaluation
// works by.
func WriteReference(w io.Writer) error {
	b := &strings.Builder{}
	b.WriteString("## Attributes of a target\n\n" +
		"Merge is what becomes of a value that a parent of `inherits`, or an earlier file, gives too: *replace*, *append*,\n" +
		"*by key* or *field* (later ones are added or replaced), *by id* (the same for elements). \"zbuild\" marks what bake does\n" +
		"not have; \"project\" what can also stand outside of all blocks as the default of all targets.\n\n" +
		"| Attribute | Type | Default | Merge | `--set` | Read by | Meaning, example |\n|---|---|---|---|---|---|---|\n")
	for i := range attributes {
		a := &attributes[i]
		name := "`" + a.name + "`"
		if a.project {
			name += " (zbuild, project)"
		} else if a.ours {
			name += " (zbuild)"
		}
		doc := about[a.name]
		text := doc.text
		if doc.example != "" {
			text += " `" + doc.example + "`"
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s |\n", name, cell(a.kind), cell(doc.fallback), a.rule, a.setKey(), a.use.consumer(), cell(text))
	}
	for _, f := range forms {
		writeForm(b, f, "", "In a target, or outside of all blocks for all targets.")
	}
	writeForm(b, settingsForm, "", "Outside of all blocks. Its values are constants: they are read before there are variables.")
	b.WriteString("\n## Outside of all blocks (zbuild)\n\n| Attribute | Type | Meaning |\n|---|---|---|\n" +
		"| `include` | list of paths | Files whose blocks come before this one's. Constants. |\n" +
		"| `env-file` | list of paths | Files with values of variables, under those of the environment; `-` before the path of one that may be missing. Constants. |\n" +
		"| `NAME = VALUE` | any | A value to refer to, which nothing outside can change. |\n")
	b.WriteString("\n## Other blocks\n\n| Block | Attributes |\n|---|---|\n" +
		"| `group \"NAME\"` | `targets` (required), `description` |\n" +
		"| `variable \"NAME\"` | `default`, `type`, `description`, and blocks `validation { condition, error_message }` |\n" +
		"| `function \"NAME\"` | `params`, `variadic_params`, `result` |\n")
	b.WriteString("\n## Built-in variables\n\n| Variable | Value |\n|---|---|\n" +
		"| `BAKE_CMD_CONTEXT` | where bake was called: `cwd://` |\n| `BAKE_LOCAL_PLATFORM` | the platform of this machine |\n")
	b.WriteString("\n## Functions\n\n| Function | |\n|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(hclparser.Stdlib())) {
		fmt.Fprintf(b, "| `%s` | %s |\n", name, cell(hclparser.StdlibFuncDescription(name)))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// cell is text in a cell of a table.
func cell(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\n", " "), "|", `\|`)
}

// setKey is how --set names the attribute.
func (a *attribute) setKey() string {
	if len(a.sets) == 0 {
		return ""
	}
	var keys []string
	for _, key := range a.sets {
		switch a.sub {
		case needsSubkey:
			key += ".X"
		case maySubkey:
			key += "[.X]"
		}
		keys = append(keys, "`"+key+"`")
	}
	text := strings.Join(keys, ", ")
	if a.multi {
		text += " (+=)"
	}
	return text
}

func writeForm(b *strings.Builder, f *form, in, where string) {
	fmt.Fprintf(b, "\n## Block `%s%s` (zbuild)\n\n%s\n\n| Attribute | Type | Default | Meaning, example |\n|---|---|---|---|\n", in, f.name, where)
	for _, a := range f.fields {
		fmt.Fprintf(b, "| `%s` | %s | %s | %s `%s` |\n", a.name, cell(a.kind), cell(a.fallback), cell(a.about), a.example)
	}
	for _, inner := range f.blocks {
		writeForm(b, inner, f.name+" ", "Any number of them.")
	}
}

// Schema is the JSON Schema (2020-12) of zbuild.json.
func Schema() ([]byte, error) {
	type m = map[string]any
	target := m{}
	top := m{}
	for i := range attributes {
		a := &attributes[i]
		s := schemaOf(a.kind)
		if f := formNamed(a.name); f != nil {
			s = f.schema()
		}
		s["description"] = about[a.name].text
		target[a.name] = s
		if a.project {
			top[a.name] = s
		}
	}
	strs := m{"type": "array", "items": m{"type": "string"}}
	object := func(properties m, required ...string) m {
		o := m{"type": "object", "properties": properties, "additionalProperties": false}
		if len(required) > 0 {
			o["required"] = required
		}
		return o
	}
	named := func(block m) m {
		return m{"type": "object", "additionalProperties": m{"anyOf": []any{block, m{"type": "array", "items": block}}}}
	}
	validation := object(m{"condition": m{}, "error_message": m{"type": "string"}}, "condition", "error_message")
	top["target"] = named(object(target))
	top["group"] = named(object(m{"description": m{"type": "string"}, "targets": m{"anyOf": []any{strs, m{"type": "string"}}}}, "targets"))
	top["variable"] = named(object(m{
		"type": m{"type": "string"}, "default": m{}, "description": m{"type": "string"},
		"validation": m{"anyOf": []any{validation, m{"type": "array", "items": validation}}},
	}))
	top["function"] = named(object(m{"params": strs, "variadic_params": m{"type": "string"}, "result": m{}}, "params", "result"))
	top["include"], top["env-file"], top[settingsForm.name] = strs, strs, settingsForm.schema()
	text, err := json.MarshalIndent(m{
		"$schema":     "https://json-schema.org/draft/2020-12/schema",
		"title":       "zbuild.json",
		"description": "A project of zbuild in HCL's JSON form: in strings, ${...} is evaluated. Other names are values to refer to.",
		"type":        "object",
		"properties":  top,
	}, "", "  ")
	return append(text, '\n'), err
}

// schema is the schema of a block's attribute form.
func (f *form) schema() map[string]any {
	properties := map[string]any{}
	var required []string
	for _, a := range f.fields {
		s := schemaOf(a.kind)
		s["description"] = a.about
		properties[a.name] = s
		if a.fallback == "required" {
			required = append(required, a.name)
		}
	}
	for _, inner := range f.blocks {
		properties[inner.name] = map[string]any{"type": "array", "items": inner.schema()}
	}
	s := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		s["required"] = required
	}
	if f.labeled {
		return map[string]any{"type": "object", "additionalProperties": s}
	}
	return s
}

// schemaOf is the schema of a kind of value. A string can always stand for
// another primitive: it may be a template.
func schemaOf(kind string) map[string]any {
	switch {
	case strings.HasPrefix(kind, "list of strings, or"):
		return map[string]any{"type": []string{"array", "string"}}
	case strings.HasPrefix(kind, "list"):
		return map[string]any{"type": []string{"array", "string", "null"}}
	case strings.HasPrefix(kind, "map"), kind == "object":
		return map[string]any{"type": []string{"object", "string", "null"}}
	case strings.HasPrefix(kind, "bool"):
		return map[string]any{"type": []string{"boolean", "string", "null"}}
	case kind == "number":
		return map[string]any{"type": []string{"number", "string", "null"}}
	default:
		return map[string]any{"type": []string{"string", "number", "null"}}
	}
}
