package pack

import (
	"context"
	"crypto/rand"
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
	return writeWhole(name, mode, func(f *os.File) error { return write(f) })
}

// writeWhole has write make a regular file, which appears whole or not at all.
func writeWhole(name string, mode fs.FileMode, write func(*os.File) error) error {
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, link, err := createUnnamed(dir)
	if err != nil {
		return writeTemp(name, mode, write)
	}
	defer f.Close()
	if err := errors.Join(write(f), f.Chmod(mode)); err != nil {
		return err
	}
	// Under its own name at once, where that is free: who dies leaves no other.
	if err := link(name); !errors.Is(err, fs.ErrExist) {
		return err
	}
	temp := filepath.Join(dir, tempPrefix(name)+rand.Text())
	if err = link(temp); err == nil {
		err = os.Rename(temp, name)
	}
	if err != nil {
		_ = os.Remove(temp)
	}
	return err
}

func tempPrefix(name string) string { return "." + filepath.Base(name) + "-" }

// writeTemp is writeWhole where files always have names.
func writeTemp(name string, mode fs.FileMode, write func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), tempPrefix(name))
	if err != nil {
		var file *fs.PathError // nobody asked for that one
		if errors.As(err, &file) {
			file.Path = name
		}
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // it is not there any more if all went well
	if err := errors.Join(write(f), f.Chmod(mode), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
