//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// binfmtDir is where the kernel is told of interpreters; see binfmt_misc in its
// documentation.
const binfmtDir = "/proc/sys/fs/binfmt_misc"

// binfmt FILE writes a program for arm64 to a file, and has the kernel run such
// programs by Debian's qemu-user-static for as long as the script runs. The
// program prints a line and makes the directory /made.
func cmdBinfmt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: binfmt FILE")
	}
	file := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Dir(file), 0o755))
	ts.Check(os.WriteFile(file, arm64Program(), 0o755))
	if _, err := os.Stat(filepath.Join(binfmtDir, "register")); err != nil {
		ts.Check(unix.Mount("binfmt_misc", binfmtDir, "binfmt_misc", 0, ""))
		ts.Defer(func() { ts.Check(unix.Unmount(binfmtDir, unix.MNT_DETACH)) })
	}
	entry := filepath.Join(binfmtDir, "qemu-aarch64")
	if _, err := os.Stat(entry); err == nil {
		return // somebody has set it up already
	}
	line, err := os.ReadFile("/usr/lib/binfmt.d/qemu-aarch64.conf")
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(binfmtDir, "register"), bytes.TrimSpace(line), 0o200))
	ts.Defer(func() { ts.Check(os.WriteFile(entry, []byte("-1"), 0o200)) })
}

// arm64Program is an ELF file with a few lines of machine code.
func arm64Program() []byte {
	const (
		base   = 0x400000
		header = 64 + 56
		text   = "hello from arm64\n"
		path   = "/made\x00\x00\x00"
		pathAt = 13 * 4 // behind the code
		textAt = pathAt + len(path)
	)
	code := []uint32{
		0xd2800020,                  // mov x0, 1
		adr(1*4, textAt),            // x1
		0xd2800002 | len32(text)<<5, // mov x2, length
		0xd2800808, 0xd4000001,      // write
		0x92800c60,             // mov x0, AT_FDCWD
		adr(6*4, pathAt),       // x1
		0xd2803da2,             // mov x2, 0755
		0xd2800448, 0xd4000001, // mkdirat
		0xd2800000,             // mov x0, 0
		0xd2800ba8, 0xd4000001, // exit
	}
	var body bytes.Buffer
	put := func(v any) { _ = binary.Write(&body, binary.LittleEndian, v) }
	put([]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	put([]uint16{2, 183}) // executable, AArch64
	put(uint32(1))
	put([]uint64{base + header, 64, 0})
	put(uint32(0))
	put([]uint16{64, 56, 1, 0, 0, 0})
	size := uint64(header + textAt + len(text))
	put([]uint32{1, 5}) // load, read and execute
	put([]uint64{0, base, base, size, size, 0x10000})
	put(code)
	put([]byte(path))
	put([]byte(text))
	return body.Bytes()
}

// adr is the instruction that puts the place of something into x1.
func adr(at, target int) uint32 {
	distance := uint32(target - at)
	return 0x10000000 | (distance&3)<<29 | (distance>>2)<<5 | 1
}

func len32(s string) uint32 { return uint32(len(s)) }
