package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/exporter"
	"github.com/zbuild/zbuild/internal/pack"
	"github.com/zbuild/zbuild/runner"
)

// oneImage is the error of a project that does not come to one image, for --iidfile.
func oneImage(p *config.Project) error {
	names := p.Built().Requested
	if len(names) != 1 {
		return usage(fmt.Errorf("--iidfile is for one image, and there are %d targets to build (%s). Name one, or use --metadata-file, which has the digests of all", len(names), strings.Join(names, ", ")))
	}
	outputs := p.Targets[names[0]].Outputs
	image := func(o config.Output) bool {
		return !slices.Contains([]string{exporter.Local, exporter.Tar, exporter.CacheOnly}, o.Type)
	}
	if len(outputs) > 0 && !slices.ContainsFunc(outputs, image) {
		return usage(fmt.Errorf("--iidfile: the target %s leaves no image, only type=%s. Give it an output that is one, such as --set %s.output+=type=image", names[0], outputs[0].Type, names[0]))
	}
	return nil
}

// writeImageID writes the ID of the image that was built, as podman shows it: the
// digest of its configuration, or of the list for several platforms.
func writeImageID(name string, result *runner.Result) error {
	var id digest.Digest
	for _, t := range result.Targets {
		for _, o := range t.Outputs {
			id = o.Config
			if id == "" {
				id = o.Descriptor.Digest
			}
		}
		if t.Image != nil {
			id = t.Image.ID
		}
	}
	if id == "" {
		return errors.New("--iidfile: no image was built")
	}
	err := pack.WriteFile(name, func(w io.Writer) error {
		_, err := io.WriteString(w, id.String())
		return err
	})
	if err != nil {
		return fmt.Errorf("--iidfile: %w", err)
	}
	return nil
}
