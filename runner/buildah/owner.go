//go:build linux

package buildah

import (
	"errors"
	"fmt"
	"io"
	"os"

	rootfs "github.com/containerd/continuity/fs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/sys/user"
	fscopy "github.com/tonistiigi/fsutil/copy"
)

// owner finds the numbers behind --chown, names being looked up in the tree that
// the operation says. Nil means that the owner stays what it is.
func (f *fileJob) owner(o *pb.ChownOpt, root string) (*fscopy.User, error) {
	if o == nil {
		return nil, nil
	}
	out := &fscopy.User{}
	if o.User != nil {
		switch u := o.User.User.(type) {
		case *pb.UserOpt_ByID:
			out.UID, out.GID = int(u.ByID), int(u.ByID)
		case *pb.UserOpt_ByName:
			err := f.withNames(u.ByName, root, func(dir string) (err error) {
				out.UID, out.GID, err = ownerByName(dir, u.ByName.Name)
				return err
			})
			if err = f.unknownIsRoot(err); err != nil {
				return nil, err
			}
		}
	}
	if o.Group != nil {
		switch g := o.Group.User.(type) {
		case *pb.UserOpt_ByID:
			out.GID = int(g.ByID)
		case *pb.UserOpt_ByName:
			err := f.withNames(g.ByName, root, func(dir string) error {
				gid, err := lookupGroup(dir, g.ByName.Name)
				if err == nil {
					out.GID = gid
				}
				return err
			})
			if err = f.unknownIsRoot(err); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// withNames calls fn with the root of the tree that names are looked up in.
func (f *fileJob) withNames(n *pb.NamedUserOpt, root string, fn func(dir string) error) error {
	i := int(n.Input)
	if i < 0 {
		return fmt.Errorf("user or group %q: the image is empty, so there is no user index (/etc/passwd, /etc/group) to look it up in; give a number", n.Name)
	}
	if i >= len(f.refs) {
		return fn(root)
	}
	if r := f.refs[i]; r.layer != nil && !r.froze {
		if err := r.layer.back(); err != nil {
			return err
		}
		return fn(r.layer.root)
	}
	tree, err := f.open(i)
	if err != nil {
		return err
	}
	return fn(tree.Dir)
}

// lookupUser finds "user", "uid", "user:group" and so on in the files of a tree.
func lookupUser(root, spec string) (*user.ExecUser, error) {
	passwd, err := openIn(root, "/etc/passwd")
	if err != nil {
		return nil, err
	}
	defer closeReader(passwd)
	group, err := openIn(root, "/etc/group")
	if err != nil {
		return nil, err
	}
	defer closeReader(group)
	u, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, passwd, group)
	if err != nil {
		return nil, fmt.Errorf("user %q: %w (looked up in the image's /etc/passwd and /etc/group)", spec, err)
	}
	return u, nil
}

// unknownNameError is about a name that an image does not have.
type unknownNameError struct{ name, file string }

// Error says where the name was looked for.
func (e *unknownNameError) Error() string {
	return fmt.Sprintf("%q is not in the image's %s", e.name, e.file)
}

// unknownIsRoot lets --chown by a name that is not there pass, as BuildKit does:
// there are Dockerfiles that build because of it. It is said aloud.
func (f *fileJob) unknownIsRoot(err error) error {
	var unknown *unknownNameError
	if !errors.As(err, &unknown) {
		return err
	}
	f.e.log.Warn("--chown: root's is what it is instead", "error", unknown.Error())
	return nil
}

// ownerByName finds the user of --chown and its group.
func ownerByName(root, name string) (uid, gid int, err error) {
	const file = "/etc/passwd"
	passwd, err := openIn(root, file)
	if err != nil {
		return 0, 0, err
	}
	defer closeReader(passwd)
	if passwd != nil {
		found, err := user.ParsePasswdFilter(passwd, func(u user.User) bool { return u.Name == name })
		if err != nil {
			return 0, 0, err
		}
		if len(found) > 0 {
			return found[0].Uid, found[0].Gid, nil
		}
	}
	return 0, 0, &unknownNameError{name: name, file: file}
}

func lookupGroup(root, name string) (int, error) {
	const file = "/etc/group"
	group, err := openIn(root, file)
	if err != nil {
		return 0, err
	}
	defer closeReader(group)
	if group != nil {
		found, err := user.ParseGroupFilter(group, func(g user.Group) bool { return g.Name == name })
		if err != nil {
			return 0, err
		}
		if len(found) > 0 {
			return found[0].Gid, nil
		}
	}
	return 0, &unknownNameError{name: name, file: file}
}

// openIn opens a regular file of a tree; a missing one gives no reader.
func openIn(root, name string) (io.Reader, error) {
	p, err := rootfs.RootPath(root, name)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(p)
	if err != nil || !info.Mode().IsRegular() {
		return nil, nil //nolint:nilerr // an image need not have the file
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func closeReader(r io.Reader) {
	if c, ok := r.(io.Closer); ok {
		_ = c.Close()
	}
}

// chowner gives what is copied to u, or leaves it with its owner if u is nil.
func chowner(u *fscopy.User) fscopy.Chowner {
	return func(old *fscopy.User) (*fscopy.User, error) {
		if u == nil {
			return old, nil
		}
		return u, nil
	}
}
