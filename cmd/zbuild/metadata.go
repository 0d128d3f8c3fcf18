package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/zbuild/zbuild/internal/pack"
	"github.com/zbuild/zbuild/runner"
)

// writeMetadata writes what bake's metadata file has: by target, what became of
// its outputs. As in bake, of several outputs the last one that has something to
// say is heard.
func writeMetadata(name string, result *runner.Result) error {
	all := make(map[string]any)
	for _, t := range result.Targets {
		all[t.Name] = targetMetadata(result, t)
	}
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
