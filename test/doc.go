// Package test is the root of a module of its own: what compares zbuild with its
// peers, and therefore has to build them. Nobody who uses zbuild downloads it,
// and the main module's ./... does not contain it.
package test
