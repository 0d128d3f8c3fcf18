// Package bake holds zbuild's reading of bake's language against bake itself:
// the command line of docker/buildx, linked into the test binary, and zbuild's,
// built from this tree, are given the same files, arguments and environment, and
// have to print the same JSON or both refuse.
//
// The cases are txtar archives in testdata. What is different on purpose is
// listed in differences_test.go, with the reason.
package bake
