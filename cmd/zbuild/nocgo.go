//go:build linux && !cgo

package main

// Without cgo a rootless process cannot enter its user namespace before the Go
// runtime has started threads, and would start itself again without end.
var _ = zbuild_has_to_be_built_with_CGO_ENABLED_1_and_a_C_compiler
