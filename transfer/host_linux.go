package transfer

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/volehq/vole/internal/filemode"
	"golang.org/x/sys/unix"
)

// linuxRdev brings a device number into the form of Linux, which this system has.
func linuxRdev(dev uint64) uint64 { return dev }

// setFileTimes sets the times of an open file or directory, which has the name at.
func (t *hostTree) setFileTimes(f *os.File, at string, mtime time.Time) error {
	ts, err := unix.TimeToTimespec(mtime)
	if err != nil {
		return err
	}
	// futimens(2) by the kernel's own link to the file: by its name it may be another one.
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), []unix.Timespec{ts, ts}, 0)
}

// mknodat makes a fifo or a device.
func mknodat(dirfd int, base string, mode fs.FileMode, rdev uint64) error {
	return unix.Mknodat(dirfd, base, filemode.Type(mode)|uint32(mode.Perm()), int(rdev))
}

// blockExclusive is the flag of open(2) by which a block device that is mounted is refused.
const blockExclusive = unix.O_EXCL

// OpenFileLink reports whether the link at path is one of /proc that stands for an open file:
// its text need not be a name of the file. Directories are told by their names.
func OpenFileLink(path string) bool {
	var sfs unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &sfs); err != nil || sfs.Type != unix.PROC_SUPER_MAGIC {
		return false
	}
	if name := filepath.Base(filepath.Dir(path)); name != "fd" {
		return false
	}
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}

// ownDescriptor returns the number of the descriptor that path, a link in /proc, stands for;
// -1: it is another process's, or no such link.
func ownDescriptor(path string) int {
	fd, err := strconv.Atoi(filepath.Base(path))
	if err != nil {
		return -1
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil || !strings.HasPrefix(dir, fmt.Sprintf("/proc/%d/", os.Getpid())) || filepath.Base(dir) != "fd" {
		return -1 // of threads there is one more directory each, beneath task
	}
	return fd
}

// CheckDescriptor returns an error when path stands for, or leads through, a file that this
// process opened itself, such as its catalog or a directory of its home, and was not given:
// a user who names it as a target means something else.
func CheckDescriptor(path string) error {
	for ; path != filepath.Dir(path); path = filepath.Dir(path) {
		fd := ownDescriptor(path)
		if fd < 0 {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC != 0 {
			err = unix.EBADF
		}
		return err
	}
	return nil
}

// openInherited returns the file or socket that path, a link for which OpenFileLink holds,
// stands for, if this process was given it. Opened by its name a file would be written at a
// position of its own, and another process that shares the descriptor, such as a shell that
// redirects the output of several commands, would overwrite it; a socket has no name. nil: it is another process's, or
// a fifo or device, which is opened by the name, so that a write that waits can be ended.
func openInherited(path string) (*os.File, error) {
	fd := ownDescriptor(path)
	if fd < 0 {
		return nil, nil
	}
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if kind := st.Mode & unix.S_IFMT; err != nil || kind != unix.S_IFREG && kind != unix.S_IFSOCK {
		return nil, err
	}
	fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}
