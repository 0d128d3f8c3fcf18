package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/hashicorp/hcl/v2"
)

func (l *loader) errorf(at *hcl.Range, summary, detail string, args ...any) {
	l.report(hcl.DiagError, at, summary, fmt.Sprintf(detail, args...))
}

func (l *loader) warnf(at *hcl.Range, summary, detail string, args ...any) {
	l.report(hcl.DiagWarning, at, summary, fmt.Sprintf(detail, args...))
}

func (l *loader) report(severity hcl.DiagnosticSeverity, at *hcl.Range, summary, detail string) {
	l.diags = append(l.diags, &hcl.Diagnostic{Severity: severity, Summary: summary, Detail: detail, Subject: at})
}

// sorted is what was reported, each thing once, in the order of the files and
// of the places in them; what has no place comes first.
func (l *loader) sorted() hcl.Diagnostics {
	order := map[string]int{}
	for i, s := range l.sources {
		order[s.name] = i + 1
	}
	file := func(d *hcl.Diagnostic) int {
		switch {
		case d.Subject == nil:
			return 0
		case order[d.Subject.Filename] > 0:
			return order[d.Subject.Filename]
		default:
			return len(order) + 1
		}
	}
	compare := func(a, b *hcl.Diagnostic) int {
		if c := cmp.Compare(file(a), file(b)); c != 0 {
			return c
		}
		if a.Subject != nil && b.Subject != nil {
			if c := cmp.Or(
				strings.Compare(a.Subject.Filename, b.Subject.Filename),
				cmp.Compare(a.Subject.Start.Byte, b.Subject.Start.Byte),
				cmp.Compare(a.Subject.End.Byte, b.Subject.End.Byte),
			); c != 0 {
				return c
			}
		}
		return cmp.Or(
			cmp.Compare(a.Severity, b.Severity),
			strings.Compare(a.Summary, b.Summary),
			strings.Compare(a.Detail, b.Detail),
		)
	}
	slices.SortStableFunc(l.diags, compare)
	return slices.CompactFunc(l.diags, func(a, b *hcl.Diagnostic) bool { return compare(a, b) == 0 })
}

// didYouMean is a sentence that names the candidate that is most like name, or
// nothing if none is like it.
func didYouMean(name string, candidates []string) string {
	best, bestDistance := "", len(name)/3+2
	for _, c := range slices.Sorted(slices.Values(candidates)) {
		if d := levenshtein.Distance(name, c, nil); d < bestDistance && d < max(len(name), len(c)) {
			best, bestDistance = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" Did you mean %q?", best)
}

// listed is a sentence that lists names, or nothing if there are none.
func listed(names []string) string {
	const most = 12
	// Those that start with _ are there to be inherited from, and no list has them.
	names = slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(names))), func(name string) bool {
		return strings.HasPrefix(name, "_")
	})
	if len(names) == 0 {
		return ""
	}
	more := ""
	if len(names) > most {
		more = fmt.Sprintf(" and %d more", len(names)-most)
		names = names[:most]
	}
	return fmt.Sprintf(" The file has %s%s.", strings.Join(names, ", "), more)
}

// problems are what an error says; nothing if it is what something else is to blame for.
func problems(at hcl.Range, summary string, err error) (diags hcl.Diagnostics) {
	switch {
	case err == nil, errors.Is(err, errBroken):
		return nil
	case errors.As(err, &diags):
		return diags
	default:
		return hcl.Diagnostics{{Severity: hcl.DiagError, Summary: summary, Detail: sentence(err.Error()), Subject: &at}}
	}
}

// sentence is the text of an error as a sentence.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}
