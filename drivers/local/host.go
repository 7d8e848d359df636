//go:build unix

package local

import (
	"errors"
	"io/fs"
	"os"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/beneath"
	"github.com/volehq/vole/internal/fault"
	"github.com/volehq/vole/internal/filemode"
	"github.com/volehq/vole/internal/nofollow"
	"golang.org/x/sys/unix"
)

// hostFS makes the system calls that change files and directories of the host. Tests
// inject faults into each of them; a nil injector, as outside tests, has none.
type hostFS struct{ faults *fault.Injector }

// mutate makes a system call that changes a directory entry or the metadata of an inode,
// and makes it again when a signal interrupted it.
func (h hostFS) mutate(op, name string, call func() error) error {
	return h.faults.Do(op, name, func() error { return beneath.RetryInterrupted(call) })
}

// rename gives a file or directory another name; exclusive: not over an existing one.
func (h hostFS) rename(from, to resolved, exclusive bool) error {
	return h.mutate("rename", to.name, func() error {
		if exclusive {
			return renameExclusive(from.parentFD(), from.name, to.parentFD(), to.name)
		}
		return unix.Renameat(from.parentFD(), from.name, to.parentFD(), to.name)
	})
}

// syncFile makes an open file, or the entries of an open directory, durable.
func (h hostFS) syncFile(f *os.File) error { return h.faults.Do("fsync", f.Name(), f.Sync) }

// grantOwnerRights gives the owner all rights to a directory, without following a link.
func (h hostFS) grantOwnerRights(parent *os.File, name string) error {
	return h.mutate("chmod", name, func() error { return nofollow.Chmod(int(parent.Fd()), name, 0o700) })
}

// withOwnerRights runs a change of a directory. If it fails by the mode of the directory, which is
// name in parent, it gives the owner all rights to that and runs the change again.
func (h hostFS) withOwnerRights(parent *os.File, name string, change func() error) error {
	err := change()
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if err := h.grantOwnerRights(parent, name); err != nil {
		return err
	}
	return change()
}

// openResolved opens what a resolved name leads to. op names the operation for tests.
func (h hostFS) openResolved(op string, p resolved, flags int, mode uint32) (*os.File, error) {
	var fd int
	err := h.mutate(op, p.name, func() (err error) {
		fd, err = unix.Openat(p.parentFD(), p.name, flags|unix.O_CLOEXEC, mode)
		return err
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), p.name), nil
}

// setMetadata gives metadata to a new file, which is open, and which no other process can
// replace.
func (h hostFS) setMetadata(p resolved, fd int, m *driver.FileMeta) error {
	if m.UID >= 0 || m.GID >= 0 { // before the mode: a change of owner clears setuid
		if err := h.mutate("chown", p.name, func() error { return unix.Fchown(fd, m.UID, m.GID) }); err != nil {
			return err
		}
	}
	err := h.mutate("chmod", p.name, func() error { return unix.Fchmod(fd, filemode.Perm(m.Mode)) })
	if err != nil || m.Mtime.IsZero() {
		return err
	}
	ts := []unix.Timespec{toTimespec(m.Mtime), toTimespec(m.Mtime)}
	return h.mutate("utimes", p.name, func() error { return unix.UtimesNanoAt(p.parentFD(), p.name, ts, unix.AT_SYMLINK_NOFOLLOW) })
}

// undoUmask gives a new file the mode that the umask has reduced.
func (h hostFS) undoUmask(p resolved, want uint32) (changed bool, err error) {
	st, err := p.lstat()
	if err != nil || uint32(st.Mode)&0o7777 == want {
		return false, err
	}
	return true, h.mutate("chmod", p.name, func() error { return nofollow.Chmod(p.parentFD(), p.name, want) })
}
