// Command fill stands for a package manager in the benchmarks: it writes many
// files whose bytes are the same in every run and do not compress away.
//
//	fill DIR DIRECTORIES FILES BYTES
package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
)

func main() {
	if err := fill(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "fill:", err)
		os.Exit(1)
	}
}

func fill(args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("usage: fill DIR DIRECTORIES FILES BYTES")
	}
	var n [3]int
	for i := range n {
		v, err := strconv.Atoi(args[i+1])
		if err != nil {
			return err
		}
		n[i] = v
	}
	const letters = "abcdefghijklmnopqrstuvwxyz etaoin;\n"
	random := rand.NewChaCha8([32]byte{})
	text := make([]byte, 4<<20+n[2])
	_, _ = random.Read(text)
	for i, b := range text {
		text[i] = letters[int(b)%len(letters)]
	}
	for d := range n[0] {
		dir := filepath.Join(args[0], fmt.Sprintf("d%d", d+1))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for f := range n[1] {
			at := ((d*n[1] + f) * 7919) % (4 << 20)
			name := filepath.Join(dir, fmt.Sprintf("f%d.js", f+1))
			if err := os.WriteFile(name, text[at:at+n[2]], 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
