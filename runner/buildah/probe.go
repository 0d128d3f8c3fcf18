//go:build linux

package buildah

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"go.podman.io/image/v5/signature"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/unshare"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/internal/scratch"
)

// Status says how a check came out.
type Status string

// The outcomes of a check.
const (
	StatusOK   Status = "ok"
	StatusWarn Status = "warn" // builds work, something does not
	StatusFail Status = "fail" // builds do not work
)

// Check is one thing that a build needs of the machine.
type Check struct {
	Name   string
	Value  string // what was found or chosen
	Status Status
	Why    string // why this, or what follows from it
	Fix    string // what to do about it
}

// Report is what Probe found.
type Report struct{ Checks []Check }

// Usable reports whether builds work.
func (r *Report) Usable() bool {
	for _, c := range r.Checks {
		if c.Status == StatusFail {
			return false
		}
	}
	return true
}

// Probe tries what a build needs, and says what the engine would choose and why.
func Probe(ctx context.Context, opt Options) *Report {
	r := &Report{}
	r.add(probeUser()...)
	store, _, err := openStore(opt)
	if err != nil {
		r.add(Check{Name: "storage", Status: StatusFail, Why: err.Error()})
	} else {
		c := Check{Name: "storage", Value: store.GraphDriverName() + " at " + store.GraphRoot(), Status: StatusOK}
		if !nativeOverlay(store) {
			c.Status = StatusWarn
			c.Why = "layers are copied through tar streams, which is correct and slow"
			c.Fix = "use the native overlay driver: a kernel of 5.13 or newer for ordinary users, and no mount_program in storage.conf"
		}
		r.add(c, probePeers(ctx, opt, store.GraphDriverName(), store.GraphRoot()), Check{Name: "run directory", Value: store.RunRoot(), Status: StatusOK})
		_, _ = store.Shutdown(false)
	}
	r.add(probeIsolation(ctx, opt))
	r.add(probeNetwork(), probePlatforms(), probePolicy(), probeResources())
	return r
}

func (r *Report) add(c ...Check) { r.Checks = append(r.Checks, c...) }

// nativeOverlay reports whether a store's layers are directories that can be
// linked. Nothing else may use the store meanwhile: the driver finds out what the
// kernel can do, and notes it unguarded.
func nativeOverlay(store storage.Store) bool { return overlayHas(store, "Native Overlay Diff") }

// usesMountProgram reports whether the overlay driver has a program mount its layers: one
// that the options name, or one that it has found because the kernel was of no use, now
// or when the store was made. It notes that in the store.
func usesMountProgram(store storage.Store) bool {
	if slices.ContainsFunc(store.GraphOptions(), func(o string) bool { return strings.Contains(o, "mount_program") }) {
		return true
	}
	note, err := os.ReadFile(filepath.Join(store.GraphRoot(), store.GraphDriverName(), ".has-mount-program"))
	return err == nil && strings.TrimSpace(string(note)) == "true"
}

// overlayHas reports whether the driver is overlay and says "true" of something.
func overlayHas(store storage.Store, what string) bool {
	if store.GraphDriverName() != "overlay" {
		return false
	}
	driver, err := store.GraphDriver()
	if err != nil {
		return false
	}
	for _, kv := range driver.Status() {
		if kv[0] == what {
			return kv[1] == "true"
		}
	}
	return false
}

// probePeers asks podman and buildah which driver they use: with another one they
// do not see what zbuild builds.
func probePeers(ctx context.Context, opt Options, driver, graphRoot string) Check {
	c := Check{Name: "podman, buildah", Value: "not installed", Status: StatusOK, Why: "images can be pushed, and used by whatever reads the store"}
	if opt.Root != "" || opt.Driver != "" {
		c.Value, c.Why = "not asked", "the store was named on the command line"
		return c
	}
	for _, peer := range []struct {
		name string
		ask  func(ctx context.Context, graphRoot string) (string, error)
	}{{"podman", podmanDriver}, {"buildah", buildahDriver}} {
		theirs, err := peer.ask(ctx, graphRoot)
		if err != nil || theirs == "" {
			continue
		}
		if theirs != driver {
			fix := "write to ~/.config/containers/storage.conf (root: /etc/containers/storage.conf):\n[storage]\ndriver = \"" + driver + "\""
			if peer.name == "podman" && podmanRemembers(graphRoot) {
				fix += fmt.Sprintf("\nand have podman forget which driver it began with: if 'podman ps -a' has no containers, rm -r %s; else\n"+
					"'podman system reset', which removes all containers and images", filepath.Join(graphRoot, "libpod"))
			}
			return Check{
				Name: c.Name, Value: peer.name + " uses " + theirs, Status: StatusWarn,
				Why: "it does not see the images of a store with the driver " + driver, Fix: fix,
			}
		}
		c.Value, c.Why = "use "+driver+", too", ""
	}
	return c
}

// podmanRemembers reports whether podman has a database in a store. It keeps to the
// driver that it notes there, whatever storage.conf says later.
func podmanRemembers(graphRoot string) bool {
	for _, name := range []string{"libpod", "db.sql"} {
		if _, err := os.Lstat(filepath.Join(graphRoot, name)); err == nil {
			return true
		}
	}
	return false
}

