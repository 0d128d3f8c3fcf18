//go:build linux

package buildah

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/zbuild/zbuild/planner"
)

// TestDevicesOf asks about devices by the names that a RUN may have for them.
func TestDevicesOf(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "test.yaml"), []byte(`
cdiVersion: "0.6.0"
kind: "vendor.test/device"
devices:
  - name: kept
    containerEdits: { env: ["A=1"] }
  - name: free
    annotations:
      org.mobyproject.buildkit.device.class: net
      org.mobyproject.buildkit.device.autoallow: "true"
    containerEdits: { env: ["B=1"] }
`), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := describedDevices(cdi.WithSpecDirs(dir))
	if err != nil {
		t.Fatal(err)
	}
	kept, free := planner.Device{Name: "vendor.test/device=kept"}, planner.Device{Name: "vendor.test/device=free", Free: true}
	for name, want := range map[string][]planner.Device{
		"vendor.test/device=kept": {kept}, "vendor.test/device=free": {free}, "net": {free}, "vendor.test/device": {free},
		"vendor.test/device=*": {free, kept}, "vendor.test/device=none": nil, "other.test/device": nil, "": nil,
	} {
		if got := devicesOf(m, name); !slices.Equal(got, want) {
			t.Errorf("%q stands for %v, want %v", name, got, want)
		}
	}
}
