package transfer

import (
	"io/fs"
	"os"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"golang.org/x/sys/unix"
)

// linuxRdev brings a device number into the form of Linux.
func linuxRdev(dev uint64) uint64 { return unix.Mkdev(unix.Major(dev), unix.Minor(dev)) }

// setFileTimes sets the times of an open file or directory, which has the name at. By
// descriptor this system knows microseconds only.
func (t *hostTree) setFileTimes(_ *os.File, at string, mtime time.Time) error {
	return t.root.Chtimes(at, mtime, mtime)
}

// mknodat would make a fifo or a device: this system has no such call that is bound
// to a directory, and one by path could be led astray.
func mknodat(dirfd int, base string, mode fs.FileMode, rdev uint64) error {
	return driver.Errorf(vole.ErrUnsupported, "fifos and devices can be copied out on Linux only")
}

// blockExclusive is no flag here: the system refuses devices that are mounted by itself.
const blockExclusive = 0

// OpenFileLink reports whether the link at path stands for an open file, as those of Linux's
// /proc do. Here /dev/fd has nodes.
func OpenFileLink(string) bool { return false }

// CheckDescriptor returns an error when path stands for a file of this process's own.
func CheckDescriptor(string) error { return nil }

func openInherited(string) (*os.File, error) { return nil, nil }
