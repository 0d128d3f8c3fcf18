package config

import (
	"bytes"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/buildx/util/buildflags"
	"github.com/hashicorp/hcl/v2"
)

// setName is what ranges call the command line's --set.
const setName = "--set"

// override is what --set says about one key of one target.
type override struct {
	key string // of the table, aliases resolved; or "push", "load"; or unknown
	sub string // what follows the key, for a key that has elements
	// values are all that were given, in order.
	values []string
	// add is true for +=; clear is true if the value was empty once.
	add, clear bool
	at         hcl.Range
}

// last is the value of a key that can only have one.
func (o *override) last() string {
	if len(o.values) == 0 {
		return ""
	}
	return o.values[len(o.values)-1]
}

// parseOverrides parses --set into l.overrides. The values become a source of
// their own, one per line, so that diagnostics can show them.
func (l *loader) parseOverrides() {
	l.overrides = map[string][]*override{}
	if len(l.req.Overrides) == 0 {
		return
	}
	text := &bytes.Buffer{}
	for i, s := range l.req.Overrides {
		line := strings.ReplaceAll(s, "\n", " ")
		at := hcl.Range{
			Filename: setName,
			Start:    hcl.Pos{Line: i + 1, Column: 1, Byte: text.Len()},
			End:      hcl.Pos{Line: i + 1, Column: len(line) + 1, Byte: text.Len() + len(line)},
		}
		text.WriteString(line + "\n")
		l.parseOverride(s, at)
	}
	l.project.Sources[setName] = text.Bytes()
}

func (l *loader) parseOverride(s string, at hcl.Range) {
	left, value, hasValue := strings.Cut(s, "=")
	left, add := strings.CutSuffix(left, "+")
	parts := strings.SplitN(left, ".", 3)
	if len(parts) < 2 {
		l.errorf(&at, "Invalid --set", "Write TARGET.KEY=VALUE, such as app.tags=app:dev or *.no-cache=true.")
		return
	}
	o := override{add: add, at: at}
	if len(parts) == 3 {
		o.sub = parts[2]
	}
	if !l.checkKey(&o, parts, hasValue) {
		return
	}
	names := l.matchTargets(parts[0], at)
	switch {
	case hasValue:
	case o.key == "no-cache":
		value = "true"
	case l.envFlag("BUILDX_BAKE_DISABLE_VARS_ENV_LOOKUP"): // an argument, of no value
	default:
		var ok bool
		if value, ok = l.lookupEnvValue(o.sub); !ok {
			return
		}
	}
	for _, name := range names {
		l.addOverride(name, o, value)
	}
}

// checkKey resolves the override's key and says what is wrong with it. Like bake
// it says so of every override, but of a key that does not exist only when a
// target that is evaluated has it.
func (l *loader) checkKey(o *override, parts []string, hasValue bool) bool {
	written := parts[1]
	multi, ours, sub := false, false, noSubkey
	switch a := attributeWithKey(written); {
	case written == "push" || written == "load":
		o.key = written
	case a != nil:
		o.key, multi, ours, sub = a.name, a.multi, a.ours, a.sub
	default:
		o.key, sub = written, maySubkey
	}
	single := !multi || len(parts) == 3
	switch {
	case sub == needsSubkey && len(parts) < 3:
		l.errorf(&o.at, "Invalid --set", "The key %s needs a name: TARGET.%s.NAME=VALUE.", written, written)
	case len(parts) == 3 && (sub == noSubkey || written == "secrets"):
		l.errorf(&o.at, "Invalid --set", "The key %s takes no name after it.", written)
	case o.add && single && (ours || o.key == "secret" || o.key == "resources"):
		l.errorf(&o.at, "Invalid --set", "The key %s has one value: use = instead of +=.", written)
	case !hasValue && o.key != "args" && o.key != "no-cache":
		l.errorf(&o.at, "Invalid --set", "The value is missing. Write TARGET.KEY=VALUE.")
	default:
		if o.add && single {
			l.warnf(&o.at, "There is nothing to add to", "The key %s has one value: += is the same as =, as it is for bake.", written)
		}
		return true
	}
	return false
}

func attributeWithKey(key string) *attribute {
	for i := range attributes {
		if slices.Contains(attributes[i].sets, key) {
			return &attributes[i]
		}
	}
	return nil
}

// addOverride adds the override to those of the target: one per key, each where
// it was given last.
func (l *loader) addOverride(name string, o override, value string) {
	list := l.overrides[name]
	merged := &override{key: o.key, sub: o.sub}
	if i := slices.IndexFunc(list, func(p *override) bool { return p.key == o.key && p.sub == o.sub }); i >= 0 {
		merged = list[i]
		list = slices.Delete(list, i, i+1)
	}
	l.overrides[name] = append(list, merged)
	if !o.add && value == "" {
		merged.clear, merged.values = true, nil
	} else {
		merged.values = append(merged.values, value)
	}
	merged.add = o.add && !merged.clear
	merged.at = o.at
}

