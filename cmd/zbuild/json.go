package main

import (
	"encoding/json"
	"io"
)

// writeJSON writes a value as indented JSON, with <, > and & as they are.
func writeJSON(w io.Writer, value any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(value)
}

// writeBakeJSON writes a value as bake writes lists: with these characters escaped.
func writeBakeJSON(w io.Writer, value any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(value)
}
