package render

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// The form of 'terraform validate -json', which editors know how to read:
// https://developer.hashicorp.com/terraform/cli/commands/validate#json-output-format
type (
	jsonReport struct {
		FormatVersion string           `json:"format_version"`
		Valid         bool             `json:"valid"`
		ErrorCount    int              `json:"error_count"`
		WarningCount  int              `json:"warning_count"`
		Diagnostics   []jsonDiagnostic `json:"diagnostics"`
	}
	jsonDiagnostic struct {
		Severity string       `json:"severity"`
		Summary  string       `json:"summary"`
		Detail   string       `json:"detail"`
		Range    *jsonRange   `json:"range,omitempty"`
		Snippet  *jsonSnippet `json:"snippet,omitempty"`
	}
	jsonRange struct {
		Filename string  `json:"filename"`
		Start    jsonPos `json:"start"`
		End      jsonPos `json:"end"`
	}
	jsonPos struct {
		Line   int `json:"line"`
		Column int `json:"column"`
		Byte   int `json:"byte"`
	}
	jsonSnippet struct {
		Context              *string `json:"context"`
		Code                 string  `json:"code"`
		StartLine            int     `json:"start_line"`
		HighlightStartOffset int     `json:"highlight_start_offset"`
		HighlightEndOffset   int     `json:"highlight_end_offset"`
		// Values is always empty: values may be secret.
		Values []struct{} `json:"values"`
	}
)

// DiagnosticsJSON writes diagnostics as one JSON object, in the form of terraform
// validate -json, version 1.0. Sources holds the files' text by the names that
// the ranges give them.
func DiagnosticsJSON(w io.Writer, sources map[string][]byte, diags hcl.Diagnostics) error {
	report := jsonReport{FormatVersion: "1.0", Valid: !diags.HasErrors(), Diagnostics: []jsonDiagnostic{}}
	for _, d := range diags {
		j := jsonDiagnostic{Severity: "error", Summary: d.Summary, Detail: d.Detail}
		if d.Severity == hcl.DiagWarning {
			j.Severity = "warning"
			report.WarningCount++
		} else {
			report.ErrorCount++
		}
		if at := d.Subject; at != nil && at.Start.Line > 0 {
			pos := func(p hcl.Pos) jsonPos { return jsonPos{p.Line, p.Column, p.Byte} }
			j.Range = &jsonRange{Filename: at.Filename, Start: pos(at.Start), End: pos(at.End)}
			j.Snippet = snippet(sources[at.Filename], *at)
		}
		report.Diagnostics = append(report.Diagnostics, j)
	}
	text, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

// snippet is the lines that a range touches, and the part of them that it covers.
func snippet(text []byte, at hcl.Range) *jsonSnippet {
	if at.Start.Byte > len(text) || at.End.Byte > len(text) || at.Start.Byte > at.End.Byte || len(text) == 0 {
		return nil
	}
	start := bytes.LastIndexByte(text[:at.Start.Byte], '\n') + 1
	end := len(text)
	if i := bytes.IndexByte(text[at.End.Byte:], '\n'); i >= 0 {
		end = at.End.Byte + i
	}
	return &jsonSnippet{
		Code: strings.TrimSuffix(string(text[start:end]), "\r"), StartLine: at.Start.Line,
		HighlightStartOffset: at.Start.Byte - start, HighlightEndOffset: at.End.Byte - start, Values: []struct{}{},
	}
}
