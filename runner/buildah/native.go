//go:build linux

package buildah

import (
	"bufio"
	"debug/elf"
	"io"
	"os"
	"path"
	"strings"

	rootfs "github.com/containerd/continuity/fs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// interpreters is how many scripts may be each other's interpreters, as in the kernel.
const interpreters = 4

// native reports whether what a process begins with is a program for this machine,
// whatever platform its image is said to be for: an image of one platform is often
// taken for all, and BuildKit runs what runs.
func native(root string, p *specs.Process) bool {
	if len(p.Args) == 0 {
		return false
	}
	self, err := elf.Open("/proc/self/exe")
	if err != nil {
		return false
	}
	defer self.Close()
	name := p.Args[0]
	for range interpreters {
		file, err := os.Open(program(root, name, p))
		if err != nil {
			return false
		}
		next, machine := machineOf(file)
		file.Close()
		if next == "" {
			return machine == self.Machine
		}
		name = next
	}
	return false
}

// machineOf says what machine a program is for, or which interpreter a script has.
func machineOf(file *os.File) (interpreter string, machine elf.Machine) {
	const longest = 256 // of the first line, as in the kernel
	if line, _ := bufio.NewReader(io.LimitReader(file, longest)).ReadString('\n'); strings.HasPrefix(line, "#!") {
		if words := strings.Fields(line[2:]); len(words) > 0 {
			return words[0], elf.EM_NONE
		}
	}
	f, err := elf.NewFile(file)
	if err != nil {
		return "", elf.EM_NONE
	}
	return "", f.Machine
}

// program finds a program of a tree as execvp(3) does. No link leads out of the tree.
func program(root, name string, p *specs.Process) string {
	if strings.Contains(name, "/") {
		if !path.IsAbs(name) {
			name = path.Join(p.Cwd, name)
		}
		return programFile(root, name)
	}
	for _, kv := range p.Env {
		dirs, ok := strings.CutPrefix(kv, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range strings.Split(dirs, ":") {
			file := programFile(root, path.Join(dir, name))
			if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return file
			}
		}
	}
	return ""
}

// programFile is where a path of a tree is, and empty if it is nowhere.
func programFile(root, name string) string {
	p, err := rootfs.RootPath(root, name)
	if err != nil {
		return ""
	}
	if info, err := os.Lstat(p); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	return p
}
