package config

import (
	"bytes"
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	hcljson "github.com/hashicorp/hcl/v2/json"
)

// HCL's parser and evaluator recurse. These keep what they recurse over far
// from the end of the stack, and far above what people write.
const (
	maxDepth     = 500
	maxOperators = 20_000
)

var byteOrderMark = []byte("\xef\xbb\xbf")

// parse parses the source's text into its file; the file stays nil if that is
// not possible.
func (l *loader) parse(ctx context.Context, s *source) {
	if !l.checkText(s) {
		return
	}
	switch {
	case isComposeName(s.name):
		s.compose = true
		if err := l.checkCompose(ctx, s); err != nil {
			l.composeError(ctx, []*source{s}, err)
		}
	case strings.HasSuffix(s.name, ".json"):
		l.accept(s, parseJSON)
	case strings.HasSuffix(s.name, ".hcl"):
		l.accept(s, parseHCL)
	default:
		l.parseUnknown(ctx, s)
	}
}

// checkText takes a file's text in, and reports whether it can be parsed.
func (l *loader) checkText(s *source) bool {
	s.text = bytes.TrimPrefix(s.text, byteOrderMark)
	l.project.Sources[s.name] = s.text
	if at := invalidUTF8(s); at != nil && s.ours {
		l.errorf(at, "The file is not UTF-8", "%s has a byte here that is not valid UTF-8. Save it as UTF-8.", s.name)
		return false
	}
	if at := tooDeep(s); at != nil {
		l.errorf(at, "The file is nested too deeply", "Brackets may be nested up to %d deep.", maxDepth)
		return false
	}
	return true
}

type parser func(*source) (*hcl.File, hcl.Diagnostics)

func (l *loader) accept(s *source, parse parser) {
	file, diags := parse(s)
	l.diags = append(l.diags, diags...)
	if diags.HasErrors() {
		s.torn = file
	} else {
		s.file = file
	}
}

// parseUnknown parses a file whose name does not say what it is: Compose, HCL or
// JSON, the first of them that it can be.
func (l *loader) parseUnknown(ctx context.Context, s *source) {
	composeErr := errNotCompose
	if !isHCLName(s.name) {
		composeErr = l.checkCompose(ctx, s)
	}
	if composeErr == nil {
		s.compose = true
		return
	}
	file, diags := parseHCL(s)
	if diags.HasErrors() && looksLikeDockerfile().Match(s.text) {
		l.errorf(lineRange(s, 1), "Not a build file", "%s looks like a Dockerfile. Name the file that says what to build of it with --file, or have 'zbuild init' write one.", s.name)
		return
	}
	if diags.HasErrors() {
		var jsonDiags hcl.Diagnostics
		if file, jsonDiags = parseJSON(s); !jsonDiags.HasErrors() {
			diags = jsonDiags
		} else if trimmed := bytes.TrimSpace(s.text); len(trimmed) > 0 && trimmed[0] == '{' {
			diags = jsonDiags
		}
	}
	switch {
	case !diags.HasErrors():
		s.file = file
		l.diags = append(l.diags, diags...)
	case looksLikeCompose().Match(s.text) && !errors.Is(composeErr, errNotCompose):
		l.composeError(ctx, []*source{s}, composeErr)
	default:
		l.diags = append(l.diags, diags...)
	}
}

// looksLikeDockerfile matches comments, arguments and a base image.
var looksLikeDockerfile = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?i)\A(?:[ \t]*(?:#[^\n]*|ARG[ \t][^\n]*)?\r?\n)*[ \t]*FROM[ \t]+[^\s={]`)
})

var errNotCompose = errors.New("not a Compose file")

