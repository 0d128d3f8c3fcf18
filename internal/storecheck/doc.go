//go:build !linux

// Package storecheck looks for damage in a containers-storage, which there is on
// Linux alone. It is for tests.
package storecheck
