package transfer

import (
	"io/fs"

	"golang.org/x/sys/unix"
)

// linuxRdev brings a device number into the form of Linux, which this system has.
func linuxRdev(dev uint64) uint64 { return dev }

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
