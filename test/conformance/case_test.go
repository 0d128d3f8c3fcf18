package conformance_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/tools/txtar"
)

// testCase is a file of testdata, or a directory of somebody else's. Whether that
// can be built is not known: it is built by both, or by neither.
type testCase struct {
	name    string
	dir     string         // of a case that is a directory
	fails   *regexp.Regexp // nil if it can be built
	targets []string
	env     []string
	archive *txtar.Archive
}

const onlyTarget = "target \"default\" {}\n"

// readCases reads the archives of a directory, and its directories.
func readCases(dir string) ([]*testCase, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []*testCase
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case e.IsDir():
			out = append(out, &testCase{name: e.Name(), dir: path, targets: []string{"default"}, archive: &txtar.Archive{}})
		case filepath.Ext(path) == ".txtar":
			c, err := readCase(path)
			if err != nil {
				return nil, err
			}
			out = append(out, c)
		}
	}
	return out, nil
}

func (c *testCase) comment() string { return string(c.archive.Comment) }

func readCase(file string) (*testCase, error) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		return nil, err
	}
	c := &testCase{name: strings.TrimSuffix(filepath.Base(file), ".txtar"), archive: archive}
	for line := range strings.Lines(string(archive.Comment)) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "fails":
			if c.fails, err = regexp.Compile(value); err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
		case "targets":
			c.targets = strings.Fields(value)
		case "env":
			c.env = append(c.env, value)
		}
	}
	if len(c.targets) == 0 {
		c.targets = []string{"default"}
	}
	return c, nil
}

// unpack writes the case's files into a directory.
func (c *testCase) unpack(ctx context.Context, dir string, places *strings.Replacer) error {
	hasTargets, hasSetup := false, false
	if c.dir != "" {
		if out, err := exec.CommandContext(ctx, "cp", "-a", c.dir+"/.", dir).CombinedOutput(); err != nil {
			return fmt.Errorf("cp: %w\n%s", err, out)
		}
		_, err := os.Stat(filepath.Join(dir, "zbuild.hcl"))
		hasTargets = err == nil
	}
	for _, f := range c.archive.Files {
		if strings.HasPrefix(f.Name, "again/") {
			continue
		}
		hasTargets = hasTargets || f.Name == "zbuild.hcl"
		hasSetup = hasSetup || f.Name == "setup.sh"
		if err := write(dir, f, places); err != nil {
			return err
		}
	}
	if !hasTargets {
		if err := write(dir, txtar.File{Name: "zbuild.hcl", Data: []byte(onlyTarget)}, places); err != nil {
			return err
		}
	}
	if hasSetup {
		setup := exec.CommandContext(ctx, "sh", "-eu", "setup.sh")
		setup.Dir = dir
		if out, err := setup.CombinedOutput(); err != nil {
			return fmt.Errorf("setup.sh: %w\n%s", err, out)
		}
		if err := os.Remove(filepath.Join(dir, "setup.sh")); err != nil {
			return err
		}
	}
	return age(dir)
}

// again puts the files of again/ over the others. It says whether there are any.
func (c *testCase) again(dir string, places *strings.Replacer) (bool, error) {
	found := false
	for _, f := range c.archive.Files {
		name, ok := strings.CutPrefix(f.Name, "again/")
		if !ok {
			continue
		}
		found = true
		if len(f.Data) == 0 {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				return false, err
			}
			continue
		}
		if err := write(dir, txtar.File{Name: name, Data: f.Data}, places); err != nil {
			return false, err
		}
	}
	return found, nil
}

func write(dir string, f txtar.File, places *strings.Replacer) error {
	path := filepath.Join(dir, f.Name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(places.Replace(string(f.Data))), 0o644)
}

// age gives every file a time of its own: old, so that it cannot be taken for one
// of the test's.
func age(dir string) error {
	at := time.Date(2021, 2, 3, 4, 5, 6, 0, time.UTC)
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at = at.Add(time.Hour + time.Second)
		times := []unix.Timespec{{Sec: at.Unix()}, {Sec: at.Unix()}}
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW)
	})
}
