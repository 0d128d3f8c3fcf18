package scratch

import (
	"os"
	"path/filepath"
)

// Nothing is swept on Windows: no engine runs there.
func lock(string) (unlock func(), err error) { return nil, os.ErrInvalid }

func commonName() string { return filepath.Join(os.TempDir(), "zbuild") }

func common() (dir string, ours bool, err error) { return "", false, nil }
