//go:build unix && !linux

package beneath

import "syscall"

const nonblock = syscall.O_NONBLOCK