// podmanDriver asks podman for its driver. Even that would make a database; where there
// is none podman is asked about a store of no importance.
func podmanDriver(ctx context.Context, graphRoot string) (string, error) {
	var flags []string
	if !podmanRemembers(graphRoot) {
		dir, remove, err := scratch.New("peer")
		if err != nil {
			return "", err
		}
		defer remove() //nolint:errcheck // the next start tries again
		flags = []string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run")}
	}
	return output(ctx, "podman", append(flags, "info", "--format", "{{.Store.GraphDriverName}}")...)
}

func buildahDriver(ctx context.Context, _ string) (string, error) {
	return output(ctx, "buildah", "info", "--format", "{{.store.GraphDriverName}}")
}

// output is what a program prints, without the space around it.
func output(ctx context.Context, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, args...).Output()
	return strings.TrimSpace(string(out)), err
}

func probeUser() []Check {
	if !unshare.IsRootless() {
		return []Check{{Name: "user", Value: "root", Status: StatusOK, Why: "images go to the system's store"}}
	}
	checks := []Check{{
		Name: "user", Value: fmt.Sprintf("uid %d, rootless", unshare.GetRootlessUID()), Status: StatusOK,
		Why: "images go to the user's own store",
	}}
	uids, gids, err := unshare.GetHostIDMappings("")
	c := Check{Name: "user namespace", Status: StatusOK, Value: fmt.Sprintf("%d ranges of uids, %d of gids", len(uids), len(gids))}
	if err != nil || len(uids) < 2 || len(gids) < 2 {
		c.Status = StatusWarn
		c.Why = "only one uid is mapped: images with files of other users cannot be unpacked, and OCI runtimes do not work"
		c.Fix = rangesAdvice
	}
	return append(checks, c)
}

// rangesAdvice is for an ordinary user without subordinate IDs.
const rangesAdvice = "install uidmap, then: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER"

// runtimeAdvice says what would give a RUN more than a chroot. That a runtime which is
// there does not work is due to what an ordinary user lacks, as a rule.
func runtimeAdvice(iso isolation) string {
	if unshare.IsRootless() {
		uids, gids, err := unshare.GetHostIDMappings("")
		if err != nil || len(uids) < 2 || len(gids) < 2 {
			return rangesAdvice
		}
	}
	if iso.broken {
		return "install another version of the OCI runtime, or one that works in this environment"
	}
	return "install an OCI runtime: apt install runc"
}

func probeIsolation(ctx context.Context, opt Options) Check {
	iso, err := chooseIsolation(ctx, opt)
	if err != nil {
		return Check{Name: "isolation", Status: StatusFail, Why: err.Error()}
	}
	c := Check{Name: "isolation", Value: iso.kind, Status: StatusOK, Why: iso.why}
	if iso.runtime != "" {
		c.Value += ", " + iso.runtime + " (" + strings.TrimSpace(iso.version) + ")"
	}
	if iso.kind == isolationChroot && opt.Isolation == "" {
		c.Status = StatusWarn
		c.Fix = runtimeAdvice(iso)
	}
	return c
}

// probeNetwork says what a RUN has of the network.
func probeNetwork() Check {
	return Check{
		Name: "network of RUN", Value: "host", Status: StatusOK,
		Why: "a RUN uses the machine's network, as with a BuildKit that has no CNI; network = \"none\" cuts it off",
	}
}

func probePlatforms() Check {
	host := platforms.Format(platforms.DefaultSpec())
	found := []string{host}
	for _, arch := range []string{"amd64", "arm64", "arm", "386", "riscv64", "ppc64le", "s390x", "loong64", "mips64le"} {
		if platforms.DefaultSpec().Architecture != arch && emulated(arch) {
			found = append(found, "linux/"+arch)
		}
	}
	c := Check{Name: "platforms", Value: strings.Join(found, ", "), Status: StatusOK}
	if len(found) == 1 {
		c.Why = "a RUN for another platform needs an emulator: apt install qemu-user-static binfmt-support"
	}
	return c
}

func probePolicy() Check {
	if _, err := signature.DefaultPolicy(nil); err != nil {
		if os.IsNotExist(err) {
			return Check{Name: "signature policy", Value: "none", Status: StatusOK, Why: "every image is accepted, as with Docker"}
		}
		return Check{Name: "signature policy", Status: StatusFail, Why: err.Error(), Fix: "mend policy.json; see containers-policy.json(5)"}
	}
	return Check{Name: "signature policy", Value: "policy.json", Status: StatusOK}
}

func probeResources() Check {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return Check{Name: "open files", Status: StatusWarn, Why: err.Error()}
	}
	c := Check{Name: "open files", Value: fmt.Sprintf("%d, at most %d", r.Cur, r.Max), Status: StatusOK}
	if r.Max < 4096 {
		c.Status, c.Fix = StatusWarn, "raise the limit: ulimit -n 65536"
	}
	return c
}
