package conformance_test

import (
	"archive/tar"
	"context"
	"maps"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/zbuild/zbuild/test/registry"
)

// pushBases fills the registry with the images that cases are built on:
//
//	busybox      a system; also as busybox:1.36
//	configured   busybox with everything that a configuration can have
//	triggers     busybox with ONBUILD
//	layered      busybox with two layers of files that hide one another
//	files        a few files and no system
//
// aliases are more names for busybox.
func pushBases(ctx context.Context, reg *registry.Registry, aliases []string) error {
	busybox, err := registry.Busybox(ctx)
	if err != nil {
		return err
	}
	layers, err := busybox.Layers()
	if err != nil {
		return err
	}
	file, err := busybox.ConfigFile()
	if err != nil {
		return err
	}
	images := map[string]v1.Image{"library/busybox:latest": busybox, "library/busybox:1.36": busybox}
	for _, name := range aliases {
		images["library/"+name] = busybox
	}
	for name, config := range configurations(file.Config) {
		if images["library/"+name+":latest"], err = registry.Image(config, layers...); err != nil {
			return err
		}
	}
	lower, err := registry.Layer(lowerFiles())
	if err != nil {
		return err
	}
	upper, err := registry.Layer(upperFiles())
	if err != nil {
		return err
	}
	if images["library/layered:latest"], err = registry.Image(file.Config, append(slices.Clip(layers), lower, upper)...); err != nil {
		return err
	}
	if images["library/files:latest"], err = registry.Image(v1.Config{}, lower); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(images)) {
		if err := reg.Push(ctx, name, images[name]); err != nil {
			return err
		}
	}
	return nil
}

func configurations(base v1.Config) map[string]v1.Config {
	configured := *base.DeepCopy()
	configured.User = "app:mail"
	configured.WorkingDir = "/home/app"
	configured.Env = append(configured.Env, "BASE=yes", "EMPTY=", "SPACES=a b  c", `QUOTES="x" 'y'`)
	configured.Entrypoint = []string{"/bin/sh", "-c"}
	configured.Cmd = []string{"echo base"}
	configured.Labels = map[string]string{"base": "yes", "org.example.name": "configured"}
	configured.ExposedPorts = map[string]struct{}{"80/tcp": {}, "53/udp": {}}
	configured.Volumes = map[string]struct{}{"/data": {}}
	configured.StopSignal = "SIGQUIT"
	configured.Shell = []string{"/bin/ash", "-c"}
	configured.Healthcheck = &v1.HealthConfig{Test: []string{"CMD-SHELL", "true"}, Interval: 5 * time.Second, Retries: 2}

	triggers := *base.DeepCopy()
	triggers.OnBuild = []string{"ARG WHAT=triggered", "COPY context.txt /onbuild/", "RUN echo $WHAT > /onbuild/run", "ENV ONBUILD=ran", "LABEL trigger=yes"}
	return map[string]v1.Config{"configured": configured, "triggers": triggers}
}

func dir(name string, mode int64) registry.File {
	return registry.File{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}}
}

func text(name, content string) registry.File {
	return registry.File{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, Content: []byte(content)}
}

func symlink(name, target string) registry.File {
	return registry.File{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

// lowerFiles are files of every kind.
func lowerFiles() []registry.File {
	suid := text("srv/suid", "suid\n")
	suid.Mode = 0o4755
	owned := text("srv/owned", "owned\n")
	owned.Uid, owned.Gid, owned.Mode = 1000, 8, 0o640
	attrs := text("srv/attrs", "attrs\n")
	attrs.PAXRecords = map[string]string{"SCHILY.xattr.user.color": "blue"}
	capable := text("srv/capable", "capable\n")
	capable.Mode = 0o755
	// cap_net_raw, effective and permitted, version 2.
	capable.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}
	sticky := dir("srv/sticky/", 0o1777)
	setgid := dir("srv/setgid/", 0o2775)
	setgid.Gid = 8
	return []registry.File{
		dir("srv/", 0o755),
		text("srv/plain", "plain\n"), suid, owned, attrs, capable, sticky, setgid,
		{Header: tar.Header{Typeflag: tar.TypeLink, Name: "srv/hard", Linkname: "srv/plain", Mode: 0o644}},
		{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "srv/fifo", Mode: 0o600}},
		symlink("srv/relative", "plain"), symlink("srv/absolute", "/srv/plain"), symlink("srv/dangling", "nowhere"),
		symlink("srv/to-dir", "dir"), symlink("srv/outside", "../../../../etc/passwd"),
		dir("srv/dir/", 0o750),
		text("srv/dir/a", "lower a\n"), text("srv/dir/b", "lower b\n"),
		dir("srv/hidden/", 0o755),
		text("srv/hidden/1", "hidden 1\n"), text("srv/hidden/2", "hidden 2\n"),
		dir("srv/becomes-file/", 0o755), text("srv/becomes-file/x", "x\n"),
		text("srv/becomes-dir", "was a file\n"),
	}
}

// upperFiles hide, replace and add to lowerFiles.
func upperFiles() []registry.File {
	return []registry.File{
		dir("srv/", 0o755),
		dir("srv/dir/", 0o755),
		text("srv/dir/.wh.a", ""), text("srv/dir/b", "upper b\n"), text("srv/dir/c", "upper c\n"),
		dir("srv/hidden/", 0o711), text("srv/hidden/.wh..wh..opq", ""), text("srv/hidden/3", "upper 3\n"),
		text("srv/becomes-file", "a file now\n"),
		dir("srv/becomes-dir/", 0o700), text("srv/becomes-dir/y", "y\n"),
	}
}
