//go:build unix

package beneath

import "syscall"

// nonblock has opening wait for nobody, and make no terminal the process's own.
const nonblock = syscall.O_NONBLOCK | syscall.O_NOCTTY
