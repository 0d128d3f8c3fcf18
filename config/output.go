package config

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"

	"github.com/docker/buildx/util/buildflags"
	"github.com/hashicorp/hcl/v2"
)

// stdoutDest is the destination that means standard output.
const stdoutDest = "-"

// outputKind says what an output writes to, where it is one that bake knows.
type outputKind struct {
	file, dir bool
	// optional is set if the output goes elsewhere without a destination.
	optional bool
}

func kindOfOutput(e *buildflags.ExportEntry) outputKind {
	tar, err := strconv.ParseBool(e.Attrs["tar"])
	tar = tar || err != nil
	switch e.Type {
	case "local":
		return outputKind{dir: true}
	case "tar":
		return outputKind{file: true}
	case "oci":
		return outputKind{file: tar, dir: !tar}
	case "docker":
		return outputKind{file: tar, dir: !tar, optional: true}
	}
	return outputKind{}
}

// outputs are the outputs, and those refused that this release does not have.
func (r *resolver) outputs(t *wireTarget) []Output {
	var outputs []Output
	stdout := false
	for i, e := range t.Outputs {
		at := t.whereIndex("output", i, len(t.Outputs))
		kind := kindOfOutput(e)
		if e.Destination == "" && kind.file && !kind.optional {
			// Standard output. bake prints it so; targets share outputs.
			t.Outputs = slices.Clone(t.Outputs)
			t.Outputs[i] = &buildflags.ExportEntry{Type: e.Type, Attrs: e.Attrs, Destination: stdoutDest}
			e = t.Outputs[i]
		}
		o := Output{Type: e.Type, Attrs: maps.Clone(e.Attrs)}
		if e.Destination != "" && e.Destination != stdoutDest {
			o.Dest = joinPath(r.base(at.Filename), e.Destination)
			if !t.from["output"].set {
				r.checkWrite(at, "An output of target "+t.Name, o.Dest)
			}
		}
		r.checkDestination(t, at, e, kind, o.Dest, &stdout)
		outputs = append(outputs, o)
		r.checkAvailable(t, at, e)
	}
	return outputs
}

// checkDestination checks that an output can be written to where it says. stdout
// is set once an output of the target takes standard output.
func (r *resolver) checkDestination(t *wireTarget, at *hcl.Range, e *buildflags.ExportEntry, kind outputKind, dest string, stdout *bool) {
	invalid := func(detail string) {
		r.errorf(at, "Invalid output", "The output %s of target %s %s.", e.Type, t.Name, detail)
	}
	switch {
	case kind.dir && e.Destination == "":
		invalid("needs dest, the directory to write to")
	case kind.dir && e.Destination == stdoutDest:
		invalid("is a directory, and cannot go to standard output")
	case kind.file && e.Destination == stdoutDest:
		if *stdout {
			invalid("goes to standard output, and so does another one")
		}
		*stdout = true
	case (kind.dir || kind.file) && dest != "":
		info, err := os.Stat(dest)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			invalid("cannot be written: " + err.Error())
		case kind.dir && !info.IsDir():
			invalid("goes to the directory " + e.Destination + ", which is a file")
		case kind.file && info.IsDir():
			invalid("goes to the file " + e.Destination + ", which is a directory")
		}
	}
}

// checkAvailable refuses an output that this release does not have.
func (r *resolver) checkAvailable(t *wireTarget, at *hcl.Range, e *buildflags.ExportEntry) {
	if r.req.EvaluateOnly {
		return
	}
	switch e.Type {
	case "image", "registry", "cacheonly":
	case "docker", "local", "tar", "oci":
		if e.Type != "docker" || e.Destination != "" {
			r.errorf(at, "The output is not available yet",
				"Target %s has an output of type %s, which this release cannot make. It has image, registry, cacheonly, and docker without dest.", t.Name, e.Type)
		}
	default:
		known := []string{"image", "registry", "cacheonly", "docker", "local", "tar", "oci"}
		r.errorf(at, "Invalid output", "There is no output of type %q.%s", e.Type, didYouMean(e.Type, known))
	}
}
