//go:build linux

package buildah

import (
	"fmt"
	"io"
	"os"
	"strconv"

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
			var found *user.ExecUser
			err := f.withNames(u.ByName, root, func(dir string) (err error) {
				found, err = lookupUser(dir, u.ByName.Name)
				return err
			})
			if err != nil {
				return nil, err
			}
			out.UID, out.GID = found.Uid, found.Gid
		}
	}
	if o.Group != nil {
		switch g := o.Group.User.(type) {
		case *pb.UserOpt_ByID:
			out.GID = int(g.ByID)
		case *pb.UserOpt_ByName:
			err := f.withNames(g.ByName, root, func(dir string) (err error) {
				out.GID, err = lookupGroup(dir, g.ByName.Name)
				return err
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// withNames calls fn with the root of the tree that names are looked up in.
func (f *fileJob) withNames(n *pb.NamedUserOpt, root string, fn func(dir string) error) error {
	i := int(n.Input)
	if i < 0 || i >= len(f.refs) {
		return fn(root)
	}
	if r := f.refs[i]; r.layer != nil && !r.froze {
		return fn(r.layer.root)
	}
	tree, done, err := f.open(i)
	if err != nil {
		return err
	}
	defer done()
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

func lookupGroup(root, name string) (int, error) {
	group, err := openIn(root, "/etc/group")
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
	if gid, err := strconv.Atoi(name); err == nil {
		return gid, nil
	}
	return 0, fmt.Errorf("group %q is not in the image's /etc/group", name)
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
