package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/pb"

	"github.com/zbuild/zbuild/internal/pack"
	"github.com/zbuild/zbuild/internal/session"
	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

// buildMetadata is what bake's metadata file has of a build: by target, what became
// of its outputs. As in bake, of several outputs the last one that has something to
// say is heard. Of what failed there is nothing.
func buildMetadata(g *session.Generation) map[string]any {
	all := make(map[string]any)
	for _, t := range g.Plan.Targets {
		if !t.Requested && g.Err == nil {
			all[t.Config.Name] = targetMetadata(g.Result, runner.TargetResult{})
		}
	}
	for _, t := range g.Result.Targets {
		if t.Image != nil || len(t.Outputs) > 0 || g.Err == nil {
			all[t.Name] = targetMetadata(g.Result, t)
		}
	}
	if on, err := strconv.ParseBool(os.Getenv("BUILDX_METADATA_WARNINGS")); on && err == nil {
		if warnings := warningsMetadata(g); len(warnings) > 0 {
			all["buildx.build.warnings"] = warnings
		}
	}
	return all
}

// warningsMetadata are the findings of the Dockerfile's linter, as buildx has them.
func warningsMetadata(g *session.Generation) []client.VertexWarning {
	var all []client.VertexWarning
	sources := g.Sources()
	for _, d := range g.Diagnostics {
		found, ok := hcl.DiagnosticExtra[*planner.Finding](d)
		if !ok {
			continue
		}
		w := client.VertexWarning{Level: 1, Detail: [][]byte{[]byte(found.Description)}, URL: found.URL}
		text := found.Rule + ": " + found.Message
		for i, lines := range found.Lines {
			if i == 0 {
				text += fmt.Sprintf(" (line %d)", lines[0])
			}
			w.Range = append(w.Range, &pb.Range{Start: &pb.Position{Line: int32(lines[0])}, End: &pb.Position{Line: int32(lines[1])}}) // lines of a file
		}
		w.Short = []byte(text)
		if d.Subject != nil {
			w.SourceInfo = &pb.SourceInfo{Filename: d.Subject.Filename, Data: sources[d.Subject.Filename], Language: "Dockerfile"}
		}
		all = append(all, w)
	}
	return all
}

// answersMetadata is what bake's metadata file has of targets that were not built,
// but asked about.
func answersMetadata(method planner.Method, answers []planner.Answer) (map[string]any, error) {
	all := make(map[string]any)
	for i := range answers {
		a := &answers[i]
		var text strings.Builder
		if a.Err == nil || a.Findings > 0 {
			if err := a.WriteText(&text); err != nil {
				return nil, err
			}
		}
		fields := map[string]any{"result.json": a.Value, "result.txt": text.String(), "version": "1.0.0"}
		if method == planner.MethodCheck {
			fields["result.statuscode"] = "0"
			if a.Err != nil || a.Findings > 0 {
				fields["result.statuscode"] = "1"
			}
		}
		all[a.Target] = fields
	}
	return all, nil
}

func writeMetadata(name string, all map[string]any) error {
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	err = pack.WriteFile(name, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
	if err != nil {
		return fmt.Errorf("--metadata-file: %w", err)
	}
	return nil
}

func targetMetadata(result *runner.Result, t runner.TargetResult) map[string]any {
	m := map[string]any{"buildx.build.ref": "zbuild/local/" + result.BuildID}
	for _, o := range t.Outputs {
		if o.Descriptor.Digest == "" {
			continue
		}
		m["containerimage.digest"] = o.Descriptor.Digest
		m["containerimage.descriptor"] = o.Descriptor
		delete(m, "containerimage.config.digest")
		if o.Config != "" {
			m["containerimage.config.digest"] = o.Config
		}
		if len(o.Names) > 0 {
			m["image.name"] = strings.Join(o.Names, ",")
		}
	}
	for platform, predicate := range t.Provenance {
		key := "buildx.build.provenance"
		if platform != "" {
			key += "/" + platform
		}
		m[key] = predicate
	}
	return m
}

// metadataProvenance is what BUILDX_METADATA_PROVENANCE asks for, as buildx reads
// it.
func metadataProvenance(env func(string) (string, bool)) string {
	value, _ := env("BUILDX_METADATA_PROVENANCE")
	switch value {
	case "max":
		return value
	case "disabled":
		return ""
	}
	if on, err := strconv.ParseBool(value); err == nil && !on {
		return ""
	}
	return "min"
}
