package torture

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.podman.io/storage/pkg/reexec"
	"go.podman.io/storage/pkg/unshare"
)

var (
	long  = flag.Bool("long", false, "the long form of every test: hours")
	seed  = flag.Uint64("seed", 0, "seed of what is chosen at random; 0 takes one from the clock")
	drive = flag.String("driver", "overlay", "how stores keep layers: overlay, vfs, or fuse for overlay by way of fuse-overlayfs")
	built = flag.String("zbuild", "", "the path of a zbuild that is built already, for a user who cannot; empty builds one")
	count = flag.Int("count-of", 0, "how often a test does what it does; 0 is what its form says")
)

// binary is the zbuild that is put to the test.
var binary string

func TestMain(m *testing.M) {
	if reexec.Init() {
		return
	}
	flag.Parse()
	unshare.MaybeReexecUsingUserNamespace(false)
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if binary = *built; binary != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "zbuild-torture-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "zbuild")
	build := exec.Command("go", "build", "-o", binary, "../cmd/zbuild")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building zbuild: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// random gives the numbers that a test takes its choices from. The short form makes the
// same choices each time: what it finds is then of the change that it is run for.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	n := *seed
	if n == 0 && !*long {
		n = 1
	}
	if n == 0 {
		n = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", n)
	return rand.New(rand.NewPCG(n, 0))
}

// times is how often a test does what it does.
func times(short, whenLong int) int {
	switch {
	case *count > 0:
		return *count
	case *long:
		return whenLong
	}
	return short
}
