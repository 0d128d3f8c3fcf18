// Package torture has tests that kill, starve and disturb real zbuild processes
// and look at what is left: nothing may be lost, nothing may be wrong. It has no
// other code.
//
// The short form is part of `make test`; `make torture` is the long form. Every
// test prints the seed of what it chose at random:
//
//	go test ./torture -run TestKill -args -long -seed 7
package torture
