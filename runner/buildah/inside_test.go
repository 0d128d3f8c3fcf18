//go:build linux

package buildah

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.podman.io/storage/pkg/unshare"

	"github.com/zbuild/zbuild/runner"
)

// lookAround prints what a process finds around itself, each part under a title.
const lookAround = `
b=/bin/busybox
echo "= mounts"; $b cat /proc/self/mountinfo
echo "= status"; $b cat /proc/self/status
echo "= env"; $b env
echo "= limits"; $b cat /proc/self/limits
echo "= dev"; $b ls -l /dev
`

// surroundings are the parts of what lookAround prints.
func surroundings(t *testing.T, text string) map[string][]string {
	t.Helper()
	parts := map[string][]string{}
	title := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "= "); ok {
			title = name
			continue
		}
		parts[title] = append(parts[title], line)
	}
	for _, name := range []string{"mounts", "status", "env", "limits", "dev"} {
		if len(parts[name]) == 0 {
			t.Fatalf("nothing was printed of %s:\n%s", name, text)
		}
	}
	return parts
}

// fields makes a map of lines that a separator cuts in two.
func fields(lines []string, sep string) map[string]string {
	out := map[string]string{}
	for _, l := range lines {
		if k, v, ok := strings.Cut(l, sep); ok {
			out[k] = strings.Join(strings.Fields(v), " ")
		}
	}
	return out
}

// mountTable gives, by mount point, the file system's type and what it forbids.
func mountTable(t *testing.T, lines []string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, l := range lines {
		f := strings.Fields(l)
		dash := slices.Index(f, "-")
		if dash < 6 || len(f) < dash+2 {
			t.Fatalf("not a line of mountinfo: %q", l)
		}
		opts := slices.DeleteFunc(strings.Split(f[5], ","), func(o string) bool {
			return !slices.Contains([]string{"ro", "nosuid", "nodev", "noexec"}, o)
		})
		slices.Sort(opts)
		out[f[4]] = f[dash+1] + " " + strings.Join(opts, ",")
	}
	return out
}

// inBuildah is what a process sees that "buildah run" starts.
func inBuildah(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("buildah")
	if err != nil {
		t.Fatal("buildah is missing: install the package buildah")
	}
	dir := t.TempDir()
	conf := fmt.Sprintf("[storage]\ndriver = \"overlay\"\ngraphroot = %q\nrunroot = %q\n[storage.options.overlay]\nskip_mount_home = \"true\"\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "run"))
	name := filepath.Join(dir, "storage.conf")
	if err := os.WriteFile(name, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmountBelow(dir) })
	call := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Env = append(os.Environ(), "CONTAINERS_STORAGE_CONF="+name)
		var out, complaints bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &complaints
		if err := cmd.Run(); err != nil {
			t.Fatalf("buildah %s: %v\n%s", strings.Join(args, " "), err, complaints.String())
		}
		return strings.TrimSpace(out.String())
	}
	id := call("from", "scratch")
	call("copy", "--quiet", id, filepath.Join(busybox(t).Dir, "busybox"), "/bin/busybox")
	out := call("run", "--isolation", "oci", "--network", "host", "--runtime", "runc", id, "/bin/busybox", "sh", "-c", lookAround)
	call("rm", id)
	return out
}

