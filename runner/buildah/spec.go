//go:build linux

package buildah

// What a process inside sees: the same as under "buildah run", so that a
// Dockerfile that builds there builds here. The values come from containers.conf
// where it has them.

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	rootfs "github.com/containerd/continuity/fs"
	"github.com/docker/go-units"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"go.podman.io/common/pkg/config"
	"go.podman.io/storage/pkg/unshare"
	"golang.org/x/sys/unix"
)

// network is what a RUN has of the network.
type network string

const (
	networkHost network = "host"
	networkNone network = "none"
)

func inUserNamespace() bool { return unshare.IsRootless() || os.Geteuid() != 0 }

// baseSpec is the part of a container's description that is the same for every
// RUN.
func baseSpec(rootless bool, net network) *specs.Spec {
	spec := &specs.Spec{
		Version: "1.0.2", // the newest that runc 1.1 and crun 1.8 accept
		Root:    &specs.Root{},
		Process: &specs.Process{
			Capabilities: capabilities(nil),
			Rlimits:      rlimits(),
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
			},
			MaskedPaths:   config.DefaultMaskedPaths(),
			ReadonlyPaths: slices.Clone(config.DefaultReadOnlyPaths),
		},
	}
	if net == networkNone {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	}
	if rootless {
		if net != networkNone {
			// sysfs shows the network; whoever does not own that may not mount it.
			spec.Mounts[5] = specs.Mount{
				Destination: "/sys", Type: "bind", Source: "/sys",
				Options: []string{"rprivate", "nosuid", "noexec", "nodev", "ro", "rbind"},
			}
		}
	} else {
		spec.Linux.Resources = &specs.LinuxResources{
			Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
		}
		spec.Mounts = append(spec.Mounts, specs.Mount{
			Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
			Options: []string{"rprivate", "nosuid", "noexec", "nodev", "relatime", "ro"},
		})
	}
	return spec
}

// capabilities are those that Docker and BuildKit give root: Dockerfiles have
// come to expect more (CAP_MKNOD, CAP_NET_RAW, CAP_AUDIT_WRITE) than podman's
// containers have by default. What somebody has put into containers.conf holds.
func capabilities(add []string) *specs.LinuxCapabilities {
	caps := []string{
		"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
		"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
	}
	if conf, err := config.Default(); err == nil {
		configured, err := conf.Capabilities("", nil, nil)
		if err == nil && len(configured) > 0 && !slices.Equal(configured, config.DefaultCapabilities) {
			caps = configured
		}
	}
	caps = append(slices.Clone(caps), add...)
	slices.Sort(caps)
	caps = slices.Compact(caps)
	return &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
}

// rlimits are this process's own: without CAP_SYS_RESOURCE nothing higher can be
// set, and a runtime that is told nothing may try to.
func rlimits() []specs.POSIXRlimit {
	var out []specs.POSIXRlimit
	const most = 1 << 20
	for _, l := range []struct {
		name string
		id   int
	}{{"RLIMIT_NOFILE", unix.RLIMIT_NOFILE}, {"RLIMIT_NPROC", unix.RLIMIT_NPROC}} {
		var r unix.Rlimit
		if err := unix.Getrlimit(l.id, &r); err != nil {
			continue
		}
		limit := min(r.Max, most)
		out = append(out, specs.POSIXRlimit{Type: l.name, Hard: limit, Soft: limit})
	}
	return out
}

// setProcess fills in what the RUN says of its process. root is the mounted tree,
// in which users are looked up.
func setProcess(spec *specs.Spec, meta *pb.Meta, proxy *pb.ProxyEnv, root string) error {
	u, err := lookupUser(root, meta.User)
	if err != nil {
		return err
	}
	p := spec.Process
	p.User = specs.User{UID: uint32(u.Uid), GID: uint32(u.Gid)}
	// As initgroups(3) does it, the main group is one of the list.
	if !slices.Contains(u.Sgids, u.Gid) {
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(u.Gid))
	}
	for _, g := range u.Sgids {
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(g))
	}
	if u.Uid != 0 {
		// As execve does it: only root's process starts with capabilities in effect.
		p.Capabilities = &specs.LinuxCapabilities{Bounding: p.Capabilities.Bounding}
	}
	p.Args = meta.Args
	p.Cwd = meta.Cwd
	if p.Cwd == "" {
		p.Cwd = "/"
	}
	p.Env = slices.Clone(meta.Env)
	if !slices.ContainsFunc(p.Env, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") }) {
		p.Env = append(p.Env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	p.Env = append(p.Env, proxies(proxy)...)
	if !slices.ContainsFunc(p.Env, func(kv string) bool { return strings.HasPrefix(kv, "HOME=") }) {
		p.Env = append(p.Env, "HOME="+u.Home)
	}
	spec.Hostname = meta.Hostname
	if spec.Hostname == "" {
		spec.Hostname = "buildkitsandbox" // what BuildKit calls it, and Dockerfiles may have come to expect
	}
	for _, ul := range meta.Ulimit {
		one := units.Ulimit{Name: ul.Name, Soft: ul.Soft, Hard: ul.Hard}
		if _, err := one.GetRlimit(); err != nil {
			return fmt.Errorf("ulimit %s: %w", ul.Name, err)
		}
		name := "RLIMIT_" + strings.ToUpper(ul.Name)
		p.Rlimits = slices.DeleteFunc(p.Rlimits, func(r specs.POSIXRlimit) bool { return r.Type == name })
		p.Rlimits = append(p.Rlimits, specs.POSIXRlimit{Type: name, Hard: uint64(ul.Hard), Soft: uint64(ul.Soft)})
	}
	return nil
}

func proxies(p *pb.ProxyEnv) []string {
	if p == nil {
		return nil
	}
	var out []string
	for _, v := range []struct{ name, value string }{
		{"HTTP_PROXY", p.HttpProxy},
		{"HTTPS_PROXY", p.HttpsProxy},
		{"FTP_PROXY", p.FtpProxy},
		{"NO_PROXY", p.NoProxy},
		{"ALL_PROXY", p.AllProxy},
	} {
		if v.value != "" {
			out = append(out, v.name+"="+v.value, strings.ToLower(v.name)+"="+v.value)
		}
	}
	return out
}

// setSeccomp filters system calls by the profile that containerd and Docker use
// by default; it depends on the capabilities, so it comes last. x32 says whether
// the kernel has that kind of them.
func setSeccomp(spec *specs.Spec, x32 bool) {
	spec.Linux.Seccomp = seccomp.DefaultProfile(spec)
	withoutMissing(spec.Linux.Seccomp, x32)
}

// bind is a bind mount of a host path.
func bind(src, dest string, readonly bool) specs.Mount {
	opts := []string{"rbind", "rprivate"}
	if readonly {
		opts = append(opts, "ro")
	}
	return specs.Mount{Type: "bind", Source: src, Destination: filepath.Clean("/" + dest), Options: opts}
}

// makeCwd makes the working directory if an earlier step has removed it. It
// belongs to the process, which the runtime's own would not.
func makeCwd(p *specs.Process, root string) error {
	dir, err := rootfs.RootPath(root, p.Cwd)
	if err != nil {
		return fmt.Errorf("the working directory %s: %w", p.Cwd, err)
	}
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := user.MkdirAllAndChown(dir, 0o755, int(p.User.UID), int(p.User.GID)); err != nil {
		return fmt.Errorf("making the working directory %s: %w", p.Cwd, hideRoots(err, root))
	}
	return nil
}
