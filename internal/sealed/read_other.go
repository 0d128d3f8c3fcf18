//go:build !linux

package sealed

import (
	"io"
	"os"
	"time"
)

// readFile reads a small file, and when it was modified.
func readFile(name string) (all []byte, modified time.Time, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, modified, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, modified, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxSize {
		return nil, modified, ErrDamaged
	}
	all, err = io.ReadAll(f)
	return all, info.ModTime(), err
}
