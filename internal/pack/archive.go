package pack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/distribution/reference"
)

// WriteArchive writes the bundle as a tar file in the OCI layout. With docker it
// is also what 'docker load' reads. names are complete references with a tag.
func (b *Bundle) WriteArchive(ctx context.Context, w io.Writer, names []string, docker bool) error {
	if docker && len(b.Manifests) > 0 {
		return errors.New("a docker archive has one image; use type=oci for several platforms or attestations")
	}
	root := b.Archived()
	opt := []archive.ExportOpt{archive.WithManifest(root, names...)}
	if !docker {
		opt = append(opt, archive.WithAllPlatforms(), archive.WithSkipDockerManifest())
	}
	return archive.Export(ctx, b, w, opt...)
}

// FullName is a reference with everything that may be left out.
func FullName(name string) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("the name %q: %w", name, err)
	}
	return reference.TagNameOnly(named).String(), nil
}

// WriteFile has write make a file, which appears whole or not at all. What is no
// regular file, such as a pipe, is written to.
func WriteFile(name string, write func(io.Writer) error) error {
	const mode = 0o644
	info, err := os.Stat(name)
	switch {
	case err == nil && info.IsDir():
		return fmt.Errorf("%s is a directory", name)
	case err == nil && !info.Mode().IsRegular():
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	dir, prefix := filepath.Dir(name), "."+filepath.Base(name)+"-"
	f, named, err := createUnnamed(dir, prefix)
	if err != nil {
		if f, err = os.CreateTemp(dir, prefix); err != nil {
			var file *fs.PathError // nobody asked for that one
			if errors.As(err, &file) {
				file.Path = name
			}
			return err
		}
		temp := f.Name()
		named = func() (string, error) { return temp, nil }
		defer os.Remove(temp) //nolint:errcheck // it is not there any more if all went well
	}
	if err = errors.Join(write(f), f.Chmod(mode)); err != nil {
		return errors.Join(err, f.Close())
	}
	temp, err := named()
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, name)
	}
	if err != nil {
		_ = os.Remove(temp)
	}
	return err
}
