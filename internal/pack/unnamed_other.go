//go:build !linux

package pack

import (
	"errors"
	"os"
)

func createUnnamed(string, string) (f *os.File, named func() (string, error), err error) {
	return nil, nil, errors.ErrUnsupported
}
