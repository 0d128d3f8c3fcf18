// Package sealed keeps small values in files that show whether they are whole and
// where they belong: a checksum over the value and the file's name ends each. It
// never interprets what it keeps.
package sealed

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// ErrDamaged says that a file is not what Write wrote under its name.
var ErrDamaged = errors.New("damaged")

// maxSize is how big a file may be: more than anything that is kept, and no more than one
// that is damaged may make us read.
const maxSize = 256 << 20 // bytes

// TempPrefix begins the names of files that are being written.
const TempPrefix = ".new-"

// seal is what follows the value.
func seal(name string, raw []byte) []byte {
	sum := sha256.New()
	fmt.Fprintln(sum, filepath.Base(name))
	sum.Write(raw)
	return fmt.Appendf(nil, "\n%x\n", sum.Sum(nil))
}

// Read reads a value, and when it was written or its file last touched. The error
// is ErrDamaged if the file is not whole, or no file.
func Read(name string, v any) (modified time.Time, err error) {
	all, modified, err := readFile(name)
	if err != nil {
		return modified, err
	}
	const tail = 1 + 2*sha256.Size + 1
	if len(all) < tail {
		return modified, ErrDamaged
	}
	raw := all[:len(all)-tail]
	if !bytes.Equal(seal(name, raw), all[len(raw):]) || json.Unmarshal(raw, v) != nil {
		return modified, ErrDamaged
	}
	return modified, nil
}

// Write replaces a file whole or not at all. Its directory is made if need be.
func Write(name string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), TempPrefix)
	if err != nil {
		return err
	}
	_, err = tmp.Write(raw)
	if err == nil {
		_, err = tmp.Write(seal(name, raw))
	}
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = Replace(tmp.Name(), name)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}

// Replace renames a file to what it is to be called, whatever else has that name: even a
// directory, which can be nothing of ours.
func Replace(from, to string) error {
	err := os.Rename(from, to)
	if err == nil {
		return nil
	}
	if info, err2 := os.Lstat(to); err2 != nil || !info.IsDir() {
		return err
	}
	if err2 := os.RemoveAll(to); err2 != nil {
		return errors.Join(err, err2)
	}
	return os.Rename(from, to)
}
