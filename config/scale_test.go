package config_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/zbuild/zbuild/config"
)

// project is a project of n targets that inherit, refer to variables and to one
// another, and are listed in groups.
func project(n int) string {
	text := &strings.Builder{}
	text.WriteString(`
variable "VERSION" { default = "1.0" }
variable "REGISTRY" { default = "registry.example.com/team" }
function "image" {
  params = [name]
  result = "${REGISTRY}/${name}:${VERSION}"
}
target "_common" {
  args      = { VERSION = VERSION, GOFLAGS = "-trimpath", CGO = "0" }
  labels    = { "org.opencontainers.image.version" = VERSION }
  platforms = ["linux/amd64"]
}
`)
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("%q", fmt.Sprintf("t%d", i)))
		parent := "_common"
		if i%10 > 0 {
			parent = fmt.Sprintf("t%d", i/10*10)
		}
		fmt.Fprintf(text, `
target "t%d" {
  inherits   = [%q]
  context    = "services/t%d"
  dockerfile = "Dockerfile"
  args       = { NAME = "t%d", PARENT = target._common.args.VERSION }
  tags       = [image("t%d"), "${REGISTRY}/t%d:latest"]
  cache-from = ["type=registry,ref=${REGISTRY}/cache:t%d"]
}
`, i, parent, i, i, i, i, i)
	}
	fmt.Fprintf(text, "group \"default\" { targets = [%s] }\n", strings.Join(names, ", "))
	return text.String()
}

// BenchmarkLoad loads and prints projects of growing size: ns/target stays as it
// is if the work is linear.
func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{100, 1_000, 10_000} {
		text := []byte(project(n))
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p, diags := config.Load(context.Background(), config.Request{
					Dir: "/project", Files: []string{"docker-bake.hcl"}, LocalPlatform: "linux/amd64", EvaluateOnly: true,
					ReadFile: func(string) ([]byte, error) { return text, nil },
				})
				if diags.HasErrors() {
					b.Fatal(diags)
				}
				if err := p.Print(io.Discard); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/target")
		})
	}
}
