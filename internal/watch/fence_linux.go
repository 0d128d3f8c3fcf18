package watch

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// fence is a pipe that is watched beside everything else. The kernel keeps what it tells
// in the order in which it was done: when it tells that the pipe was written to, it has
// told all that was done before.
type fence struct {
	read, write int
	path        string // of the pipe, in what is told
}

// newFence makes a fence, or nil where the kernel does not tell of pipes.
func newFence() *fence {
	var ends [2]int
	if unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	f := &fence{read: ends[0], write: ends[1], path: fmt.Sprintf("/proc/self/fd/%d", ends[0])}
	if !f.works() {
		f.close()
		return nil
	}
	return f
}

// works tries it: what there is to be told is there at once.
func (f *fence) works() bool {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, f.path, unix.IN_MODIFY); err != nil || !f.pass() {
		return false
	}
	n, err := unix.Read(fd, make([]byte, unix.SizeofInotifyEvent+unix.NAME_MAX+1))
	return err == nil && n > 0
}

// pass has the pipe be told of. It reports whether it will be.
func (f *fence) pass() bool {
	b := []byte{0}
	if n, err := unix.Write(f.write, b); n != 1 || err != nil {
		return false
	}
	n, err := unix.Read(f.read, b)
	return n == 1 && err == nil
}

func (f *fence) close() {
	_ = unix.Close(f.read)
	_ = unix.Close(f.write)
}
