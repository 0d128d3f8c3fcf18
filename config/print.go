package config

import (
	"encoding/json"
	"errors"
	"io"
)

// Print writes the evaluated targets as JSON: what docker buildx bake --print
// writes for a bake file, byte for byte, and zbuild's additions at the end of
// each target. It fails for a project that was loaded with errors.
func (p *Project) Print(w io.Writer) error {
	if p.printed == nil {
		return errors.New("the project was not evaluated")
	}
	text, err := json.MarshalIndent(p.printed, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return err
}
