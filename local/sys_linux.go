package local

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	utimeOmit = unix.UTIME_OMIT
	seekData  = unix.SEEK_DATA
	seekHole  = unix.SEEK_HOLE
)

// unixStat converts between two declarations of the same structure.
func unixStat(st *syscall.Stat_t) *unix.Stat_t { return (*unix.Stat_t)(unsafe.Pointer(st)) }

// renameExclusive renames, unless something is at the new name.
func renameExclusive(fromDir int, from string, toDir int, to string) error {
	return unix.Renameat2(fromDir, from, toDir, to, unix.RENAME_NOREPLACE)
}

// chmodAt changes the mode of what is at a name, which may be closed even to its
// owner, and does not follow a link. Before Linux 6.6 there is no system call for that,
// so it goes by the kernel's own link to the file.
func chmodAt(dir int, name string, mode uint32) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode)
}

// cloneFile makes dst share the storage of src, where the file system can.
func cloneFile(dst, src *os.File) error { return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) }

// punch gives the space of a range back; it reads as zeros.
func punch(f *os.File, off, length int64) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
}

func mknod(dir int, name string, mode uint32, rdev uint64) error {
	return unix.Mknodat(dir, name, mode, int(rdev))
}
