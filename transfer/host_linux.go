package transfer

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// linuxRdev brings a device number into the form of Linux, which this system has.
func linuxRdev(dev uint64) uint64 { return dev }

// setTimes sets the times of an open file or directory, which has the name at.
func (t *hostTree) setTimes(f *os.File, at string, mtime time.Time) error {
	ts, err := unix.TimeToTimespec(mtime)
	if err != nil {
		return err
	}
	// futimens(2) by the kernel's own link to the file: by its name it may be another one.
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), []unix.Timespec{ts, ts}, 0)
}

// mknodat makes a fifo or a device.
func mknodat(dirfd int, base string, mode fs.FileMode, rdev uint64) error {
	m := uint32(mode.Perm())
	switch mode.Type() {
	case fs.ModeNamedPipe:
		m |= unix.S_IFIFO
	case fs.ModeSocket:
		m |= unix.S_IFSOCK
	case fs.ModeDevice | fs.ModeCharDevice:
		m |= unix.S_IFCHR
	case fs.ModeDevice:
		m |= unix.S_IFBLK
	default:
		return unix.EINVAL
	}
	return unix.Mknodat(dirfd, base, m, int(rdev))
}

// blockExclusive is the flag of open(2) by which a block device that is mounted is refused.
const blockExclusive = unix.O_EXCL

// OpenFileLink reports whether the link at path is one of /proc that stands for an open file:
// what it reads as need not be a name of it. Directories have their names.
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
