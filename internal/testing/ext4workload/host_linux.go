package ext4workload

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Host applies operations to a directory by system calls.
type Host struct {
	dir   string
	slots map[int]*os.File // open files
}

// NewHost returns a Host without open files. It clears the umask of the process, so that
// modes are those of the operations.
func NewHost(dir string) *Host {
	syscall.Umask(0)
	return &Host{dir, map[int]*os.File{}}
}

// CloseAll closes all open files.
func (h *Host) CloseAll() {
	for k, f := range h.slots {
		f.Close()
		delete(h.slots, k)
	}
}

// hostPath returns the path of a file on the host.
func (h *Host) hostPath(path string) string { return h.dir + "/" + path }

// Apply applies an operation.
func (h *Host) Apply(o *Op) error {
	p := h.hostPath(o.Path)
	switch o.Kind {
	case WriteFile:
		return h.replaceFile(o)
	case Open:
		return h.openFileInSlot(o)
	case Close:
		if f := h.slots[o.Slot]; f != nil {
			delete(h.slots, o.Slot)
			return f.Close()
		}
		return nil
	case WriteAt, Append, Truncate, Punch, Allocate:
		return h.applyFileOp(o)
	case Mkdir:
		return unix.Mkdir(p, o.Mode)
	case MkdirAll:
		// os.MkdirAll would create some directories before it fails.
		for el := range strings.SplitSeq(o.Path, "/") {
			if len(el) > 255 {
				return unix.ENAMETOOLONG
			}
		}
		return os.MkdirAll(p, os.FileMode(o.Mode))
	case Symlink:
		return unix.Symlink(o.Path2, p)
	case Link:
		return unix.Link(p, h.hostPath(o.Path2))
	case Mknod:
		return unix.Mknod(p, o.Mode, int(o.Dev))
	case Rename:
		flags := uint(0)
		if o.Flag {
			flags = unix.RENAME_NOREPLACE
		}
		return unix.Renameat2(unix.AT_FDCWD, p, unix.AT_FDCWD, h.hostPath(o.Path2), flags)
	case Remove:
		// Remove is for both; unlink(2) and rmdir(2) are not.
		err := unix.Unlink(p)
		if err == unix.EISDIR {
			err = unix.Rmdir(p)
		}
		return err
	case RemoveAll:
		return h.removeTree(p)
	}
	return h.applyAttributeOp(o, p)
}

// removeTree removes a tree. A path beneath a file does not exist either.
func (h *Host) removeTree(p string) error {
	err := os.RemoveAll(p)
	if errors.Is(err, unix.ENOTDIR) {
		err = nil
	}
	return err
}

// applyAttributeOp applies a change of metadata.
func (h *Host) applyAttributeOp(o *Op, p string) error {
	switch o.Kind {
	case Chmod:
		return unix.Chmod(p, o.Mode)
	case Chown:
		return unix.Lchown(p, o.UID, o.GID)
	case Chtimes:
		ts := unix.Timespec{Sec: o.Sec, Nsec: o.Nsec}
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	case Setxattr:
		return unix.Lsetxattr(p, o.Name, []byte(o.Value), 0)
	case Removexattr:
		return unix.Lremovexattr(p, o.Name)
	}
	return unix.ENOSYS
}

// replaceFile replaces a file by a new one, as WriteFile does. The errors come in the
// order of that call.
func (h *Host) replaceFile(o *Op) error {
	p, mode := h.hostPath(o.Path), o.Mode
	st, err := os.Lstat(p)
	switch {
	case err == nil && st.IsDir():
		return unix.EISDIR
	case err == nil && o.Flag:
		return unix.EEXIST
	case err != nil && !errors.Is(err, unix.ENOENT):
		return err
	case err == nil && mode == 0 && st.Mode().IsRegular():
		mode = st.Sys().(*syscall.Stat_t).Mode & 0o7777
	case mode == 0:
		mode = 0o644
	}
	if len(filepath.Base(p)) > 255 {
		return unix.ENAMETOOLONG
	}
	parent := filepath.Dir(p)
	if _, err := os.Stat(parent); errors.Is(err, unix.ENOENT) {
		if err := os.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	// Written under another name and renamed, so that the inode is a new one, as with WriteFile.
	tmp := filepath.Join(parent, "tmp-new")
	if err := os.WriteFile(tmp, Content(o.Seed, o.Len), 0o600); err != nil {
		os.Remove(tmp)
		return err
	}
	if err := unix.Chmod(tmp, mode); err != nil {
		return err
	}
	return os.Rename(tmp, p)
}

// openFileInSlot opens a file, which it creates if it does not exist.
func (h *Host) openFileInSlot(o *Op) error {
	f, err := h.openRegular(o.Path, os.O_CREATE, o.Mode)
	if err == nil {
		h.slots[o.Slot] = f
	}
	return err
}

// openRegular opens a regular file; ENOTSUP for special files, as package ext4 returns.
func (h *Host) openRegular(path string, flags int, mode uint32) (*os.File, error) {
	// A fifo must not be opened: it would block.
	st, err := os.Stat(h.hostPath(path))
	if err == nil && !st.IsDir() && !st.Mode().IsRegular() {
		return nil, unix.ENOTSUP
	}
	return os.OpenFile(h.hostPath(path), os.O_RDWR|flags, os.FileMode(mode))
}

// applyFileOp applies an operation to the content of a file.
func (h *Host) applyFileOp(o *Op) (err error) {
	f := h.slots[o.Slot]
	if o.Slot < 0 {
		if f, err = h.openRegular(o.Path, 0, 0); err != nil {
			return err
		}
		defer f.Close()
	}
	if f == nil {
		return unix.EBADF
	}
	switch o.Kind {
	case WriteAt:
		if o.Len > 0 {
			_, err = f.WriteAt(Content(o.Seed, o.Len), o.Off)
		}
	case Append:
		st, serr := f.Stat()
		if serr != nil {
			return serr
		}
		if o.Len > 0 {
			// An append that fails must leave nothing, as package ext4 promises.
			if _, err = f.WriteAt(Content(o.Seed, o.Len), st.Size()); err != nil {
				err = errors.Join(err, f.Truncate(st.Size()))
			}
		}
	case Truncate:
		err = f.Truncate(o.Len)
	case Punch:
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, o.Off, o.Len)
	case Allocate:
		mode := uint32(0)
		if o.Flag {
			mode = unix.FALLOC_FL_KEEP_SIZE
		}
		err = unix.Fallocate(int(f.Fd()), mode, o.Off, o.Len)
	}
	return err
}

// Partial returns what a failed operation left of a file: the range that it was to write,
// and the size.
func (h *Host) Partial(o *Op) (data []byte, size int64) {
	f := h.slots[o.Slot]
	if o.Slot < 0 {
		var err error
		if f, err = h.openRegular(o.Path, 0, 0); err != nil {
			return nil, -1
		}
		defer f.Close()
	}
	if f == nil {
		return nil, -1
	}
	st, err := f.Stat()
	if err != nil {
		return nil, -1
	}
	return readAttemptedRange(f, o, st.Size()), st.Size()
}