// matchTargets are the targets that a pattern of --set names.
func (l *loader) matchTargets(pattern string, at hcl.Range) []string {
	var all, names []string
	for _, t := range l.file.Targets {
		all = append(all, t.Name)
		if t.Name == pattern {
			return []string{pattern}
		}
		ok, err := path.Match(pattern, t.Name)
		if err != nil {
			l.errorf(&at, "Invalid --set", "The pattern %q is malformed.", pattern)
			return nil
		}
		if ok {
			names = append(names, t.Name)
		}
	}
	if len(names) == 0 && !l.mayExist(pattern) {
		l.errorf(&at, "Unknown target", "No target matches %q.%s", pattern, didYouMean(pattern, all))
	}
	return names
}

// applyOverrides changes a target as --set asks, in the order in which it was
// asked: --push and --load depend on the outputs that are there. Where single
// secrets come from is told last: they may be given by another override.
func (l *loader) applyOverrides(t *wireTarget) {
	isSecret := func(o *override) bool { return o.key == "secret" && o.sub != "" }
	for _, o := range l.overrides[t.Name] {
		if !isSecret(o) {
			l.applyOverride(t, o)
		}
	}
	for _, o := range l.overrides[t.Name] {
		if isSecret(o) {
			l.applyOverride(t, o)
		}
	}
}

func (l *loader) applyOverride(t *wireTarget, o *override) {
	if o.key == "push" || o.key == "load" {
		l.applyExport(t, o)
		return
	}
	a := attributeNamed(o.key)
	if a != nil && len(a.sets) == 0 {
		l.errorf(&o.at, "Unknown --set key", "The attribute %s cannot be set on the command line, only in a build file. An override file can change it.", o.key)
		return
	}
	if a == nil {
		l.errorf(&o.at, "Unknown --set key", "There is no key %q to set.%s", o.key, didYouMean(o.key, setKeys()))
		return
	}
	if slices.Contains(t.failed, a.name) { // what it changes is not known
		return
	}
	if err := a.set(t, o); err != nil {
		l.errorf(&o.at, "Invalid value in --set", "%s of target %s: %v.", a.name, t.Name, err)
		return
	}
	t.from[a.name] = origin{at: o.at, set: true}
	if o.sub != "" {
		t.from[a.name+"."+o.sub] = origin{at: o.at, set: true}
	} else if a.name == "secret" {
		for _, id := range a.keys(t) {
			l.noteSecret(t, o, id)
		}
	}
}

// noteSecret notes that the secret was given on the command line, if it was.
func (l *loader) noteSecret(t *wireTarget, o *override, id string) {
	for _, s := range o.values {
		var given buildflags.Secret
		if given.UnmarshalText([]byte(s)) == nil && given.ID == id {
			t.from["secret."+id] = origin{at: o.at, set: true}
		}
	}
}

func (l *loader) applyExport(t *wireTarget, o *override) {
	on, err := strconv.ParseBool(o.last())
	switch {
	case err != nil:
		l.errorf(&o.at, "Invalid value in --set", "%s of target %s: %q is not a bool.", o.key, t.Name, o.last())
	case o.key == "push":
		t.Outputs = pushed(t.Outputs, on)
	case on:
		t.Outputs = loaded(t.Outputs)
	}
}

// pushed is what --push makes of outputs: those that can be pushed are, and if
// there is nothing but docker's a new one is. --push=false takes that away.
func pushed(outputs buildflags.Exports, push bool) buildflags.Exports {
	var result buildflags.Exports
	onlyDocker := true
	for _, o := range outputs {
		if o.Type == "registry" && !push {
			continue
		}
		onlyDocker = onlyDocker && o.Type == "docker"
		if o.Type == "image" {
			// Targets share outputs.
			o = &buildflags.ExportEntry{Type: o.Type, Destination: o.Destination, Attrs: withKey(o.Attrs, "push", strconv.FormatBool(push))}
		}
		result = append(result, o)
	}
	if push && onlyDocker {
		result = append(result, &buildflags.ExportEntry{Type: "image", Attrs: map[string]string{"push": "true"}})
	}
	return result
}

// loaded is what --load makes of outputs: one to the local store is added,
// unless there is one or the result leaves in some other way altogether.
func loaded(outputs buildflags.Exports) buildflags.Exports {
	for _, o := range outputs {
		switch o.Type {
		case "docker":
			if o.Destination == "" {
				return outputs
			}
		case "image", "registry", "oci":
		default:
			return outputs
		}
	}
	return append(slices.Clone(outputs), &buildflags.ExportEntry{Type: "docker"})
}
