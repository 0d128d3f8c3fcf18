package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
	"text/tabwriter"

	"github.com/alecthomas/kong"
)

// version is set by the linker: -X main.version=v1.2.3.
var version = ""

// versionCmd shows versions.
type versionCmd struct {
	Format string `enum:"text,json" default:"text" help:"text or json."`
}

// versionFlag is --version, which podman, buildah and git have, too.
type versionFlag bool

// BeforeReset is part of kong's protocol: it is called before anything else that is
// on the command line counts.
func (versionFlag) BeforeReset(parser *kong.Kong) error {
	if _, err := fmt.Fprintf(parser.Stdout, "zbuild version %s\n", cmp.Or(currentVersions().Version, "unknown")); err != nil {
		return err
	}
	parser.Exit(exitOK)
	return nil
}

// libraries are the modules that decide what zbuild can do.
func libraries() []string {
	return []string{
		"github.com/moby/buildkit",
		"go.podman.io/buildah",
		"go.podman.io/image/v5",
		"go.podman.io/storage",
	}
}

// versions is what 'version --format json' prints.
type versions struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	// Libraries are versions by module path.
	Libraries map[string]string `json:"libraries"`
}

func currentVersions() versions {
	v := versions{
		Version:   version,
		Go:        runtime.Version(),
		Platform:  runtime.GOOS + "/" + runtime.GOARCH,
		Libraries: make(map[string]string),
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if v.Version == "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Revision = s.Value
		}
	}
	linked := make(map[string]string, len(info.Deps))
	for _, m := range info.Deps {
		linked[m.Path] = m.Version
		if m.Replace != nil {
			linked[m.Path] = m.Replace.Version
		}
	}
	for _, path := range libraries() {
		if version, ok := linked[path]; ok {
			v.Libraries[path] = version
		}
	}
	return v
}

// Run prints.
func (c *versionCmd) Run(a *app) error {
	v := currentVersions()
	if c.Format == "json" {
		return writeJSON(a.stdout, v)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "zbuild\t%s\n", cmp.Or(v.Version, "unknown"))
	if v.Revision != "" {
		fmt.Fprintf(w, "revision\t%s\n", v.Revision)
	}
	fmt.Fprintf(w, "go\t%s %s\n", v.Go, v.Platform)
	for _, path := range libraries() {
		if version, ok := v.Libraries[path]; ok {
			fmt.Fprintf(w, "%s\t%s\n", path, version)
		}
	}
	return w.Flush()
}
