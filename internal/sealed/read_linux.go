package sealed

import (
	"io/fs"
	"time"

	"golang.org/x/sys/unix"
)

// readFile reads a small file, and when it was modified. A build that has nothing to
// do reads hundreds of them and little else; os.Open makes each known to the poller.
// What is there need not be a file, and opening it must wait for nobody.
func readFile(name string) (all []byte, modified time.Time, err error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err == unix.ENXIO || err == unix.ELOOP { // a socket, a link to itself
		return nil, modified, ErrDamaged
	}
	if err != nil {
		return nil, modified, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, modified, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxSize {
		return nil, modified, ErrDamaged
	}
	all = make([]byte, 0, st.Size+1) // room to see that there is no more
	for {
		if len(all) == cap(all) {
			all = append(all, 0)[:len(all)]
		}
		n, err := unix.Read(fd, all[len(all):cap(all)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, modified, &fs.PathError{Op: "read", Path: name, Err: err}
		case n == 0:
			return all, time.Unix(st.Mtim.Unix()), nil
		}
		all = all[:len(all)+n]
	}
}
