//go:build linux

package buildah

import (
	"os"
	"path/filepath"
	"testing"

	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// TestDescribedDevice asks about devices by the names that a RUN may have for them.
func TestDescribedDevice(t *testing.T) {
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
	for name, want := range map[string][2]bool{
		"vendor.test/device=kept": {true, false}, "vendor.test/device=free": {true, true}, "net": {true, true},
		"vendor.test/device=*": {true, false}, "vendor.test/device=none": {}, "other.test/device": {}, "": {},
	} {
		if there, free := describedDevice(m, name); there != want[0] || free != want[1] {
			t.Errorf("%q: there %v, free %v, want %v", name, there, free, want)
		}
	}
}