func parseHCL(s *source) (*hcl.File, hcl.Diagnostics) {
	tokens, _ := hclsyntax.LexConfig(s.text, s.name, hcl.InitialPos)
	operators := 0
	for i, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenPlus, hclsyntax.TokenMinus, hclsyntax.TokenStar, hclsyntax.TokenSlash, hclsyntax.TokenPercent,
			hclsyntax.TokenBang, hclsyntax.TokenQuestion, hclsyntax.TokenAnd, hclsyntax.TokenOr,
			hclsyntax.TokenEqualOp, hclsyntax.TokenNotEqual, hclsyntax.TokenLessThan, hclsyntax.TokenLessThanEq,
			hclsyntax.TokenGreaterThan, hclsyntax.TokenGreaterThanEq:
			operators++
		case hclsyntax.TokenOBrack:
			if i > 0 && indexable(tokens[i-1].Type) {
				operators++
			}
		}
		if operators > maxOperators {
			return nil, tooManyOperators(t.Range)
		}
	}
	return hclsyntax.ParseConfig(s.text, s.name, hcl.InitialPos)
}

// indexable reports whether a bracket after such a token is an index.
func indexable(t hclsyntax.TokenType) bool {
	switch t {
	case hclsyntax.TokenIdent, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenCBrace, hclsyntax.TokenCQuote:
		return true
	}
	return false
}

func tooManyOperators(at hcl.Range) hcl.Diagnostics {
	return hcl.Diagnostics{{
		Severity: hcl.DiagError,
		Summary:  "The build file has too many operators",
		Detail:   "Expressions that large cannot be evaluated safely. Generate values instead of expressions.",
		Subject:  &at,
	}}
}

// jsonString matches a string literal of JSON.
var jsonString = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`"(?:[^"\\]|\\.)*"`) })

// jsonConsequences are what hcl says, too, of JSON that has another mistake: that
// there is no object at the root, and that none of those around it ends.
var jsonConsequences = []string{"Root value must be object", "Unclosed object"}

func parseJSON(s *source) (*hcl.File, hcl.Diagnostics) {
	// A template is parsed where it is evaluated, so its size is judged here.
	for _, at := range jsonString().FindAllIndex(s.text, -1) {
		literal := s.text[at[0]:at[1]]
		if !bytes.Contains(literal, []byte("${")) && !bytes.Contains(literal, []byte("%{")) {
			continue
		}
		operators := 0
		for _, c := range literal {
			if bytes.IndexByte([]byte("+-*/%!?&|=<>["), c) >= 0 {
				operators++
			}
		}
		if operators > maxOperators {
			return nil, tooManyOperators(rangeOf(s, at[0], at[0]+1))
		}
	}
	file, diags := hcljson.Parse(s.text, s.name)
	for _, consequence := range jsonConsequences {
		if is := func(d *hcl.Diagnostic) bool { return d.Summary == consequence }; slices.ContainsFunc(diags, func(d *hcl.Diagnostic) bool { return !is(d) }) {
			diags = slices.DeleteFunc(diags, is)
		}
	}
	return file, diags
}

// invalidUTF8 is the place of the first byte that is not UTF-8, if there is one.
func invalidUTF8(s *source) *hcl.Range {
	if utf8.Valid(s.text) {
		return nil
	}
	for i := 0; i < len(s.text); {
		r, size := utf8.DecodeRune(s.text[i:])
		if r == utf8.RuneError && size <= 1 {
			at := rangeOf(s, i, i+1)
			return &at
		}
		i += size
	}
	return nil
}

// tooDeep is the place of the first bracket that is nested too deeply, if there
// is one. It counts brackets in strings and comments too: a template's count.
func tooDeep(s *source) *hcl.Range {
	depth := 0
	for i, c := range s.text {
		switch c {
		case '{', '[', '(':
			depth++
			if depth > maxDepth {
				at := rangeOf(s, i, i+1)
				return &at
			}
		case '}', ']', ')':
			depth = max(0, depth-1)
		}
	}
	return nil
}

// rangeOf is the range of some bytes of a source.
func rangeOf(s *source, start, end int) hcl.Range {
	pos := func(offset int) hcl.Pos {
		line := bytes.Count(s.text[:offset], []byte("\n")) + 1
		column := utf8.RuneCount(s.text[bytes.LastIndexByte(s.text[:offset], '\n')+1:offset]) + 1
		return hcl.Pos{Line: line, Column: column, Byte: offset}
	}
	return hcl.Range{Filename: s.name, Start: pos(start), End: pos(end)}
}
