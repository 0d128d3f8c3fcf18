package config

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/buildx/util/buildflags"
	"github.com/hashicorp/hcl/v2"

	"github.com/zbuild/zbuild/internal/exporter"
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

// outputs are the outputs. A target that is asked for and says nothing of outputs
// leaves an image in the store.
func (r *resolver) outputs(t *wireTarget) []Output {
	var outputs []Output
	annotations := r.annotations(t)
	var stdout bool
	for i, e := range t.Outputs {
		at := t.whereIndex("output", i, len(t.Outputs))
		kind := kindOfOutput(e)
		if e.Destination == "" && kind.file && !kind.optional {
			// Standard output. bake prints it so; targets share outputs.
			t.Outputs = slices.Clone(t.Outputs)
			t.Outputs[i] = &buildflags.ExportEntry{Type: e.Type, Attrs: e.Attrs, Destination: stdoutDest}
			e = t.Outputs[i]
		}
		o := Output{Type: e.Type, Attrs: withAnnotations(e.Attrs, annotations)}
		if e.Destination == stdoutDest {
			o.Dest = stdoutDest
		}
		if e.Destination != "" && e.Destination != stdoutDest {
			o.Dest = joinPath(r.base(at.Filename), e.Destination)
			if !t.from["output"].set {
				r.checkWrite(at, "An output of target "+t.Name, o.Dest)
			}
		}
		r.checkDestination(t, at, e, kind, o.Dest, &stdout)
		r.artifactDefault(&o)
		outputs = append(outputs, o)
		r.checkOutput(t, at, o)
	}
	if len(outputs) == 0 {
		outputs = r.defaultOutputs(annotations)
	}
	return outputs
}

// annotations are the target's, as attributes of an output.
func (r *resolver) annotations(t *wireTarget) map[string]string {
	parsed, err := buildflags.ParseAnnotations(t.Annotations)
	if err != nil {
		return nil // has been reported
	}
	if len(parsed) == 0 {
		return nil
	}
	attrs := make(map[string]string)
	for key, value := range parsed {
		attrs[key.String()] = value
	}
	return attrs
}

func withAnnotations(attrs, annotations map[string]string) map[string]string {
	if len(annotations) == 0 {
		return maps.Clone(attrs)
	}
	all := maps.Clone(annotations)
	maps.Copy(all, attrs)
	return all
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

// checkOutput checks what an output's attributes say.
func (r *resolver) checkOutput(t *wireTarget, at *hcl.Range, o Output) {
	if r.req.EvaluateOnly {
		return
	}
	if !slices.Contains(exporter.Types(), o.Type) {
		r.errorf(at, "Invalid output", "There is no output of type %q.%s", o.Type, didYouMean(o.Type, exporter.Types()))
		return
	}
	spec, err := exporter.Parse(o.Type, o.Attrs)
	if err != nil {
		r.errorf(at, "Invalid output", "The output %s of target %s: %s.", o.Type, t.Name, strings.ReplaceAll(err.Error(), "\n", "; "))
		return
	}
	if o.Type == exporter.Docker && o.Dest != "" && len(t.Platforms) > 1 {
		r.errorf(at, "Invalid output", "Target %s has several platforms, and a docker archive has one image. Use type=oci.", t.Name)
	}
	if o.Type == exporter.Local && spec.Tree.Delete && !r.allow.localDelete {
		r.refuse(at, allowLocalDelete, "Deleting is not allowed", "With mode=delete everything in %s that is not part of the result would be removed. To allow it", o.Dest)
	}
}

// checkWriters warns of files that several targets write: the last one's stands.
func (r *resolver) checkWriters() {
	if r.req.EvaluateOnly {
		return
	}
	writers := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(r.project.Targets)) {
		t := r.project.Targets[name]
		for _, o := range t.Outputs {
			if o.Dest == "" || !kindOfOutput(&buildflags.ExportEntry{Type: o.Type, Attrs: o.Attrs}).file {
				continue
			}
			other, taken := writers[o.Dest]
			if writers[o.Dest] = name; !taken || other == name {
				continue
			}
			where := o.Dest
			if where == stdoutDest {
				where = "standard output"
			}
			r.warnf(t.At("output"), "Two targets write one file",
				"Targets %s and %s both write to %s: only one of the results will be there. Give each its own, or use a layout for both: type=oci,tar=false.", other, name, where)
		}
	}
}
