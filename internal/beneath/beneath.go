//go:build unix

// Package beneath opens, makes and removes files beneath an open directory, by paths
// relative to it ("a/b/c") on which no symbolic link is followed, the last element
// included. So a user who can write there decides what the directory contains, but cannot
// lead a reader out of it, nor to another part of it.
package beneath

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/volehq/vole/driver"
	"golang.org/x/sys/unix"
)

// RetryInterrupted makes a system call again that a signal interrupted.
func RetryInterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// OpenDir opens a directory. ErrCorrupt: a link is in the way.
func OpenDir(dir *os.File, name string) (*os.File, error) {
	d := dir
	for elem := range strings.SplitSeq(name, "/") {
		next, err := openNoFollow(d, elem, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if d != dir {
			d.Close()
		}
		if err != nil {
			return nil, err
		}
		d = next
	}
	return d, nil
}

// OpenFile opens a regular file. ErrCorrupt: a link is in the way, or something else than
// a file there; nothing waits for the other end of a fifo.
func OpenFile(dir *os.File, name string, flag int, perm uint32) (f *os.File, err error) {
	err = withParent(dir, name, func(parent *os.File, base string) error {
		if f, err = openNoFollow(parent, base, flag|unix.O_NONBLOCK|unix.O_NOCTTY, perm); err != nil {
			return err
		}
		if err = checkRegular(f, name); err != nil {
			f.Close()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// checkRegular returns ErrCorrupt unless the open file is a regular one.
func checkRegular(f *os.File, name string) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return driver.Errorf(driver.ErrCorrupt, "%s is no regular file; move it away", name)
	}
	return nil
}

// openNoFollow opens one name in a directory. ErrCorrupt: it is a link.
func openNoFollow(dir *os.File, name string, flag int, perm uint32) (*os.File, error) {
	if !isPlainName(name) {
		return nil, errBadName(name)
	}
	var fd int
	err := RetryInterrupted(func() (err error) {
		fd, err = unix.Openat(int(dir.Fd()), name, flag|unix.O_NOFOLLOW|unix.O_CLOEXEC, perm)
		return err
	})
	if err == nil {
		return os.NewFile(uintptr(fd), name), nil
	}
	if IsLink(dir, name) {
		return nil, driver.Errorf(driver.ErrCorrupt, "%s is a symbolic link, and none is followed there; if its target is to be used, mount that in its place", name)
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: err}
}

// isPlainName reports whether name is one element of a path. "." is one: the directory itself.
func isPlainName(name string) bool {
	return name != "" && name != ".." && !strings.ContainsAny(name, "/\x00")
}

// errBadName returns ErrInvalid for a path that is not one beneath a directory.
func errBadName(name string) error {
	return driver.Errorf(driver.ErrInvalid, "%q is not a name in a directory", name)
}

// IsLink reports whether name in dir is a symbolic link.
func IsLink(dir *os.File, name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK
}

// withParent runs fn on the directory that contains name.
func withParent(dir *os.File, name string, fn func(parent *os.File, base string) error) error {
	i := strings.LastIndexByte(name, '/')
	base := name[i+1:]
	if !isPlainName(base) || base == "." {
		return errBadName(name)
	}
	if i < 0 {
		return fn(dir, base)
	}
	parent, err := OpenDir(dir, name[:i])
	if err != nil {
		return err
	}
	defer parent.Close()
	return fn(parent, base)
}

// Lstat describes the file of that name, without following a link.
func Lstat(dir *os.File, name string) (st unix.Stat_t, err error) {
	err = withParent(dir, name, func(parent *os.File, base string) error {
		err := RetryInterrupted(func() error { return unix.Fstatat(int(parent.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW) })
		return wrapPathError("lstat", name, err)
	})
	return st, err
}

// Mkdir makes a directory. It is no error if the name exists.
func Mkdir(dir *os.File, name string, perm uint32) error {
	return withParent(dir, name, func(parent *os.File, base string) error {
		err := RetryInterrupted(func() error { return unix.Mkdirat(int(parent.Fd()), base, perm) })
		if errors.Is(err, fs.ErrExist) {
			return nil // opening it shows whether it is a directory
		}
		return wrapPathError("mkdir", name, err)
	})
}

// Remove removes a name that is not a directory's.
func Remove(dir *os.File, name string) error {
	return withParent(dir, name, func(parent *os.File, base string) error {
		return wrapPathError("unlink", name, RetryInterrupted(func() error { return unix.Unlinkat(int(parent.Fd()), base, 0) }))
	})
}

// Rename gives a file of a directory another name there, and replaces the file that has it.
func Rename(dir *os.File, from, to string) error {
	fd := int(dir.Fd())
	return wrapPathError("rename", to, RetryInterrupted(func() error { return unix.Renameat(fd, from, fd, to) }))
}

// Names lists a directory, sorted.
func Names(dir *os.File, name string) ([]string, error) {
	d, err := OpenDir(dir, name)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// wrapPathError adds the operation and the path to an error; nil stays nil.
func wrapPathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}
