package render

import (
	"fmt"
	"io"

	"github.com/hashicorp/hcl/v2"
)

// maxDiagnostics is how many diagnostics are shown; nobody reads more.
const maxDiagnostics = 100

// Diagnostics writes diagnostics with the source lines that they are about.
// Sources holds the files' text by the names that the ranges give them.
func Diagnostics(w io.Writer, sources map[string][]byte, diags hcl.Diagnostics, style Style) error {
	files := make(map[string]*hcl.File)
	shown := make(hcl.Diagnostics, 0, min(len(diags), maxDiagnostics))
	for _, d := range diags[:min(len(diags), maxDiagnostics)] {
		c := *d
		c.Subject, c.Context = style.at(d.Subject), style.at(d.Context)
		for _, r := range []*hcl.Range{d.Subject, d.Context} {
			if r == nil {
				continue
			}
			if src, ok := sources[r.Filename]; ok {
				files[style.path(r.Filename)] = &hcl.File{Bytes: src}
			}
		}
		shown = append(shown, &c)
	}
	if err := hcl.NewDiagnosticTextWriter(w, files, uint(max(0, style.Width)), style.Color).WriteDiagnostics(shown); err != nil {
		return err
	}
	if more := len(diags) - len(shown); more > 0 {
		if _, err := fmt.Fprintf(w, "And %d more.\n", more); err != nil {
			return err
		}
	}
	return nil
}

// at is a range whose file is named as the reader would name it.
func (s Style) at(r *hcl.Range) *hcl.Range {
	if r == nil {
		return nil
	}
	c := *r
	c.Filename = s.path(r.Filename)
	return &c
}
