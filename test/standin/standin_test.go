// Package standin compares the modules that stand in for others (internal/standin)
// with the originals, which this module is built with.
package standin

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/compose-spec/compose-go/v2/schema"
	"go.yaml.in/yaml/v3"
)

var documents = flag.Int("documents", 300, "random documents to compare")

// seeds is a Compose file that has something of everything.
const seeds = `
name: shop
services:
  web:
    build: {context: ., dockerfile: D, args: {A: b, N: 1}, target: prod, cache_from: [a], ssh: [default], labels: [a=b],
      platforms: [linux/amd64], secrets: [s, {source: s, target: t, mode: 0444}], shm_size: 64m, ulimits: {nofile: {soft: 1, hard: 2}, nproc: 3},
      additional_contexts: {x: y}, extra_hosts: ["a:1.2.3.4"], no_cache: true, pull: false, privileged: true, tags: [t], entitlements: [e]}
    image: web
    command: [a, b]
    entrypoint: run
    ports: ["80:80", 81, {target: 82, published: "83", protocol: tcp, mode: host}]
    environment: {A: 1, B: null, C: x}
    env_file: [a.env, {path: b.env, required: false}]
    depends_on: {db: {condition: service_healthy, restart: true}}
    deploy: {replicas: 2, resources: {limits: {cpus: "0.5", memory: 10m, pids: 5}}, restart_policy: {condition: any, max_attempts: 3}, labels: {a: b}}
    healthcheck: {test: [CMD, x], interval: 1s, retries: 3, disable: false}
    volumes: ["a:/b", {type: bind, source: ., target: /x, read_only: true, bind: {create_host_path: true}}]
    networks: {front: {aliases: [a], ipv4_address: 10.0.0.2, priority: 3}}
    logging: {driver: json-file, options: {max-size: "1", n: 5}}
    ulimits: {nproc: 5}
    sysctls: {a: 1}
    tmpfs: /run
    restart: always
    oom_score_adj: 10
    cpu_percent: 50
    cpus: 1.5
    stop_grace_period: 1m
    blkio_config: {weight: 300, device_read_bps: [{path: /dev/x, rate: 1mb}]}
    develop: {watch: [{path: ., action: rebuild, ignore: [a]}]}
    configs: [c, {source: c, target: /c, mode: 292}]
    gpus: all
    profiles: [p]
    x-own: {any: thing}
  db: {image: db, labels: [a, b], networks: [front], depends_on: [web], extends: {service: web}}
networks: {front: {driver: bridge, ipam: {config: [{subnet: 10.0.0.0/8}]}, external: false}}
volumes: {a: {driver_opts: {a: 1}}, b: null}
secrets: {s: {file: ./s, labels: {a: b}}}
configs: {c: {content: hi}}
include: [a.yaml, {path: [b.yaml], project_directory: x}]
x-top: 1
`

// TestSchema: whatever becomes of a Compose file, the stand-in takes it if and only
// if the original does.
func TestSchema(t *testing.T) {
	var seed map[string]any
	if err := yaml.Unmarshal([]byte(seeds), &seed); err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(seed); err != nil {
		t.Fatalf("the seed itself: %v", err)
	}
	original, err := json.Marshal(seed)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	docs := make([][]byte, *documents)
	want := make([]error, len(docs))
	valid := 0
	for i := range docs {
		var doc map[string]any
		if err := json.Unmarshal(original, &doc); err != nil {
			t.Fatal(err)
		}
		for range rng.IntN(3) {
			mutate(rng, doc)
		}
		if docs[i], err = json.Marshal(doc); err != nil {
			t.Fatal(err)
		}
		if want[i] = schema.Validate(doc); want[i] == nil {
			valid++
		}
	}
	if valid == 0 || valid == len(docs) {
		t.Fatalf("%d of %d documents are valid: nothing is compared", valid, len(docs))
	}
	for i, got := range check(t, docs) {
		if (got == "") != (want[i] == nil) {
			t.Errorf("the original says %v, the stand-in %q, of\n%s", want[i], got, docs[i])
		}
		if testing.Verbose() && want[i] != nil && got != want[i].Error() {
			t.Logf("%v\n%s", want[i], got)
		}
	}
	t.Logf("%d documents, %d of them valid", len(docs), valid)
}

// check has the stand-in validate documents.
func check(t *testing.T, docs [][]byte) []string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "check")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./check")
	build.Dir = filepath.Join("..", "..", "internal", "standin", "jsonschema")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Stdin = bytes.NewReader(bytes.Join(docs, []byte("\n")))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		lines = append(lines, s.Text())
	}
	if len(lines) != len(docs) {
		t.Fatalf("%d answers to %d documents", len(lines), len(docs))
	}
	return lines
}

// mutate changes one thing somewhere in a document.
func mutate(rng *rand.Rand, doc map[string]any) {
	type place struct {
		set    func(any)
		remove func()
		value  any
	}
	var places []place
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, k := range slices.Sorted(maps.Keys(v)) {
				places = append(places, place{func(x any) { v[k] = x }, func() { delete(v, k) }, v[k]})
				walk(v[k])
			}
		case []any:
			for i := range v {
				places = append(places, place{func(x any) { v[i] = x }, func() { v[i] = nil }, v[i]})
				walk(v[i])
			}
		}
	}
	walk(doc)
	p := places[rng.IntN(len(places))]
	odd := []any{nil, true, "", "text", "10s", 0.0, -1.0, 7.0, 1.5, 1e9, []any{}, []any{"a", "a"}, []any{1.0, map[string]any{"a": "b"}}, map[string]any{}, map[string]any{"a b": 1.0}}
	switch v := p.value.(type) {
	case map[string]any:
		if rng.IntN(2) == 0 {
			v[[]string{"x-more", "unknown", "image", "target", "Ünï", "a.b", ""}[rng.IntN(7)]] = odd[rng.IntN(len(odd))]
			return
		}
	case []any:
		if rng.IntN(2) == 0 {
			p.set(append(slices.Clone(v), odd[rng.IntN(len(odd))]))
			return
		}
	}
	switch other := places[rng.IntN(len(places))]; rng.IntN(4) {
	case 0:
		p.remove()
	case 1:
		raw, _ := json.Marshal(other.value) // it was JSON before
		var clone any
		_ = json.Unmarshal(raw, &clone)
		p.set(clone)
	default:
		p.set(odd[rng.IntN(len(odd))])
	}
}
