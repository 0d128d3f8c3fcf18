package beneath

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// ReadFile reads a regular file of at most so many bytes. The error wraps
// ErrDirectory, ErrNotRegular or ErrTooLarge if that is what is wrong with it. What
// is at the path is asked of what was opened, so that it cannot be swapped between.
func ReadFile(path string, most int64) ([]byte, error) {
	wrong := func(err error) error { return &fs.PathError{Op: "read", Path: path, Err: err} }
	f, err := os.OpenFile(path, os.O_RDONLY|nonblock, 0)
	if err != nil {
		// A socket is not opened at all.
		if info, e := os.Stat(path); e == nil && info.Mode().Type()&^fs.ModeDir != 0 {
			return nil, wrong(ErrNotRegular)
		}
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case info.IsDir():
		err = wrong(ErrDirectory)
	case !info.Mode().IsRegular():
		err = wrong(ErrNotRegular)
	case info.Size() > most:
		err = wrong(ErrTooLarge)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if int64(len(data)) > most { // it grows
		return nil, wrong(ErrTooLarge)
	}
	return data, nil
}
