package torture

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// project is a monorepo: services on a shared base, each with some files of its
// own and some of a stage that makes them.
type project struct {
	t        *testing.T
	dir      string
	services []string
}

// newProject makes a project with n services. heavy RUNs write more files.
func newProject(t *testing.T, n, files int) *project {
	t.Helper()
	p := &project{t: t, dir: t.TempDir()}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal("busybox is missing: install the package busybox-static")
	}
	raw, err := os.ReadFile(busybox)
	must(t, err)
	p.write("rootfs/bin/busybox", string(raw), 0o755)
	var hcl strings.Builder
	for i := range n {
		name := fmt.Sprintf("svc%02d", i)
		p.services = append(p.services, name)
		fmt.Fprintf(&hcl, "target %q {\n  inherits = [\"_common\"]\n  args = { SERVICE = %q }\n  tags = [\"localhost/%s\"]\n}\n", name, name, name)
		p.service(name, 0)
	}
	fmt.Fprintf(&hcl, "target \"_common\" {}\ngroup \"default\" { targets = [\"%s\"] }\n", strings.Join(p.services, "\", \""))
	p.write("zbuild.hcl", hcl.String(), 0o644)
	p.base(0)
	// Neither --install nor a loop fails by itself if a file cannot be made; a RUN that
	// pretends to have succeeded has a result that is rightly kept.
	p.write("Dockerfile", fmt.Sprintf(`FROM scratch AS busybox
COPY rootfs /
RUN ["/bin/busybox", "sh", "-c", "busybox --install -s /bin; for a in $(busybox --list); do [ -e /bin/$a ] || exit 1; done"]

FROM busybox AS base
COPY base.txt /base.txt
RUN mkdir -p /opt/a && cd /opt/a && for i in $(seq %[1]d); do echo $i > f$i || exit 1; done
RUN mkdir -p /opt/b && cat /base.txt /opt/a/f1 > /opt/b/x

FROM busybox AS tools
COPY base.txt /base.txt
RUN mkdir /tools && wc -l /base.txt > /tools/lines

FROM base
ARG SERVICE
COPY services/${SERVICE} /app
RUN cat /app/*.txt /base.txt > /app/all
COPY --from=tools /tools /tools
RUN --mount=type=bind,source=services/${SERVICE},target=/mounted cat /mounted/*.txt > /app/mounted
RUN --mount=type=cache,target=/cache echo $SERVICE >> /cache/seen && cat /tools/lines /app/all > /app/end
CMD ["cat", "/app/end"]
`, files), 0o644)
	return p
}

func (p *project) write(name, text string, mode os.FileMode) {
	p.t.Helper()
	full := filepath.Join(p.dir, name)
	must(p.t, os.MkdirAll(filepath.Dir(full), 0o755))
	must(p.t, os.WriteFile(full, []byte(text), mode))
}

// base and service set what a version of theirs says.
func (p *project) base(version int) {
	p.write("base.txt", fmt.Sprintf("base %d\n", version), 0o644)
}

func (p *project) service(name string, version int) {
	for f := range 3 {
		p.write(fmt.Sprintf("services/%s/f%d.txt", name, f), fmt.Sprintf("%s %d %d\n", name, f, version), 0o644)
	}
}
