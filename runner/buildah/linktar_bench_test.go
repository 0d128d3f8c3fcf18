//go:build linux

package buildah

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	graphdriver "go.podman.io/storage/drivers"
	"go.podman.io/storage/pkg/archive"
)

// BenchmarkLinkTar makes layers of many small files, with the name of a store's
// directory before them.
func BenchmarkLinkTar(b *testing.B) {
	for _, n := range []int{1000, 25_000} {
		b.Run(fmt.Sprintf("files=%d", n), func(b *testing.B) {
			src := filepath.Join(b.TempDir(), "containers/storage/overlay", strings.Repeat("0123456789abcdef", 4), "diff")
			text := []byte(strings.Repeat("some text of a source file\n", 40))
			for i := range n {
				dir := filepath.Join(src, fmt.Sprintf("src/dir%d/sub%d", i%50, i%500))
				if i < 500 {
					if err := os.MkdirAll(dir, 0o755); err != nil {
						b.Fatal(err)
					}
				}
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%d.txt", i)), text, 0o644); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				dest := filepath.Join(filepath.Dir(src), fmt.Sprint(i))
				if err := os.Mkdir(dest, 0o755); err != nil {
					b.Fatal(err)
				}
				l := &linkTar{ctx: b.Context(), src: src, dest: dest, convert: archive.GetWhiteoutConverter(archive.OverlayWhiteoutFormat, nil)}
				if err := l.run(io.Discard, new(graphdriver.DriverWithDifferOutput)); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := os.RemoveAll(dest); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "µs/file")
		})
	}
}
