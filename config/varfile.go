package config

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// givenValue is what a file of --var-file gives a variable.
type givenValue struct {
	value cty.Value
	key   hcl.Range // the variable's name in the file
	at    hcl.Range // its value
}

// readVarFiles reads the files of --var-file: attributes in HCL or a JSON object,
// whose values are constants. Of several files the later one wins.
func (l *loader) readVarFiles(ctx context.Context) {
	for _, name := range l.req.VarFiles {
		path := l.abs(name)
		text, err := l.readGiven(ctx, path)
		if err != nil {
			l.errorf(nil, "Cannot read the file of --var-file", "%s: %s", name, readProblem(err))
			continue
		}
		s := &source{name: name, path: path, base: l.req.Dir, ours: true, text: text}
		if slices.ContainsFunc(l.sources, func(o *source) bool { return o.name == name }) {
			l.errorf(nil, "Cannot read the file of --var-file", "%s is a build file, too. Variables are declared in build files and given their values in another.", name)
			continue
		}
		l.readVarFile(s)
	}
}

func (l *loader) readVarFile(s *source) {
	ok := l.checkText(s)
	l.project.Sources[s.name] = withoutStrings(s)
	if !ok {
		return
	}
	parse := parseHCL
	if strings.HasSuffix(s.name, ".json") {
		parse = parseJSON
	}
	file, diags := parse(s)
	l.diags = append(l.diags, diags...)
	if diags.HasErrors() {
		return
	}
	attrs, diags := file.Body.JustAttributes()
	for _, d := range diags {
		if d.Detail == "Blocks are not allowed here." {
			d.Detail = "A file of --var-file has values: NAME = VALUE. Blocks belong in a build file."
		}
		l.diags = append(l.diags, d)
	}
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		attr := attrs[name]
		at := attr.Expr.Range()
		// In JSON all text is what it is.
		if _, native := attr.Expr.(hclsyntax.Expression); native && (len(attr.Expr.Variables()) > 0 || len(callsOf(attr.Expr)) > 0) {
			l.errorf(&at, "Invalid value in --var-file", "%s has to be a constant: there are neither variables nor functions in a file of --var-file.", name)
			continue
		}
		value, diags := attr.Expr.Value(nil)
		l.diags = append(l.diags, diags...)
		if diags.HasErrors() {
			continue
		}
		if l.givenVars == nil {
			l.givenVars = map[string]givenValue{}
		}
		l.givenVars[name] = givenValue{value: value, key: attr.NameRange, at: at}
	}
}

// withoutStrings is the text of a file of values with asterisks for what is quoted:
// it may be secret, and problems are shown with the line that they are on.
func withoutStrings(s *source) []byte {
	text := slices.Clone(s.text)
	hide := func(start, end int) {
		for i := start; i < end; i++ {
			if text[i] != '\n' && text[i] != '\r' {
				text[i] = '*'
			}
		}
	}
	if strings.HasSuffix(s.name, ".json") {
		for _, at := range jsonString().FindAllIndex(s.text, -1) {
			if rest := bytes.TrimLeft(s.text[at[1]:], " \t\r\n"); len(rest) == 0 || rest[0] != ':' { // a key is none
				hide(at[0]+1, at[1]-1)
			}
		}
		return text
	}
	tokens, _ := hclsyntax.LexConfig(s.text, s.name, hcl.InitialPos)
	for _, t := range tokens {
		if t.Type == hclsyntax.TokenQuotedLit || t.Type == hclsyntax.TokenStringLit {
			hide(t.Range.Start.Byte, t.Range.End.Byte)
		}
	}
	return text
}

// checkGivenVars says which values of --var-file and --var are for variables that
// there are not. Compose files have variables that nobody declares.
func (l *loader) checkGivenVars(e *evaluation) {
	if slices.ContainsFunc(l.sources, func(s *source) bool { return s.compose }) {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(l.givenVars)) {
		if !slices.Contains(e.declared, name) {
			l.errorf(l.givenVars[name].key.Ptr(), "Unknown variable", "No build file declares a variable %q.%s", name, didYouMean(name, e.declared))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.req.Vars)) {
		if !slices.Contains(e.declared, name) && !slices.Contains(e.declared, strings.TrimSuffix(name, "_JSON")) {
			l.warnf(nil, "Unknown variable", "No build file declares a variable %q; --var is ignored, as bake does.%s", name, didYouMean(name, e.declared))
		}
	}
}

// fromFile is the value that --var-file gives a variable, if it does and --var does
// not: of the declared type, else of the default's if that is a string, number or
// bool.
func (e *evaluator) fromFile(name string, typ cty.Type, typed bool, def cty.Value) (cty.Value, bool, error) {
	given, ok := e.given[name]
	if !ok || e.flagged(name) || typed && e.flagged(name+"_JSON") {
		return cty.NilVal, false, nil
	}
	want := typ
	if !typed {
		want = given.value.Type()
		if t := def.Type(); t.IsPrimitiveType() {
			want = t
		}
	}
	value, err := convert.Convert(given.value, want)
	if err != nil {
		at := given.at
		return cty.NilVal, true, hcl.Diagnostics{{
			Severity: hcl.DiagError, Summary: "Invalid value in --var-file", Subject: &at,
			Detail: fmt.Sprintf("The variable %s is of type %s: %s.", name, want.FriendlyNameForConstraint(), strings.TrimSuffix(err.Error(), ".")),
		}}
	}
	return value, true, nil
}

// givenText is what --var-file gives for a variable of a Compose file, which is a
// text.
func (l *loader) givenText() map[string]string {
	texts := map[string]string{}
	for name, given := range l.givenVars {
		if text, err := convert.Convert(given.value, cty.String); err == nil && text.IsKnown() && !text.IsNull() {
			texts[name] = text.AsString()
		}
	}
	return texts
}
