package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/moby/patternmatcher"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// Watch are the settings of watch mode. What is zero was not said: then the
// project's setting stands for a target's, and the default for the project's.
type Watch struct {
	// Paths are absolute paths of files and directories that are watched besides
	// what the build reads.
	Paths []string
	// Ignore says which changes do not count.
	Ignore []IgnorePattern
	// Debounce is how long it has to be quiet before a change counts, Ceiling how
	// long changes can put that off.
	Debounce, Ceiling time.Duration
	// OnBusy is OnBusyRestart, OnBusyQueue or empty.
	OnBusy OnBusy
	// Exec is the command to run after a success, and its arguments; ExecDir is
	// its working directory, absolute. What the file has as one string is run by
	// /bin/sh.
	Exec    []string
	ExecDir string
	Sync    []SyncRule
	// Range is where the settings were written last.
	Range hcl.Range
}

// OnBusy says what a change does to a build that is running.
type OnBusy string

// What a change can do to a running build.
const (
	OnBusyRestart OnBusy = "restart" // cancel it, and begin again
	OnBusyQueue   OnBusy = "queue"   // wait for its end
)

// IgnorePattern is a line of an ignore file: see .dockerignore in the Dockerfile
// reference.
type IgnorePattern struct {
	// Dir is the absolute directory that the pattern is relative to.
	Dir, Pattern string
}

// SyncRule copies files that have changed into running containers.
type SyncRule struct {
	// Path is the absolute path of the file or directory whose changes are copied,
	// Target is where to, an absolute path in the container.
	Path, Target string
	// Container is the container's name; or Label is a label, KEY or KEY=VALUE, of
	// the containers.
	Container, Label string
	// Ignore are patterns of what is not copied, relative to Path.
	Ignore []string
	Range  hcl.Range
}

// wireWatch is a watch block as it is written.
type wireWatch struct {
	Paths    []located  `json:"paths,omitempty"`
	Ignore   []located  `json:"ignore,omitempty"`
	Debounce string     `json:"debounce,omitempty"`
	Ceiling  string     `json:"ceiling,omitempty"`
	OnBusy   string     `json:"on-busy,omitempty"`
	Exec     *wireExec  `json:"exec,omitempty"`
	Sync     []wireSync `json:"sync,omitempty"`
}

type wireSync struct {
	Path      string   `json:"path"`
	Target    string   `json:"target"`
	Container string   `json:"container,omitempty"`
	Label     string   `json:"label,omitempty"`
	Ignore    []string `json:"ignore,omitempty"`

	at hcl.Range
}

// located is a string whose meaning depends on the file that it is written in.
type located struct {
	text string
	at   hcl.Range
}

// MarshalJSON is part of json.Marshaler.
func (l located) MarshalJSON() ([]byte, error) { return json.Marshal(l.text) }

// wireExec is a command: a line for the shell, or words.
type wireExec struct {
	line  string
	words []string
	at    hcl.Range
}

// MarshalJSON is part of json.Marshaler.
func (e *wireExec) MarshalJSON() ([]byte, error) {
	if e.words != nil {
		return json.Marshal(e.words)
	}
	return json.Marshal(e.line)
}

// FromCtyValue is part of hclparser's protocol.
func (w *wireWatch) FromCtyValue(in cty.Value, at cty.Path) error {
	values, err := objectOf("watch", in, formNamed("watch"))
	if err != nil {
		return at.NewError(err)
	}
	*w = wireWatch{
		Paths:    locatedAll(values.list("paths")),
		Ignore:   locatedAll(values.list("ignore")),
		Debounce: values.text("debounce"),
		Ceiling:  values.text("ceiling"),
		OnBusy:   values.text("on-busy"),
	}
	if v, ok := values.values["exec"]; ok {
		w.Exec = &wireExec{}
		if isList(v) {
			w.Exec.words = append([]string{}, values.list("exec")...)
		} else {
			w.Exec.line = values.text("exec")
		}
	}
	if v, ok := values.values["sync"]; ok {
		rules := []cty.Value{v}
		if isList(v) {
			rules = v.AsValueSlice()
		}
		for _, rule := range rules {
			fields, err := objectOf("sync", rule, formNamed("sync"))
			if err != nil {
				return at.NewError(err)
			}
			w.Sync = append(w.Sync, wireSync{
				Path: fields.text("path"), Target: fields.text("target"), Container: fields.text("container"),
				Label: fields.text("label"), Ignore: fields.list("ignore"),
			})
			values.errs = append(values.errs, fields.errs...)
		}
	}
	if len(values.errs) > 0 {
		return at.NewError(errors.Join(values.errs...))
	}
	return nil
}

