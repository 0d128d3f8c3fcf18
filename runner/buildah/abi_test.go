//go:build linux

package buildah

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestX32 looks at the program that finds out whether the kernel has x32: it must
// be one that a kernel which has it would run.
func TestX32(t *testing.T) {
	program, err := x32Program()
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		t.Fatal(err)
	}
	if f.Class != elf.ELFCLASS32 || f.Machine != elf.EM_X86_64 || f.Type != elf.ET_EXEC {
		t.Errorf("the program is %v %v %v", f.Class, f.Machine, f.Type)
	}
	if p := f.Progs[0]; len(f.Progs) != 1 || p.Filesz != uint64(len(program)) || f.Entry < p.Vaddr || f.Entry >= p.Vaddr+p.Filesz {
		t.Errorf("the program's segment is %+v and it is entered at %#x", p.ProgHeader, f.Entry)
	}
	full := []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	for x32, want := range map[bool][]specs.Arch{true: full, false: full[:2]} {
		filter := &specs.LinuxSeccomp{Architectures: slices.Clone(full)}
		if withoutMissing(filter, x32); !slices.Equal(filter.Architectures, want) {
			t.Errorf("with x32 %v the filter is for %v", x32, filter.Architectures)
		}
	}
	// What says "no" must be the kernel, and not a mistake on the way to it.
	native, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	fd, err := memoryFile(native)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := exec.Command(fmt.Sprintf("/proc/self/fd/%d", fd)).Run(); err != nil {
		t.Errorf("a program in memory: %v", err)
	}
	t.Log("the kernel has x32:", hasX32())
}
