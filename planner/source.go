package planner

import (
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
)

// source is the text of a Dockerfile.
type source struct {
	name   string // key of Plan.Sources
	data   []byte
	starts []int // of its lines
}

func newSource(name string, data []byte) *source {
	s := &source{name: name, data: data, starts: []int{0}}
	for i, c := range data {
		if c == '\n' {
			s.starts = append(s.starts, i+1)
		}
	}
	return s
}

// lines is the range of whole lines. They count from 1, and are moved into the
// text; nil if there is no first one, or no text.
func (s *source) lines(first, last int) *hcl.Range {
	if s == nil || first <= 0 {
		return nil
	}
	first = min(first, len(s.starts))
	last = max(first, min(last, len(s.starts)))
	start, end := s.starts[last-1], len(s.data)
	if last < len(s.starts) {
		end = s.starts[last] - 1
	}
	line := strings.TrimRight(string(s.data[start:end]), "\r")
	return &hcl.Range{
		Filename: s.name,
		Start:    hcl.Pos{Line: first, Column: 1, Byte: s.starts[first-1]},
		End:      hcl.Pos{Line: last, Column: utf8.RuneCountInString(line) + 1, Byte: start + len(line)},
	}
}