// ToCtyValue is part of hclparser's protocol. No expression sees watch settings.
func (w *wireWatch) ToCtyValue() cty.Value { return cty.NullVal(cty.DynamicPseudoType) }

// object reads the fields of an object of a form.
type object struct {
	form   *form
	values map[string]cty.Value
	errs   []error
}

func objectOf(what string, in cty.Value, f *form) (*object, error) {
	// JSON has a list where a block may be repeated.
	if isList(in) && in.LengthInt() == 1 {
		in = in.AsValueSlice()[0]
	}
	if in.IsNull() || !in.IsKnown() || !in.Type().IsObjectType() && !in.Type().IsMapType() {
		return nil, fmt.Errorf("%s has to be one object", what)
	}
	o := &object{form: f, values: map[string]cty.Value{}}
	known := slices.Concat(f.attributes(), formNames(f.blocks))
	all := in.AsValueMap()
	for _, key := range slices.Sorted(maps.Keys(all)) {
		switch {
		case !slices.Contains(known, key):
			return nil, fmt.Errorf("%s cannot have an attribute %q.%s", what, key, didYouMean(key, known))
		case !all[key].IsNull():
			o.values[key] = all[key]
		}
	}
	return o, nil
}

func isList(v cty.Value) bool {
	return !v.IsNull() && v.IsKnown() && (v.Type().IsTupleType() || v.Type().IsListType() || v.Type().IsSetType())
}

func (o *object) text(key string) string {
	v, ok := o.values[key]
	if !ok {
		return ""
	}
	return o.string(key, v)
}

func (o *object) string(key string, v cty.Value) string {
	v, err := convert.Convert(v, cty.String)
	if err != nil || v.IsNull() || !v.IsKnown() {
		o.errs = append(o.errs, fmt.Errorf("%s of %s has to be a string", key, o.form.name))
		return ""
	}
	return v.AsString()
}

func (o *object) list(key string) []string {
	v, ok := o.values[key]
	if !ok {
		return nil
	}
	if !isList(v) {
		o.errs = append(o.errs, fmt.Errorf("%s of %s has to be a list of strings", key, o.form.name))
		return nil
	}
	var list []string
	for _, e := range v.AsValueSlice() {
		list = append(list, o.string(key, e))
	}
	return list
}

func locatedAll(list []string) []located {
	var all []located
	for _, s := range list {
		all = append(all, located{text: s})
	}
	return all
}

// locate notes where the block was written.
func (w *wireWatch) locate(at hcl.Range) {
	for i := range w.Paths {
		w.Paths[i].at = at
	}
	for i := range w.Ignore {
		w.Ignore[i].at = at
	}
	for i := range w.Sync {
		w.Sync[i].at = at
	}
	if w.Exec != nil {
		w.Exec.at = at
	}
}

// watching is the field of watch settings: lists are added to, the rest is
// replaced.
func watching() ops {
	o := value(func(t *wireTarget) **wireWatch { return &t.Watch }, nil)
	o.set = nil
	o.merge = func(t, from *wireTarget) {
		merged := *from.Watch
		if w := t.Watch; w != nil {
			merged.Paths = slices.Concat(w.Paths, merged.Paths)
			merged.Ignore = slices.Concat(w.Ignore, merged.Ignore)
			merged.Sync = slices.Concat(w.Sync, merged.Sync)
			for _, f := range []struct{ to, from *string }{
				{&merged.Debounce, &w.Debounce}, {&merged.Ceiling, &w.Ceiling}, {&merged.OnBusy, &w.OnBusy},
			} {
				if *f.to == "" {
					*f.to = *f.from
				}
			}
			if merged.Exec == nil {
				merged.Exec = w.Exec
			}
		}
		t.Watch = &merged
	}
	return o
}

