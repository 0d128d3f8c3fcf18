package source

import (
	"crypto/sha256"
	"io"
	"os"
)

// Still reports whether nothing has touched a file of a match since it was listed.
// Of a directory that is also what is in it.
func (f *File) Still(m *Match) bool {
	now, err := statFile(m.Real(f))
	return err == nil && now.ID == f.ID && f.ID != (identity{})
}

// Copied reports whether a copy that was made of a regular file since it was listed
// has the content and the extended attributes that were listed. Reading the copy is spared if that is sure
// without.
func (f *File) Copied(m *Match, made *os.File) (bool, error) {
	still := f.Still(m)
	if f.Attrs && !still {
		return false, nil
	}
	if f.young || !still {
		if _, err := made.Seek(0, io.SeekStart); err != nil {
			return false, err
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, made); err != nil {
			return false, err
		}
		return [32]byte(sum.Sum(nil)) == f.Digest, nil
	}
	return true, nil
}
