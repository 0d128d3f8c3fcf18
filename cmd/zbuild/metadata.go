package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/zbuild/zbuild/runner"
)

// writeMetadata writes what bake's metadata file has: by target, the digests and
// names of its image.
func writeMetadata(name string, result *runner.Result) error {
	all := make(map[string]map[string]string)
	for _, t := range result.Targets {
		if t.Image == nil {
			continue
		}
		m := map[string]string{"containerimage.digest": t.Image.Digest.String()}
		if t.Digest != "" {
			m["containerimage.digest"] = t.Digest.String()
		}
		if !t.Image.Index {
			m["containerimage.config.digest"] = t.Image.ID.String()
		}
		if names := strings.Join(t.Tags, ","); names != "" {
			m["image.name"] = names
		}
		all[t.Name] = m
	}
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(name, append(data, '\n')); err != nil {
		return fmt.Errorf("--metadata-file: %w", err)
	}
	return nil
}

// writeFile replaces a file as a whole, so that nobody reads half of it. What is
// no regular file, such as /dev/stdout, is written to.
func writeFile(name string, data []byte) (err error) {
	const mode = 0o644
	if info, err := os.Lstat(name); err == nil && !info.Mode().IsRegular() {
		return os.WriteFile(name, data, mode)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Chmod(mode), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}
