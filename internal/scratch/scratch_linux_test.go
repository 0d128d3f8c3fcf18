package scratch

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestSweep kills a process that has a directory. The next sweep removes that, and
// none of those who live.
func TestSweep(t *testing.T) {
	if os.Getenv("ZBUILD_TEST_VICTIM") != "" {
		dir, _, err := New("victim")
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("dir=" + dir)
		time.Sleep(time.Hour)
	}
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	mine, remove, err := New("mine")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestSweep$")
	cmd.Env = append(os.Environ(), "ZBUILD_TEST_VICTIM=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	dir := strings.TrimPrefix(strings.TrimSpace(line), "dir=")
	if err != nil || filepath.Dir(dir) != filepath.Dir(mine) {
		t.Fatalf("%q: %v", line, err)
	}
	sweep := func() {
		t.Helper()
		if err := Sweep(); err != nil {
			t.Fatal(err)
		}
	}
	sweep()
	for _, d := range []string{mine, dir} {
		if _, err := os.Lstat(d); err != nil {
			t.Errorf("the directory of one who lives: %v", err)
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	sweep()
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory of the dead: %v", err)
	}
	if _, err := os.Lstat(mine); err != nil {
		t.Error(err)
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	sweep()
}

// TestUnborn leaves a directory that its process has not come to locking, at several
// times, as a clock that jumps makes them. Only one of just now may still be locked.
func TestUnborn(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	_, remove, err := New("mine") // so that the common directory stays
	if err != nil {
		t.Fatal(err)
	}
	for age, stays := range map[time.Duration]bool{0: true, 48 * time.Hour: false, -48 * time.Hour: false} {
		dir := filepath.Join(commonName(), newPrefix+"1")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		if err := os.Chtimes(dir, at, at); err != nil {
			t.Fatal(err)
		}
		if err := Sweep(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(dir); (err == nil) != stays {
			t.Errorf("one that is %v old: %v", age, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
}

// TestTaken has the common directory be somebody else's: a link, or open to all.
func TestTaken(t *testing.T) {
	elsewhere := t.TempDir()
	for what, take := range map[string]func(name string) error{
		"a link":      func(name string) error { return os.Symlink(elsewhere, name) },
		"a file":      func(name string) error { return os.WriteFile(name, nil, 0o600) },
		"open to all": func(name string) error { return os.Mkdir(name, 0o755) },
	} {
		t.Setenv("TMPDIR", t.TempDir())
		if err := take(commonName()); err != nil {
			t.Fatal(err)
		}
		dir, remove, err := New("x")
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if strings.HasPrefix(dir, commonName()+"/") {
			t.Errorf("%s is used: %s", what, dir)
		}
		if err := Sweep(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if err := remove(); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(elsewhere); err != nil || len(left) > 0 {
		t.Errorf("where the link leads there is %v, %v", left, err)
	}
}
