package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// A chain of RUNs that do nothing shows what a RUN costs beyond its process; the
// OCI runtime alone, on the same root, is what it cannot be cheaper than.
const chain = 20

// runCost is a section: seconds of one RUN by tool, and of one `runc run`.
func (b *bench) runCost(ctx context.Context) (*section, error) {
	s := &section{
		Name: "RUN", Title: "one `RUN true`: the difference between a chain of 21 and a chain of 1, by 20",
		Seconds: samples{cold: {}}, Left: map[string]string{},
	}
	short, long := runs(1), runs(1+chain)
	for _, w := range []*workload{short, long} {
		dir := filepath.Join(b.dir, w.name)
		if err := w.write(dir, b.registry); err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
	}
	bundle, err := b.bundle(ctx)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(bundle)
	for range b.rounds {
		for _, t := range b.tools {
			var took [2]float64
			for i, w := range []*workload{short, long} {
				if err := t.reset(ctx); err != nil {
					return nil, err
				}
				if took[i], err = b.time(ctx, t, filepath.Join(b.dir, w.name), w); err != nil {
					return nil, err
				}
			}
			s.Seconds[cold][t.name()] = append(s.Seconds[cold][t.name()], (took[1]-took[0])/chain)
		}
		start := time.Now()
		for i := range chain {
			if err := (command{dir: bundle, argv: []string{"runc", "run", fmt.Sprintf("bench-%d-%d", os.Getpid(), i)}}).run(ctx); err != nil {
				return nil, err
			}
		}
		s.Seconds[cold]["runc run"] = append(s.Seconds[cold]["runc run"], time.Since(start).Seconds()/chain)
	}
	return s, nil
}

// bundle is the base image's root with runc's default configuration, which
// makes the same kinds of namespaces as a RUN but for the network.
func (b *bench) bundle(ctx context.Context) (string, error) {
	dir := filepath.Join(b.dir, "bundle")
	root := filepath.Join(dir, "rootfs")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", err
	}
	image := "docker://" + b.registry + "/busybox:latest"
	layout := filepath.Join(dir, "image")
	for _, argv := range [][]string{
		{"skopeo", "copy", "--quiet", "--src-tls-verify=false", image, "dir:" + layout},
		{"sh", "-c", `for blob in "$1"/*; do tar -xzf "$blob" -C "$2" 2>/dev/null || true; done; test -x "$2/bin/true"`, "sh", layout, root},
		{"runc", "spec"},
	} {
		if err := (command{dir: dir, argv: argv}).run(ctx); err != nil {
			return "", err
		}
	}
	name := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	var spec map[string]any
	if err := json.Unmarshal(text, &spec); err != nil {
		return "", err
	}
	process, ok := spec["process"].(map[string]any)
	if !ok {
		return "", fmt.Errorf("runc spec: no process")
	}
	process["terminal"], process["args"] = false, []string{"true"}
	if text, err = json.Marshal(spec); err != nil {
		return "", err
	}
	return dir, os.WriteFile(name, text, 0o600)
}
