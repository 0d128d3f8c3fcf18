package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/test/buildkitd"
)

// A tool is one of those that are compared. What it is asked to do it does with
// the commands that its users type, a new process each.
type tool interface {
	name() string
	// about says what is run, for the report.
	about() string
	// reset leaves the tool with the base images and nothing else.
	reset(ctx context.Context) error
	// build makes all images of the workload in dir.
	build(ctx context.Context, dir string, w *workload) error
	// fill puts the images of the projects in dirs where the tool looks for images, in
	// the quickest way that there is, and leaves nothing else. name tells the projects of
	// one size from those of another.
	fill(ctx context.Context, name string, dirs []string) error
}

// command is a process to be: its environment beyond this one's, its arguments.
type command struct {
	dir  string
	env  []string
	argv []string
}

func (c command) run(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), c.env...)
	return finish(ctx, cmd)
}

// finish runs a process. It fails with the end of what the process printed.
func finish(ctx context.Context, cmd *exec.Cmd) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		text := out.String()
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, text[max(0, len(text)-4000):])
	}
	return nil
}

// store is a containers-storage of a tool's own.
type store struct {
	dir      string
	run      string // what does not outlive the machine's run: in memory, as /run is
	registry string // where the base image comes from, host:port
	filler   string // the program that fills it, zbuild
	filled   string // directory of filled stores' roots, by what they were filled with
	old      *aside
}

// env makes everything that is built on containers-storage use it.
func (s *store) env() []string {
	return []string{
		"CONTAINERS_STORAGE_CONF=" + filepath.Join(s.dir, "storage.conf"),
		"CONTAINERS_CONF=" + filepath.Join(s.dir, "containers.conf"),
	}
}

func (s *store) baseImage() string { return s.registry + "/busybox" }

func (s *store) reset(ctx context.Context) error {
	if err := s.unmount(); err != nil {
		return err
	}
	if err := errors.Join(s.old.put(s.dir), os.RemoveAll(s.run)); err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	limits, err := ulimits()
	if err != nil {
		return err
	}
	conf := map[string]string{
		// Without skip_mount_home the store would be a mount that nobody undoes.
		"storage.conf": fmt.Sprintf("[storage]\ndriver = \"overlay\"\ngraphroot = %q\nrunroot = %q\n\n[storage.options.overlay]\nskip_mount_home = \"true\"\n",
			filepath.Join(s.dir, "root"), s.run),
		// buildah wants a netavark to be there, though it has no use for it on the
		// host's network.
		"containers.conf": fmt.Sprintf("[engine]\nhelper_binaries_dir = [%q]\n[containers]\ndefault_ulimits = [%s]\n", s.dir, limits),
		"netavark":        "#!/bin/sh\nexit 1\n",
	}
	for name, text := range conf {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o700); err != nil {
			return err
		}
	}
	ref := s.baseImage() + ":latest"
	pull := command{env: s.env(), argv: []string{"skopeo", "copy", "--quiet", "--src-tls-verify=false", "docker://" + ref, "containers-storage:" + ref}}
	return pull.run(ctx)
}

// ulimits are this process's own, as buildah is told them: left to itself it asks
// for more, which a root without CAP_SYS_RESOURCE is refused.
func ulimits() (string, error) {
	var list []string
	for name, resource := range map[string]int{"nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC} {
		var l unix.Rlimit
		if err := unix.Getrlimit(resource, &l); err != nil {
			return "", err
		}
		// An unlimited one is -1 for buildah.
		list = append(list, fmt.Sprintf("%q", fmt.Sprintf("%s=%d:%d", name, int64(l.Cur), int64(l.Max))))
	}
	return strings.Join(list, ", "), nil
}

// fill is the same for all tools that have their images in containers-storage, and done
// once for all: buildah would need hours for some thousand layers. The layers of steps,
// which only zbuild could make use of, do not stay.
func (s *store) fill(ctx context.Context, name string, dirs []string) error {
	root, kept := filepath.Join(s.dir, "root"), filepath.Join(s.filled, name)
	if _, err := os.Stat(kept); err == nil {
		return errors.Join(s.old.put(root), command{argv: []string{"cp", "-a", kept, root}}.run(ctx))
	}
	for _, dir := range dirs {
		for _, args := range [][]string{{"bake", "--progress", "quiet"}, {"cache", "prune", "--all"}} {
			if err := (command{dir: dir, env: s.env(), argv: append([]string{s.filler}, args...)}).run(ctx); err != nil {
				return err
			}
		}
	}
	return command{argv: []string{"cp", "-a", root, kept}}.run(ctx)
}

// remove removes the store.
func (s *store) remove() error {
	if err := s.unmount(); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(s.dir), os.RemoveAll(s.run))
}

