package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/render"
	"github.com/zbuild/zbuild/internal/session"
	"github.com/zbuild/zbuild/runner"
)

// grace is how long a command may take to end once it was told to. It is less than
// what a user waits after Ctrl-C.
const grace = 500 * time.Millisecond

// after runs commands after a success: one list at a time, in order.
type after struct {
	ctx   context.Context
	a     *app
	umask string // the user's; empty if it is the engine's, too

	cancel context.CancelFunc // of the commands that run
	wg     sync.WaitGroup
}

// newAfter is for the time before the engine is opened, which has an umask of its own.
func newAfter(ctx context.Context, a *app) *after {
	return &after{ctx: ctx, a: a, umask: umask()}
}

// umask is this process's, unless it is the usual one or there is no telling.
func umask() string {
	status, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(status), "\nUmask:")
	bits, _, _ := strings.Cut(rest, "\n")
	if bits = strings.TrimSpace(bits); bits == "0022" {
		return ""
	}
	return bits
}

// hook is a command to run.
type hook struct {
	name string // whose command it is
	args []string
	dir  string
	env  []string
}

// start stops what is still running, waits for its end, and begins anew. It does
// not wait for the commands.
func (f *after) start(line string, n session.Finished) {
	hooks := f.hooks(line, n)
	if len(hooks) == 0 {
		return
	}
	f.stop()
	ctx, cancel := context.WithCancel(f.ctx)
	f.cancel = cancel
	f.wg.Go(func() {
		for _, h := range hooks {
			if ctx.Err() != nil {
				return
			}
			f.run(ctx, h)
		}
	})
}

// stop ends what is running and waits for that.
func (f *after) stop() {
	if f.cancel != nil {
		f.cancel()
	}
	f.wg.Wait()
}

func (f *after) close() { f.stop() }

func (f *after) run(ctx context.Context, h hook) {
	args := h.args
	if f.umask != "" {
		args = append([]string{"sh", "-c", "umask " + f.umask + ` && exec "$@"`, args[0]}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = h.dir
	cmd.Env = slices.Concat(f.a.environ, h.env)
	cmd.Stdout, cmd.Stderr = f.a.stderr, f.a.stderr
	ownGroup(cmd)
	err := cmd.Run()
	killGroup(cmd)
	if err != nil && ctx.Err() == nil {
		fmt.Fprintf(f.a.stderr, "[%s] %s: %s: %v\n", time.Now().Format("15:04:05"), h.name, render.Line(strings.Join(h.args, " ")), err)
	}
}

// hooks are the commands of the targets that were built, then the project's, then
// that of the command line.
func (f *after) hooks(line string, n session.Finished) []hook {
	g := n.Generation
	if g.Result == nil {
		return nil
	}
	var hooks []hook
	var names, images, digests []string
	for _, t := range g.Result.Targets {
		image, digest := imageName(t)
		names, images, digests = append(names, t.Name), append(images, image), append(digests, digest)
		if w := g.Plan.Target(t.Name).Config.Watch; w != nil && len(w.Exec) > 0 {
			hooks = append(hooks, hook{
				name: "exec of " + t.Name, args: w.Exec, dir: w.ExecDir,
				env: environment(t.Name, image, digest, n.Started.Concerns[t.Name]),
			})
		}
	}
	env := environment(strings.Join(names, " "), strings.Join(images, " "), strings.Join(digests, " "), n.Started.Changed)
	if w := g.Project.Watch; w != nil && len(w.Exec) > 0 {
		hooks = append(hooks, hook{name: "exec", args: w.Exec, dir: w.ExecDir, env: env})
	}
	if line != "" {
		hooks = append(hooks, hook{name: "--exec", args: []string{"/bin/sh", "-c", line}, dir: f.a.dir, env: env})
	}
	return hooks
}

func imageName(t runner.TargetResult) (name, digest string) {
	if t.Image == nil {
		return "", ""
	}
	if len(t.Tags) > 0 {
		return t.Tags[0], t.Image.Digest.String()
	}
	return t.Image.ID.Encoded(), t.Image.Digest.String()
}

func environment(target, image, digest string, changed []string) []string {
	return []string{
		"ZBUILD_TARGET=" + target, "ZBUILD_IMAGE=" + image, "ZBUILD_DIGEST=" + digest,
		"ZBUILD_CHANGED=" + strings.Join(changed, "\n"),
	}
}

// podmanSync copies files into running containers, by podman.
func (a *app) podmanSync(ctx context.Context, req session.SyncRequest) error {
	containers := make(map[string][]string) // by rule
	for _, f := range req.Files {
		key := f.Rule.Container + "\x00" + f.Rule.Label
		ids, known := containers[key]
		if !known {
			var err error
			if ids, err = a.runningContainers(ctx, f.Rule); err != nil {
				return err
			}
			containers[key] = ids
		}
		if len(ids) == 0 {
			return errors.New("no such container is running")
		}
		for _, id := range ids {
			if err := a.podmanCopy(ctx, id, f); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *app) podman(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "podman", args...)
	cmd.Env = a.environ
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("podman %s: %s", args[0], strings.TrimSpace(string(exit.Stderr)))
	}
	return strings.TrimSpace(string(out)), err
}

// runningContainers are those that a rule names.
func (a *app) runningContainers(ctx context.Context, rule config.SyncRule) ([]string, error) {
	filter := "label=" + rule.Label
	if rule.Container != "" {
		filter = "name=^" + regexp.QuoteMeta(rule.Container) + "$"
	}
	out, err := a.podman(ctx, "ps", "--quiet", "--no-trunc", "--filter", "status=running", "--filter", filter)
	return strings.Fields(out), err
}

// podmanCopy copies one file, or removes it. A removal goes through the mounted
// tree: an image need not have a program for it.
func (a *app) podmanCopy(ctx context.Context, id string, f session.SyncFile) error {
	if !f.Removed {
		_, err := a.podman(ctx, "cp", f.From, id+":"+f.To)
		return err
	}
	dir, err := a.podman(ctx, "mount", id)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err == nil {
		err = root.RemoveAll(strings.TrimPrefix(f.To, "/"))
		err = errors.Join(err, root.Close())
	}
	_, err2 := a.podman(ctx, "unmount", id)
	return errors.Join(err, err2)
}
