package main

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A workload is a project that every tool builds, and one edit of it. The same
// directory serves all tools; whoever is timed makes a fresh edit first, so all of
// them see one changed file.
type workload struct {
	name  string
	title string
	// targets are the images, in the order of the bake file.
	targets []target
	// files makes the project's files apart from its Dockerfile and bake file.
	files func(dir string) error
	// dockerfile has the verb %[1]s where a base image's registry goes.
	dockerfile string
	ignore     string // .dockerignore
	// programs are the big RUNs of a cold build without a builder, in a shell with $1
	// the place to write to and $2 the program fill: what no builder can do without.
	programs string
	// edited is the file that an edit changes; empty for workloads that are only
	// built cold.
	edited string
}

type target struct {
	name string
	tag  string
	args map[string]string
}

// write puts the project into dir, which must not exist.
func (w *workload) write(dir, registry string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if w.files != nil {
		if err := w.files(dir); err != nil {
			return err
		}
	}
	files := map[string]string{
		"Dockerfile":      strings.ReplaceAll(w.dockerfile, "REGISTRY", registry),
		"docker-bake.hcl": w.bakeFile(),
	}
	if w.ignore != "" {
		files[".dockerignore"] = w.ignore
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// edit changes one file to what it has never been before.
func (w *workload) edit(dir string, n int) error {
	return os.WriteFile(filepath.Join(dir, w.edited), fmt.Appendf(nil, "// edit %d of process %d\n", n, os.Getpid()), 0o644)
}

func (w *workload) bakeFile() string {
	var b strings.Builder
	b.WriteString("group \"default\" {\n  targets = [")
	for i, t := range w.targets {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", t.name)
	}
	b.WriteString("]\n}\n")
	for _, t := range w.targets {
		fmt.Fprintf(&b, "target %q {\n  context = \".\"\n  tags = [%q]\n", t.name, t.tag)
		for k, v := range t.args {
			fmt.Fprintf(&b, "  args = { %s = %q }\n", k, v)
		}
		b.WriteString("}\n")
	}
	return b.String()
}

// services are n targets of one Dockerfile, told apart by an argument.
func services(n int) []target {
	list := make([]target, n)
	for i := range list {
		name := serviceName(i)
		list[i] = target{name: name, tag: "localhost/" + name + ":bench", args: map[string]string{"SERVICE": name}}
	}
	return list
}

func serviceName(i int) string { return fmt.Sprintf("svc%04d", i+1) }

// w1 is a monorepo: 20 targets, a base that all of them share (5 RUNs, 50 MB,
// 2,000 files), 3 RUNs of their own.
func w1() *workload {
	var base, alone strings.Builder
	for i := 1; i <= 5; i++ {
		from := i * 1_000_000
		fmt.Fprintf(&alone, "mkdir -p \"$1/s%[1]d\"; busybox seq %[2]d %[3]d | busybox awk -v d=\"$1/s%[1]d\" 'NR%%3277==1{close(f);f=d \"/f\" ++n}{print>f}'\n", i, from+1, from+1_310_720)
		fmt.Fprintf(&base, "RUN mkdir -p /opt/s%[1]d && seq %[2]d %[3]d | awk 'NR%%3277==1{close(f);f=\"/opt/s%[1]d/f\" ++n}{print>f}'\n", i, from+1, from+1_310_720)
	}
	return &workload{
		name: "W1", title: "20 targets, a shared base of 5 RUNs (50 MB, 2,000 files), 3 RUNs each",
		targets: services(20),
		files:   serviceFiles(20, 50, 301),
		dockerfile: "FROM REGISTRY/busybox AS base\n" + base.String() + `
FROM base
ARG SERVICE
COPY services/${SERVICE}/ /app/
RUN cat /app/*.txt > /app/all.out
RUN mkdir -p /dist && cp /app/all.out /dist/app
RUN md5sum /dist/app > /dist/app.md5
CMD ["/bin/cat", "/dist/app.md5"]
`,
		programs: alone.String(),
		edited:   "services/" + serviceName(6) + "/f1.txt",
	}
}

// w2 has a fat layer of dependencies below its sources.
func w2() *workload {
	return &workload{
		name: "W2", title: "a RUN that writes 30,000 files and 300 MB, then COPY . ., then a small RUN, two stages",
		targets: []target{{name: "app", tag: "localhost/fat:bench"}},
		files: func(dir string) error {
			for i := range 195 {
				if err := numbers(filepath.Join(dir, "src", fmt.Sprintf("m%d.js", i+1)), "const x = ", i*1000, 401); err != nil {
					return err
				}
			}
			return os.WriteFile(filepath.Join(dir, "deps.txt"), []byte("300\n"), 0o644)
		},
		dockerfile: `FROM REGISTRY/busybox AS build
WORKDIR /src
COPY deps.txt ./
RUN fill /src/node_modules "$(cat deps.txt)" 100 10000
COPY . .
RUN mkdir -p /out && cat src/*.js > /out/app && cat node_modules/d*/f1*.js | head -c 20000000 >> /out/app

FROM REGISTRY/busybox
COPY --from=build /out/app /usr/local/lib/app
CMD ["/bin/ls", "-l", "/usr/local/lib/app"]
`,
		programs: `"$2" "$1/node_modules" 300 100 10000`,
		edited:   "src/m7.js",
	}
}

// w3 is as little as can be built.
func w3() *workload {
	return &workload{
		name: "W3", title: "COPY one file, RUN echo",
		targets:    []target{{name: "app", tag: "localhost/trivial:bench"}},
		files:      func(dir string) error { return numbers(filepath.Join(dir, "hello.txt"), "", 1, 1) },
		dockerfile: "FROM REGISTRY/busybox\nCOPY hello.txt /hello.txt\nRUN echo hi\n",
		edited:     "hello.txt",
	}
}

// w4 is a big context, half of it ignored.
func w4() *workload {
	w := contextOf(25_000)
	w.name, w.title = "W4", "a context of 50,000 files, half of them ignored, COPY . /src, one RUN"
	return w
}

// contextOf is a tree of n files in directories of 100, and as many again that are
// ignored.
func contextOf(n int) *workload {
	return &workload{
		name: fmt.Sprintf("context-%d", n), title: fmt.Sprintf("%d files, and as many ignored", n),
		targets: []target{{name: "app", tag: "localhost/context:bench"}},
		files: func(dir string) error {
			for i := range n {
				d := filepath.Join(dir, fmt.Sprintf("d%d/p%d", i/2500, i/100))
				for _, name := range []string{fmt.Sprintf("f%d.txt", i%100), fmt.Sprintf("node_modules/m%d.js", i%100)} {
					if err := numbers(filepath.Join(d, name), "line ", i, 60); err != nil {
						return err
					}
				}
			}
			return nil
		},
		dockerfile: "FROM REGISTRY/busybox\nCOPY . /src\nRUN ls /src | wc -l > /count\n",
		ignore:     "**/node_modules\n**/*.log\n.git\n",
		edited:     fmt.Sprintf("d0/p%d/f5.txt", min(n/200, 7)),
	}
}

// manyTargets is n targets above one base, a COPY and a RUN each.
func manyTargets(n int) *workload {
	return &workload{
		name: fmt.Sprintf("targets-%d", n), title: fmt.Sprintf("%d targets", n),
		targets: services(n),
		files:   serviceFiles(n, 1, 10),
		dockerfile: `FROM REGISTRY/busybox AS base
RUN echo base > /base
FROM base
ARG SERVICE
COPY services/${SERVICE}/ /app/
RUN cat /app/f1.txt > /app/out
`,
		edited: "services/" + serviceName(0) + "/f1.txt",
	}
}

// fatLayer has one layer of so many megabytes below a COPY.
func fatLayer(mb int) *workload {
	return &workload{
		name: fmt.Sprintf("layer-%d", mb), title: fmt.Sprintf("a layer of %d MB", mb),
		targets:    []target{{name: "app", tag: "localhost/layer:bench"}},
		files:      func(dir string) error { return numbers(filepath.Join(dir, "hello.txt"), "", 1, 1) },
		dockerfile: fmt.Sprintf("FROM REGISTRY/busybox\nRUN fill /data 1 %d 1048576\nCOPY hello.txt /hello.txt\n", mb),
		edited:     "hello.txt",
	}
}

// strangers have n layers in all, which have nothing to do with what is measured. They
// are several projects: buildx needs far longer for one of hundreds of targets.
func strangers(n int) []*workload {
	const each, atOnce = 10, 20
	var d strings.Builder
	d.WriteString("FROM REGISTRY/busybox\nARG SERVICE\n")
	for i := range each {
		fmt.Fprintf(&d, "COPY --chmod=6%02d hello.txt /${SERVICE}.%d\n", 44+i%4, i)
	}
	var projects []*workload
	for targets := range slices.Chunk(services(n/each), atOnce) {
		projects = append(projects, &workload{
			name: fmt.Sprintf("strangers-%d", len(projects)), title: fmt.Sprintf("%d layers of other images", n),
			targets:    targets,
			files:      func(dir string) error { return numbers(filepath.Join(dir, "hello.txt"), "", 1, 1) },
			dockerfile: d.String(),
		})
	}
	return projects
}

// runs is a chain of n RUNs that do nothing.
func runs(n int) *workload {
	var d strings.Builder
	d.WriteString("FROM REGISTRY/busybox\n")
	for i := range n {
		fmt.Fprintf(&d, "RUN [\"true\", \"%d\"]\n", i)
	}
	return &workload{
		name: fmt.Sprintf("runs-%d", n), title: fmt.Sprintf("%d times RUN true", n),
		targets:    []target{{name: "app", tag: "localhost/runs:bench"}},
		dockerfile: d.String(),
	}
}

func serviceFiles(services, files, lines int) func(string) error {
	return func(dir string) error {
		for s := range services {
			for f := range files {
				name := filepath.Join(dir, "services", serviceName(s), fmt.Sprintf("f%d.txt", f+1))
				if err := numbers(name, "", s*100_000+f*1000, lines); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// numbers writes a file of so many lines, its directory too.
func numbers(name, prefix string, from, lines int) (err error) {
	f, err := os.Create(name)
	if os.IsNotExist(err) {
		if err = os.MkdirAll(filepath.Dir(name), fs.FileMode(0o755)); err == nil {
			f, err = os.Create(name)
		}
	}
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	for i := range lines {
		fmt.Fprintf(w, "%s%d\n", prefix, from+i)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}
