//go:build !linux

package main

func singleKeys(int) (restore func(), ok bool) { return nil, false }
