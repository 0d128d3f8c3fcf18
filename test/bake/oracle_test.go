package bake

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/docker/buildx/commands"
	"github.com/docker/cli/cli/command"
)

// oracleEnv makes this test binary buildx: TestMain looks for it.
const oracleEnv = "ZBUILD_TEST_ORACLE"

// zbuildPath is the zbuild that TestMain built.
var zbuildPath string

func TestMain(m *testing.M) {
	if os.Getenv(oracleEnv) != "" {
		os.Exit(buildx(os.Args[1:]))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "zbuild-oracle-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	zbuildPath = filepath.Join(dir, "zbuild")
	// It is a module of its own: that of the tests would mix its versions in.
	build := exec.Command("go", "build", "-o", zbuildPath, "./cmd/zbuild")
	build.Dir = filepath.Join("..", "..")
	build.Stdout, build.Stderr = os.Stdout, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building zbuild:", err)
		return 1
	}
	return m.Run()
}

// buildx is buildx's main without its plugin protocol.
func buildx(args []string) int {
	cli, err := command.NewDockerCli()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	root := commands.NewRootCmd("buildx", false, cli)
	root.SetArgs(args)
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "ERROR:", err)
		return 1
	}
	return 0
}

// evaluation is one call of bake: what to call it with, and where.
type evaluation struct {
	dir   string
	args  []string // after "bake"
	env   []string
	stdin string
}

// outcome is what came of an evaluation.
type outcome struct {
	ok     bool
	stdout []byte
	stderr string
}

// bake evaluates with buildx, zbuild with zbuild.
func (e *evaluation) bake(t testing.TB) outcome {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return e.run(t, self, oracleEnv+"=1")
}

func (e *evaluation) zbuild(t testing.TB) outcome {
	t.Helper()
	return e.run(t, zbuildPath)
}

func (e *evaluation) run(t testing.TB, program string, extra ...string) outcome {
	t.Helper()
	cmd := exec.Command(program, append([]string{"bake"}, e.args...)...)
	cmd.Dir = e.dir
	// Nothing of the machine's: an agent, a configuration, a variable that a case
	// happens to name.
	home := filepath.Join(filepath.Dir(e.dir), "home")
	cmd.Env = slices.Concat([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "DOCKER_CONFIG=" + home, "BUILDX_CONFIG=" + home, "TMPDIR=" + os.TempDir(),
		"BUILDKIT_PROGRESS=plain",
	}, extra, e.env)
	cmd.Stdin = strings.NewReader(e.stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{ok: err == nil, stdout: stdout.Bytes(), stderr: stderr.String()}
}

// definition is what bake prints. Its lists whose order bake leaves to chance, as
// it goes through maps to make them, are sorted by unordered.
type definition map[string]any

// decode decodes what was printed.
func decode(stdout []byte) (definition, error) {
	var d definition
	if err := json.Unmarshal(stdout, &d); err != nil {
		return nil, fmt.Errorf("%w:\n%s", err, stdout)
	}
	d.unordered()
	return d, nil
}

// unordered sorts the members of groups (a matrix makes them, and the services of
// a Compose file), and what Compose's maps become, limits, and what links hand
// on, entitlements.
func (d definition) unordered() {
	for kind, keys := range map[string][]string{"group": {"targets"}, "target": {"ulimits", "entitlements"}} {
		all, _ := d[kind].(map[string]any)
		for _, one := range all {
			attributes, _ := one.(map[string]any)
			for _, key := range keys {
				if list, ok := attributes[key].([]any); ok {
					slices.SortFunc(list, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
				}
			}
		}
	}
}
