//go:build !unix

package main

import "os/exec"

func ownGroup(cmd *exec.Cmd) { cmd.WaitDelay = grace }

func killGroup(*exec.Cmd) {}
