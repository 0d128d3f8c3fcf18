package render

import (
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// Style says what the reader's end can show. The zero value is plain text.
type Style struct {
	// Color allows ANSI colours.
	Color bool
	// Width is the number of columns to wrap prose at; 0 does not wrap.
	Width int
	// Dir is the directory that the reader is in: files below it are shown
	// relative to it.
	Dir string
}

// The ANSI colours that are used; see Style.paint.
const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	bold   = "\x1b[1m"
	faint  = "\x1b[2m"
	reset  = "\x1b[0m"
)

func (s Style) paint(color, text string) string {
	if !s.Color || text == "" {
		return text
	}
	return color + text + reset
}

// path is how a file is shown: relative to the reader's directory if it is in
// there, else as it is.
func (s Style) path(name string) string {
	if s.Dir == "" || !filepath.IsAbs(name) {
		return name
	}
	rel, err := filepath.Rel(s.Dir, name)
	if err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return name
	}
	return rel
}

// Line makes one line of text that somebody else wrote, safe to show.
func Line(text string) string { return foreign(strings.Join(strings.Fields(text), " ")) }

// maxColumns is the longest line of somebody else's text; of a longer one the
// middle is left out. Its last keepEnd columns stay: there an error says why.
const (
	maxColumns = 1000
	keepEnd    = 300
)

// foreign makes a line of text that somebody else wrote safe to show: no escape
// sequence or control character gets through to the terminal, and no line is
// endless.
func foreign(line string) string {
	var b strings.Builder
	var ends []int // where each column of a long line ends in b
	for i := 0; i < len(line); {
		r, size := utf8.DecodeRuneInString(line[i:])
		switch {
		case r == '\x1b':
			i += escapeLen(line[i:])
			continue
		case r == '\t':
			b.WriteByte('\t')
		case r < ' ' || r >= 0x7f && r < 0xa0:
			i += size
			continue
		case r == utf8.RuneError && size == 1:
			b.WriteRune(utf8.RuneError)
		default:
			b.WriteString(line[i : i+size])
		}
		i += size
		if len(line) > maxColumns {
			ends = append(ends, b.Len())
		}
	}
	text := b.String()
	if len(ends) <= maxColumns {
		return text
	}
	return text[:ends[maxColumns-keepEnd-1]] + "…" + text[ends[len(ends)-keepEnd-1]:]
}

// escapeLen is the length of the escape sequence that s begins with.
func escapeLen(s string) int {
	if len(s) < 2 {
		return len(s)
	}
	switch s[1] {
	case '[': // up to a final byte
		for i := 2; i < len(s); i++ {
			if s[i] >= 0x40 && s[i] <= 0x7e {
				return i + 1
			}
		}
		return len(s)
	case ']': // up to BEL or ESC \
		for i := 2; i < len(s); i++ {
			if s[i] == '\a' {
				return i + 1
			}
			if s[i] == '\x1b' && i+1 < len(s) && s[i+1] == '\\' {
				return i + 2
			}
		}
		return len(s)
	default:
		return 2
	}
}
