//go:build unix

package transfer

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"syscall"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/filemode"
	"github.com/volehq/vole/internal/nofollow"
	"golang.org/x/sys/unix"
)

// noFollow is the flag of open(2) that refuses a symbolic link.
const noFollow = unix.O_NOFOLLOW

// describeSystem adds to an item what only this kind of system tells of a file.
func describeSystem(it *item, info fs.FileInfo) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		it.uid, it.gid = int(st.Uid), int(st.Gid)
		it.id, it.nlink, it.rdev = fileID{uint64(st.Dev), st.Ino}, uint64(st.Nlink), linuxRdev(uint64(st.Rdev))
	}
}

func (t *hostTree) makeNode(ctx context.Context, p string, mode fs.FileMode, rdev uint64) error {
	return t.withParentDir("mknod", p, func(dirfd int, base string) error { return mknodat(dirfd, base, mode, rdev) })
}

// withParentDir runs fn on the open directory that holds p.
func (t *hostTree) withParentDir(op, p string, fn func(dirfd int, base string) error) error {
	d, err := t.root.OpenFile(path.Dir(p), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return t.wrapError(op, p, err)
	}
	defer d.Close()
	return t.wrapError(op, p, fn(int(d.Fd()), path.Base(p)))
}

// openDirectory opens the directory at p, which is no link to one and no fifo that would wait
// for a writer, whatever others put there since it was made or listed. withParent opens the
// directory that holds p.
func (t *hostTree) openDirectory(p string, withParent func(op, p string, fn func(dirfd int, base string) error) error) (f *os.File, err error) {
	err = withParent("open", p, func(dirfd int, base string) error {
		fd, err := openBeside(dirfd, base, unix.O_DIRECTORY)
		if err == nil {
			f = os.NewFile(uintptr(fd), t.displayPath(p))
		}
		return err
	})
	return f, err
}

func (t *hostTree) setMetadata(ctx context.Context, p string, it *item) error {
	if it.mode.IsDir() {
		f, err := t.openDirectory(p, t.withParentDir)
		if err != nil {
			return err
		}
		defer f.Close()
		return t.setOpenMetadata(p, p, f, it)
	}
	return t.withParentDir("chmod", p, func(dirfd int, base string) error { return t.setNodeMetadata(dirfd, base, p, it) })
}

// setNodeMetadata sets the metadata of a link or a node, which is never opened for reading.
// It is base in the open directory, and p in the tree.
func (t *hostTree) setNodeMetadata(dirfd int, base, p string, it *item) error {
	node, err := nofollow.Open(dirfd, base)
	if err != nil {
		return err
	}
	defer node.Close()
	// Another user who may write to the directory may have replaced the entry since it was
	// made, even by another name of a file that is not theirs.
	var st unix.Stat_t
	if err := node.Stat(&st); err != nil {
		return err
	}
	if st.Nlink > 1 || filemode.Go(uint32(st.Mode)).Type() != it.mode.Type() {
		return driver.Errorf(vole.ErrExists, "another user replaced it while it was copied")
	}
	keep, err := t.keepsOwner(p, it)
	if err != nil {
		return err
	}
	if keep { // before the mode: a change of owner clears setuid
		if err := node.Chown(it.uid, it.gid); err != nil && !t.opts.isUnmapped(err) {
			return err
		}
	}
	if it.mode&fs.ModeSymlink == 0 {
		if err := node.Chmod(filemode.Perm(t.opts.targetMode(it))); err != nil {
			return err
		}
	}
	if err := node.Chtimes(it.mtime); err != nil {
		return err
	}
	return t.opts.checkKeptTime(t.displayPath(p), it.mtime, func() (time.Time, error) {
		err := node.Stat(&st)
		return time.Unix(st.Mtim.Unix()), err
	})
}

func (t *hostTree) setXattrs(ctx context.Context, p string, it *item) error {
	f, err := t.openDirectory(p, t.withParentDir)
	if err != nil {
		return err
	}
	defer f.Close()
	return t.setOpenXattrs(p, f, it)
}

// setOpenXattrs sets the attributes of an open file or directory, in the order of their names.
func (t *hostTree) setOpenXattrs(p string, f *os.File, it *item) error {
	t.opts.countLostSystemAttrs(it)
	for _, n := range slices.Sorted(maps.Keys(it.xattrs)) { // what does not fit is the same each time
		err := unix.Fsetxattr(int(f.Fd()), n, it.xattrs[n], 0)
		if err == nil {
			continue
		}
		if err = driver.FromErrno(errnoOfError(err)); !cannotHoldMetadata(err) && !errors.Is(err, vole.ErrPermission) {
			return t.wrapError("setxattr", p, err)
		}
		if err := t.opts.leaveOut(t.displayPath(p), "the attribute "+n, err); err != nil {
			return err
		}
	}
	return nil
}

// errnoOfError is the error number of a system call's error.
func errnoOfError(err error) syscall.Errno {
	e := syscall.EIO
	errors.As(err, &e)
	return e
}