// watch checks watch settings and makes them of what is written; nil if nothing
// is.
func (r *resolver) watch(t *wireTarget) *Watch {
	w := t.Watch
	if w == nil {
		return nil
	}
	at := t.where("watch")
	watch := &Watch{OnBusy: OnBusy(w.OnBusy), Range: *at}
	for _, p := range unique(w.Paths) {
		watch.Paths = append(watch.Paths, joinPath(r.base(p.at.Filename), p.text))
	}
	for _, p := range unique(w.Ignore) {
		if err := checkPattern(p.text); err != nil {
			r.errorf(at, "Invalid watch", "The pattern %q in ignore is malformed: %v.", p.text, err)
		}
		watch.Ignore = append(watch.Ignore, IgnorePattern{Dir: r.base(p.at.Filename), Pattern: p.text})
	}
	watch.Debounce = r.watchTime(at, "debounce", w.Debounce)
	watch.Ceiling = r.watchTime(at, "ceiling", w.Ceiling)
	if watch.Ceiling > 0 && watch.Ceiling < watch.Debounce {
		r.errorf(at, "Invalid watch", "The ceiling %s is below the debounce %s: nothing would ever have been quiet for long enough.", w.Ceiling, w.Debounce)
	}
	switch watch.OnBusy {
	case "", OnBusyRestart, OnBusyQueue:
	default:
		r.errorf(at, "Invalid watch", `on-busy is "restart" or "queue", not %q.`, w.OnBusy)
	}
	if e := w.Exec; e != nil {
		watch.Exec, watch.ExecDir = e.words, r.base(e.at.Filename)
		if e.words == nil && e.line != "" {
			watch.Exec = []string{"/bin/sh", "-c", e.line}
		}
		if len(watch.Exec) > 0 && watch.Exec[0] == "" {
			r.errorf(at, "Invalid watch", "The command of exec is empty.")
		}
	}
	for _, s := range w.Sync {
		watch.Sync = append(watch.Sync, r.syncRule(s))
	}
	return watch
}

func (r *resolver) watchTime(at *hcl.Range, name, written string) time.Duration {
	if written == "" {
		return 0
	}
	d, err := time.ParseDuration(written)
	if err != nil || d <= 0 || d > time.Hour {
		r.errorf(at, "Invalid watch", "%s is %q, which is not a duration above zero and up to an hour, such as 200ms or 3s.", name, written)
		return 0
	}
	return d
}

func (r *resolver) syncRule(s wireSync) SyncRule {
	rule := SyncRule{
		Path: joinPath(r.base(s.at.Filename), s.Path), Target: path.Clean(s.Target),
		Container: s.Container, Label: s.Label, Ignore: s.Ignore, Range: s.at,
	}
	invalid := func(format string, args ...any) { r.errorf(&s.at, "Invalid sync", format, args...) }
	if s.Path == "" {
		invalid("A sync rule needs a path: the file or directory whose changes are copied.")
	}
	if !path.IsAbs(s.Target) {
		invalid("The target of a sync rule has to be an absolute path in the container, not %q.", s.Target)
	}
	if (s.Container == "") == (s.Label == "") {
		invalid("A sync rule names a container or a label of containers: one of the two.")
	}
	if strings.HasPrefix(s.Label, "=") {
		invalid("The label %q has no key. Write KEY or KEY=VALUE.", s.Label)
	}
	for _, p := range s.Ignore {
		if err := checkPattern(p); err != nil {
			invalid("The pattern %q in ignore is malformed: %v.", p, err)
		}
	}
	return rule
}

func checkPattern(pattern string) error {
	_, err := patternmatcher.New([]string{pattern})
	return err
}
