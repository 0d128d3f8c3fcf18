package watch

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestExhausted is about the complaint that running out of inotify watches or
// instances is badly reported. The limits are those of a user namespace of its own,
// in which this program runs again.
func TestExhausted(t *testing.T) {
	if os.Getenv("ZBUILD_TEST_EXHAUSTED") != "" {
		exhaustedInside(t)
		return
	}
	for _, tt := range []struct {
		limit string
		max   int
		want  []string
	}{
		{"max_inotify_watches", 3, []string{"directories are to be watched", "the limit of 3 inotify watches", "sysctl fs.inotify.max_user_watches="}},
		{"max_inotify_instances", 0, []string{"inotify instances", "sysctl fs.inotify.max_user_instances="}},
	} {
		t.Run(tt.limit, func(t *testing.T) {
			out := exhausting(t, "^TestExhausted$", fmt.Sprintf("/proc/sys/user/%s=%d", tt.limit, tt.max))
			for _, w := range tt.want {
				if !strings.Contains(out, w) {
					t.Errorf("no %q in\n%s", w, out)
				}
			}
		})
	}
}

func exhaustedInside(t *testing.T) {
	file, value, _ := strings.Cut(os.Getenv("ZBUILD_TEST_EXHAUSTED"), "=")
	if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var told []Degradation
	s := watching(t, Options{Quiet: 30 * time.Millisecond, Degraded: func(d Degradation) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, d)
	}}, func(set *Set) {
		for i := range 10 {
			if err := os.MkdirAll(filepath.Join(set.Top, "src", strconv.Itoa(i)), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	})
	stats, err := s.w.Stats()
	s.check(err)
	// Everything is watched all the same, what is new too.
	if !stats.Polling || stats.Directories < 13 {
		t.Errorf("%+v", stats)
	}
	s.write("src/9/file", "1")
	s.collect("src/9/file")
	s.write("src/new/deep/file", "1")
	s.collect("src/new/deep/file", "src/new")
	mu.Lock()
	defer mu.Unlock()
	if len(told) != 1 {
		t.Fatalf("told %d times: %+v", len(told), told)
	}
	t.Logf("%s; %s", told[0].Reason, told[0].Advice)
}

// What the system has told and nobody has read yet is lost when polling takes its place.
func TestExhaustedLater(t *testing.T) {
	if os.Getenv("ZBUILD_TEST_EXHAUSTED") == "" {
		exhausting(t, "^TestExhaustedLater$", "/proc/sys/user/max_inotify_watches=8")
		return
	}
	file, value, _ := strings.Cut(os.Getenv("ZBUILD_TEST_EXHAUSTED"), "=")
	if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
		t.Fatal(err)
	}
	entered, release := make(chan bool), make(chan bool)
	var once sync.Once
	s := watching(t, Options{Quiet: 30 * time.Millisecond}, func(set *Set) {
		set.Passive = func(string) bool {
			once.Do(func() { entered <- true; <-release })
			return false
		}
	})
	stats, err := s.w.Stats()
	s.check(err)
	if stats.Polling {
		t.Fatal("there are watches enough at first")
	}
	s.write("src/stop", "1")
	<-entered
	s.write("src/1/2/3/4/5/6/7/8/9/file", "1")
	s.write("src/a/b/file", "22")
	close(release)
	for deadline := time.After(time.Minute); ; {
		select {
		case b := <-s.w.Batches():
			if b.Rescan || slices.Contains(b.Paths, s.path("src/a/b/file")) {
				return
			}
		case <-deadline:
			t.Fatal("a change was lost, and nobody says so")
		}
	}
}

// exhausting runs a test of this program in a user namespace of its own.
func exhausting(t *testing.T, test, limit string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run="+test, "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), "ZBUILD_TEST_EXHAUSTED="+limit)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// The kernel's queue overflows while nobody reads it: then all is looked at, and
// everything after that is told again.
func TestOverflow(t *testing.T) {
	raw, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	if err != nil {
		t.Fatal(err)
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	entered, release := make(chan bool), make(chan bool)
	var once sync.Once
	s := watching(t, Options{Quiet: 30 * time.Millisecond}, func(set *Set) {
		set.Passive = func(string) bool {
			once.Do(func() { entered <- true; <-release })
			return false
		}
	})
	s.write("src/stop", "1")
	<-entered
	// Two events for each link, and what the library has read already.
	s.write("src/a/link", "1")
	for range most/2 + 4096 {
		s.check(os.Link(s.path("src/stop"), s.path("src/a/new")))
		s.check(os.Remove(s.path("src/a/new")))
	}
	s.write("src/late/deep/file", "1")
	close(release)
	for deadline := time.After(time.Minute); ; {
		var b Batch
		select {
		case b = <-s.w.Batches():
		case <-deadline:
			t.Fatal("nobody says that changes were lost")
		}
		if b.Rescan {
			break
		}
	}
	s.settled()
	s.write("src/late/deep/file", "22") // in a directory whose coming was lost
	s.collect("src/late/deep/file")
}

// Files that run out while watching begins are a lack of instances, too.
func TestExhaustedErrors(t *testing.T) {
	for err, want := range map[error]bool{
		syscall.ENOSPC: true, syscall.EMFILE: true, syscall.ENFILE: true, syscall.ENOENT: false, errors.New("x"): false,
	} {
		if got := exhausted(&os.PathError{Op: "inotify_add_watch", Err: err}); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
	for magic, want := range map[int64]string{0x6969: "NFS", 0x01021997: "9p", 0xff534d42: "SMB", 0xef53: ""} {
		if got := remoteType(magic); got != want {
			t.Errorf("%#x is %q", magic, got)
		}
	}
}
