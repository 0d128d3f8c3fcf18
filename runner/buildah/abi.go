//go:build linux

package buildah

// Which system calls a filter has to speak of. The runtime makes it anew for every
// RUN, by a library whose time grows with the kinds of system calls times the rules
// for each, and for the usual three kinds that takes as long as everything else that
// the runtime does. x32 is one of them, which most kernels do not have: then nothing
// can be run that uses it, and the filter need not say what of it is allowed.

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// withoutMissing takes out of a filter what the kernel does not have.
func withoutMissing(filter *specs.LinuxSeccomp, x32 bool) {
	if filter == nil || x32 {
		return
	}
	filter.Architectures = slices.DeleteFunc(filter.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
}

// hasX32 reports whether the kernel runs programs that use x32, by having it run one.
// Where that cannot be told it is taken to.
func hasX32() bool {
	program, err := x32Program()
	if err != nil {
		return true
	}
	fd, err := memoryFile(program)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	name := fmt.Sprintf("/proc/self/fd/%d", fd)
	p, err := os.StartProcess(name, []string{name}, &os.ProcAttr{})
	if err == nil {
		_, _ = p.Wait() // that it was started is all
	}
	return !errors.Is(err, unix.ENOEXEC)
}

// memoryFile makes a file that can be executed, which nobody has open to write to.
func memoryFile(content []byte) (fd int, err error) {
	w, err := unix.MemfdCreate("zbuild", unix.MFD_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(w)
	if _, err := unix.Write(w, content); err != nil {
		return -1, err
	}
	return unix.Open(fmt.Sprintf("/proc/self/fd/%d", w), unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

// x32Program is a program that exits with 0.
func x32Program() ([]byte, error) {
	const place = 0x400000
	code := []byte{
		0xb8, 0x3c, 0x00, 0x00, 0x40, // mov eax, exit of x32
		0x31, 0xff, // xor edi, edi
		0x0f, 0x05, // syscall
	}
	var header elf.Header32
	var segment elf.Prog32
	start := uint32(binary.Size(header) + binary.Size(segment))
	size := start + uint32(len(code))
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS32)
	header.Ident[elf.EI_DATA] = byte(elf.ELFDATA2LSB)
	header.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	header.Type, header.Machine, header.Version = uint16(elf.ET_EXEC), uint16(elf.EM_X86_64), uint32(elf.EV_CURRENT)
	header.Entry = place + start
	header.Phoff, header.Phentsize, header.Phnum = uint32(binary.Size(header)), uint16(binary.Size(segment)), 1
	header.Ehsize = uint16(binary.Size(header))
	segment = elf.Prog32{
		Type: uint32(elf.PT_LOAD), Vaddr: place, Paddr: place, Filesz: size, Memsz: size, Flags: uint32(elf.PF_R | elf.PF_X), Align: 0x1000,
	}
	var out bytes.Buffer
	err := binary.Write(&out, binary.LittleEndian, header)
	err = errors.Join(err, binary.Write(&out, binary.LittleEndian, segment))
	out.Write(code)
	return out.Bytes(), err
}
