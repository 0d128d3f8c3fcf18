package beneath

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree makes a directory with a file three levels down, and one outside with a
// secret at the same place.
func tree(t *testing.T) (dir, outside string) {
	t.Helper()
	top := t.TempDir()
	dir, outside = filepath.Join(top, "in"), filepath.Join(top, "out")
	for d, text := range map[string]string{dir: "inside", outside: "outside"} {
		must(t, os.MkdirAll(filepath.Join(d, "a/b"), 0o755))
		must(t, os.WriteFile(filepath.Join(d, "a/b/f"), []byte(text), 0o644))
	}
	return dir, outside
}

// ways are the ways in which names are looked up.
var ways = map[string]func(d *Dir, name string, flags int) (int, error){
	"at once": func(d *Dir, name string, flags int) (int, error) { return d.Descriptor(name, flags) },
	"stepwise": func(d *Dir, name string, flags int) (int, error) {
		return d.stepwise(name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	},
}

func TestLinksAreNotFollowed(t *testing.T) {
	for way, open := range ways {
		for _, level := range []string{"a", "a/b", "a/b/f"} {
			dir, outside := tree(t)
			// A link to the outside, one to the inside, one up, one to the root directory.
			for _, target := range []string{filepath.Join(outside, level), filepath.Join(dir, "elsewhere"), "../../../out", "/"} {
				must(t, os.Rename(filepath.Join(dir, level), filepath.Join(dir, "elsewhere")))
				must(t, os.Symlink(target, filepath.Join(dir, level)))
				d, err := Open(dir)
				must(t, err)
				if fd, err := open(d, "a/b/f", unix.O_RDONLY); err == nil {
					t.Errorf("%s: %s -> %s was followed", way, level, target)
					must(t, unix.Close(fd))
				}
				fd, err := open(d, level, unix.O_PATH)
				if err != nil {
					t.Errorf("%s: the link %s itself: %v", way, level, err)
				} else {
					must(t, unix.Close(fd))
				}
				if got, err := d.Readlink(level); err != nil || got != target {
					t.Errorf("%s leads to %q, %v, want %q", level, got, err, target)
				}
				must(t, d.Close())
				must(t, os.Remove(filepath.Join(dir, level)))
				must(t, os.Rename(filepath.Join(dir, "elsewhere"), filepath.Join(dir, level)))
			}
		}
	}
}

func TestNamesStayBelow(t *testing.T) {
	dir, _ := tree(t)
	d, err := Open(dir)
	must(t, err)
	defer d.Close()
	for _, name := range []string{"..", "../out/a/b/f", "a/../../out/a/b/f", "/etc/passwd", ""} {
		if fd, err := d.Descriptor(name, unix.O_RDONLY); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %d, %v", name, fd, err)
		}
	}
	if _, err := d.Lstat("."); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"a", "a/b/f"} {
		if to, err := d.Readlink(name); !errors.Is(err, ErrNotLink) {
			t.Errorf("%s leads to %q, %v", name, to, err)
		}
	}
}

// What is no regular file is not opened, and nobody waits for it.
func TestOnlyRegularFiles(t *testing.T) {
	dir, _ := tree(t)
	d, err := Open(dir)
	must(t, err)
	defer d.Close()
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	defer unix.Close(fd)
	// The path of a socket must be short.
	t.Chdir(dir)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: "socket"}))
	names := []string{"fifo", "a", "socket"}
	if unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) == nil {
		names = append(names, "null") // whoever may make one
	}
	for _, name := range names {
		if f, err := d.File(name); !errors.Is(err, ErrNotRegular) {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
	f, err := d.File("a/b/f")
	must(t, err)
	defer f.Close()
	if text, err := io.ReadAll(f); err != nil || string(text) != "inside" {
		t.Errorf("%q, %v", text, err)
	}
}

// A directory that is swapped for a link, over and over, never leads outside.
func TestSwapped(t *testing.T) {
	for way, open := range ways {
		dir, outside := tree(t)
		must(t, os.Symlink(filepath.Join(outside, "a"), filepath.Join(dir, "link")))
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			for ctx.Err() == nil {
				_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "a"), unix.AT_FDCWD, filepath.Join(dir, "link"), unix.RENAME_EXCHANGE)
			}
		})
		d, err := Open(dir)
		must(t, err)
		inside, refused := 0, 0
		for i := 0; i < 5000 || inside == 0 || refused == 0; i++ {
			fd, err := open(d, "a/b/f", unix.O_RDONLY)
			if err != nil {
				refused++
				continue
			}
			text, err := io.ReadAll(&File{fd: fd})
			must(t, err)
			must(t, unix.Close(fd))
			if inside++; string(text) != "inside" {
				t.Fatalf("%s: it came outside: %q", way, text)
			}
		}
		stop()
		wg.Wait()
		must(t, d.Close())
	}
}

// A file that is swapped for a pipe, over and over, is read or refused: nobody waits
// for who writes to the pipe.
func TestReadFileSwapped(t *testing.T) {
	dir := t.TempDir()
	file, pipe := filepath.Join(dir, "file"), filepath.Join(dir, "pipe")
	must(t, os.WriteFile(file, []byte("text"), 0o644))
	must(t, unix.Mkfifo(pipe, 0o644))
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			_ = unix.Renameat2(unix.AT_FDCWD, file, unix.AT_FDCWD, pipe, unix.RENAME_EXCHANGE)
		}
	})
	read, refused := 0, 0
	for i := 0; i < 2000 || read == 0 || refused == 0; i++ {
		switch text, err := ReadFile(file, 10); {
		case err == nil && string(text) == "text":
			read++
		case errors.Is(err, ErrNotRegular):
			refused++
		default:
			t.Fatalf("%q, %v", text, err)
		}
	}
	stop()
	wg.Wait()
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o644))
	must(t, os.Symlink("file", filepath.Join(dir, "link")))
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	t.Cleanup(func() { must(t, unix.Close(socket)) })
	must(t, unix.Bind(socket, &unix.SockaddrUnix{Name: filepath.Join(dir, "socket")}))
	for name, want := range map[string]error{
		"link": nil, "none": fs.ErrNotExist, ".": ErrDirectory, "socket": ErrNotRegular,
	} {
		if _, err := ReadFile(filepath.Join(dir, name), 4); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	if _, err := ReadFile(os.DevNull, 4); !errors.Is(err, ErrNotRegular) {
		t.Errorf("%s: %v", os.DevNull, err)
	}
	if _, err := ReadFile(filepath.Join(dir, "file"), 3); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}
