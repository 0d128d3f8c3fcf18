//go:build !linux

package pack

import (
	"errors"
	"os"
)

func createUnnamed(string) (f *os.File, link func(name string) error, err error) {
	return nil, nil, errors.ErrUnsupported
}