// unmount undoes the mounts that a tool has left which was stopped.
func (s *store) unmount() error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && (strings.HasPrefix(f[4], s.dir+"/") || strings.HasPrefix(f[4], s.run+"/")) {
			if err := unix.Unmount(f[4], unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmounting %s: %w", f[4], err)
			}
		}
	}
	return nil
}

// zbuild is this project's program.
type zbuild struct {
	program string
	*store
}

func (z *zbuild) name() string  { return "zbuild" }
func (z *zbuild) about() string { return "`zbuild bake`; the images end in containers-storage" }

func (z *zbuild) build(ctx context.Context, dir string, _ *workload) error {
	return command{dir: dir, env: z.env(), argv: []string{z.program, "bake", "--progress", "quiet"}}.run(ctx)
}

// buildah knows one image a call.
type buildah struct {
	program string
	*store
}

func (b *buildah) name() string { return "buildah" }
func (b *buildah) about() string {
	return "`buildah build --layers`, once per target; the images end in containers-storage"
}

func (b *buildah) build(ctx context.Context, dir string, w *workload) error {
	for _, t := range w.targets {
		argv := []string{b.program, "build", "--layers", "--quiet", "--pull-never", "--network", "host", "--runtime", "runc", "-t", t.tag}
		for k, v := range t.args {
			argv = append(argv, "--build-arg", k+"="+v)
		}
		if err := (command{dir: dir, env: b.env(), argv: append(argv, ".")}).run(ctx); err != nil {
			return err
		}
	}
	return nil
}

// buildkit is buildx with a buildkitd that stays up: its caches are warm in all
// runs but the cold ones.
type buildkit struct {
	daemon   *buildkitd.Daemon
	dir      string // for a project of its own
	registry string
	old      *aside
}

func (b *buildkit) name() string { return "BuildKit" }
func (b *buildkit) about() string {
	return "`docker buildx bake` and a running buildkitd; the images stay in BuildKit's own store"
}

// reset starts the daemon on nothing, and has BuildKit unpack the base image.
func (b *buildkit) reset(ctx context.Context) error {
	if err := b.daemon.Restart(ctx, b.old.put); err != nil {
		return err
	}
	base := &workload{
		name: "base", targets: []target{{name: "base", tag: "localhost/base:bench"}},
		dockerfile: "FROM REGISTRY/busybox\nRUN true\n",
	}
	dir := filepath.Join(b.dir, base.name)
	if err := base.write(dir, b.registry); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return b.build(ctx, dir, base)
}

func (b *buildkit) build(ctx context.Context, dir string, _ *workload) error {
	return b.bake(ctx, dir, "--set", "*.output=type=image")
}

func (b *buildkit) fill(ctx context.Context, _ string, dirs []string) error {
	for _, dir := range dirs {
		if err := b.build(ctx, dir, nil); err != nil {
			return err
		}
	}
	return nil
}

func (b *buildkit) bake(ctx context.Context, dir string, args ...string) error {
	cmd, err := b.daemon.Buildx(ctx, append([]string{"bake", "--progress", "quiet"}, args...)...)
	if err != nil {
		return err
	}
	cmd.Dir = dir
	return finish(ctx, cmd)
}

// loading is BuildKit for those who want the image where podman finds it.
type loading struct {
	*buildkit
	*store
	archives string
}

func (l *loading) name() string { return "BuildKit + load" }
func (l *loading) about() string {
	return "the same, the images then taken to containers-storage (`type=oci` archives and `skopeo copy`)"
}

func (l *loading) reset(ctx context.Context) error {
	if err := l.store.reset(ctx); err != nil {
		return err
	}
	return l.buildkit.reset(ctx)
}

func (l *loading) fill(ctx context.Context, name string, dirs []string) error {
	return errors.Join(l.buildkit.fill(ctx, name, dirs), l.store.fill(ctx, name, dirs))
}

func (l *loading) build(ctx context.Context, dir string, w *workload) error {
	dest := func(t target) string { return filepath.Join(l.archives, t.name+".tar") }
	var args []string
	for _, t := range w.targets {
		args = append(args, "--set", t.name+".output=type=oci,dest="+dest(t), "--allow", "fs.write="+l.archives)
	}
	if err := l.bake(ctx, dir, args...); err != nil {
		return err
	}
	for _, t := range w.targets {
		load := command{env: l.env(), argv: []string{"skopeo", "copy", "--quiet", "oci-archive:" + dest(t), "containers-storage:" + t.tag}}
		if err := load.run(ctx); err != nil {
			return err
		}
		if err := os.Remove(dest(t)); err != nil {
			return err
		}
	}
	return nil
}