// A process in a RUN finds what it finds under "buildah run", but for what is meant
// to be different.
func TestInside(t *testing.T) {
	if unshare.IsRootless() {
		t.Skip("buildah would need a user namespace of its own beside this one")
	}
	theirs := surroundings(t, inBuildah(t))
	e := open(t, Options{Runtime: "runc"})
	root, _ := do(t, e, copyOp("/busybox", "/bin/busybox"), runner.Input{Local: busybox(t)})
	op := execOp(nil, "/bin/busybox", "sh", "-c", lookAround)
	op.GetExec().Meta.Env = nil
	_, text := do(t, e, op, runner.Input{Snapshot: root})
	ours := surroundings(t, text)

	compareMounts(t, mountTable(t, theirs["mounts"]), mountTable(t, ours["mounts"]))
	compareStatus(t, fields(theirs["status"], ":"), fields(ours["status"], ":"))

	envTheirs, envOurs := fields(theirs["env"], "="), fields(ours["env"], "=")
	for k, v := range envTheirs {
		// The name of the machine is not a matter of a build.
		if k != "HOSTNAME" && envOurs[k] != v {
			t.Errorf("%s is %q, under buildah %q", k, envOurs[k], v)
		}
	}
	compareLimits(t, theirs["limits"], ours["limits"])
	if a, b := devices(theirs["dev"]), devices(ours["dev"]); !slices.Equal(a, b) {
		t.Errorf("the devices are %v, under buildah %v", b, a)
	}
}

func compareMounts(t *testing.T, theirs, ours map[string]string) {
	t.Helper()
	for at, how := range theirs {
		switch at {
		case "/run/.containerenv", "/etc/hostname":
			continue // a build leaves no sign of who builds
		case "/sys/dev":
			continue // which the library that this is made of does not hide any more
		case "/etc/hosts", "/etc/resolv.conf":
			how += "ro" // which is not the build's to change
		}
		if strings.HasPrefix(at, "/sys/fs/cgroup/") {
			how += ",ro" // as with Docker
		}
		if ours[at] != how {
			t.Errorf("%s is mounted as %q, under buildah as %q", at, ours[at], how)
		}
	}
	for at, how := range ours {
		hidden := strings.HasPrefix(at, "/proc/") || strings.HasPrefix(at, "/sys/")
		if _, ok := theirs[at]; !ok && !hidden {
			t.Errorf("%s is mounted as %q, and not under buildah", at, how)
		}
	}
}

func compareStatus(t *testing.T, theirs, ours map[string]string) {
	t.Helper()
	for _, k := range []string{"Uid", "Gid", "Groups", "CapInh", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Umask"} {
		if theirs[k] != ours[k] {
			t.Errorf("%s is %q, under buildah %q", k, ours[k], theirs[k])
		}
	}
	// Docker's root may do what podman's may not: raw sockets, devices, audit.
	const more = 1<<13 | 1<<27 | 1<<29
	for _, k := range []string{"CapPrm", "CapEff", "CapBnd"} {
		a, err1 := strconv.ParseUint(theirs[k], 16, 64)
		b, err2 := strconv.ParseUint(ours[k], 16, 64)
		if err1 != nil || err2 != nil || b != a|more {
			t.Errorf("%s is %s, under buildah %s", k, ours[k], theirs[k])
		}
	}
}

func compareLimits(t *testing.T, theirs, ours []string) {
	t.Helper()
	limits := map[string]string{}
	key := func(l string) (string, string) {
		return strings.TrimSpace(l[:26]), strings.Join(strings.Fields(l[26:]), " ")
	}
	for _, l := range ours {
		k, v := key(l)
		limits[k] = v
	}
	for _, l := range theirs {
		switch k, v := key(l); k {
		case "Max open files", "Max processes":
			// As many as this process may have; see rlimits.
			soft, _, _ := strings.Cut(limits[k], " ")
			least, _, _ := strings.Cut(v, " ")
			a, err1 := strconv.Atoi(least)
			b, err2 := strconv.Atoi(soft)
			if err1 != nil || err2 != nil || b < min(a, 1<<20) {
				t.Errorf("%s is %q, under buildah %q", k, limits[k], v)
			}
		default:
			if limits[k] != v {
				t.Errorf("%s is %q, under buildah %q", k, limits[k], v)
			}
		}
	}
}

// devices are the names, types and modes in a listing of /dev.
func devices(lines []string) []string {
	var out []string
	for _, l := range lines {
		f := strings.Fields(l)
		if len(f) < 9 {
			continue
		}
		name := slices.Index(f, "->")
		if name < 0 {
			name = len(f)
		}
		out = append(out, f[0]+" "+f[name-1])
	}
	slices.Sort(out)
	return out
}
