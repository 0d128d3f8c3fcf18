//go:build linux

package buildah

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"go.podman.io/common/libnetwork/resolvconf"
)

// setNames gives the container its /etc/hosts and /etc/resolv.conf, unless the Dockerfile
// mounts others there.
func (x *execJob) setNames() error {
	hosts := filepath.Join(x.bundle, "hosts")
	if err := os.WriteFile(hosts, []byte(hostsFile(x.spec.Hostname, x.op.Meta.ExtraHosts)), 0o600); err != nil {
		return fmt.Errorf("writing /etc/hosts: %w", err)
	}
	resolv := filepath.Join(x.bundle, "resolv.conf")
	err := resolvconf.New(&resolvconf.Params{
		Path: resolv, Namespaces: x.spec.Linux.Namespaces, IPv6Enabled: true,
		KeepHostServers: true, KeepHostSearches: true, KeepHostOptions: true,
	})
	if err != nil {
		return fmt.Errorf("writing /etc/resolv.conf: %w", err)
	}
	for _, f := range []string{hosts, resolv} {
		if err := os.Chmod(f, 0o644); err != nil {
			return err
		}
	}
	for _, own := range []specs.Mount{bind(resolv, "/etc/resolv.conf", true), bind(hosts, "/etc/hosts", true)} {
		if !slices.ContainsFunc(x.mounts, func(m specs.Mount) bool { return m.Destination == own.Destination }) {
			x.mounts = append(x.mounts, own)
		}
	}
	return nil
}

// hostsFile is the same on every machine, as BuildKit's is: the machine's own names
// are nothing that a build could depend on.
func hostsFile(hostname string, extra []*pb.HostIP) string {
	var b strings.Builder
	fmt.Fprintf(&b, "127.0.0.1\tlocalhost %s\n::1\tlocalhost ip6-localhost ip6-loopback\n", hostname)
	for _, h := range extra {
		fmt.Fprintf(&b, "%s\t%s\n", h.IP, h.Host)
	}
	return b.String()
}
