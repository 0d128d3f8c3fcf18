package config_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/zbuild/zbuild/config"
)

// TestComposeIsBounded gives compose-go what it would work on for minutes: that is
// refused before it sees it, and what people write is not.
func TestComposeIsBounded(t *testing.T) {
	services := func(n int) string {
		var b strings.Builder
		b.WriteString("services:\n")
		for i := range n {
			fmt.Fprintf(&b, "  s%d:\n    build: .\n", i)
		}
		return b.String()
	}
	arguments := func(n int) string {
		var b strings.Builder
		b.WriteString("services:\n  a:\n    build:\n      context: .\n      args:\n")
		for i := range n {
			fmt.Fprintf(&b, "        A%d: x\n", i)
		}
		return b.String()
	}
	for _, test := range []struct{ name, text, problem string }{
		{"services", services(20_000), "20000 services"},
		{"arguments", arguments(50_000), "too many entries"},
		{"some services", services(200), ""},
		{"some arguments", arguments(500), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, diags := config.Load(context.Background(), config.Request{
				Dir: t.TempDir(), Files: []string{"compose.yaml"}, LocalPlatform: "linux/amd64",
				ReadFile: func(string) ([]byte, error) { return []byte(test.text), nil },
			})
			switch {
			case test.problem == "" && (diags.HasErrors() || len(p.Targets) == 0):
				t.Errorf("it is refused: %v", diags)
			case test.problem != "" && !strings.Contains(diags.Error(), test.problem):
				t.Errorf("nothing is said of %s: %v", test.problem, diags)
			}
		})
	}
}
