package local

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	openPath  = unix.O_RDONLY // there is no open for the path alone
	utimeOmit = -2            // UTIME_OMIT of xnu's bsd/sys/stat.h
	seekHole  = 3             // SEEK_HOLE and SEEK_DATA of xnu's bsd/sys/unistd.h
	seekData  = 4
)

// toUnixStat converts between two declarations of the same structure.
func toUnixStat(st *syscall.Stat_t) *unix.Stat_t { return (*unix.Stat_t)(unsafe.Pointer(st)) }

// renameExclusive renames, unless something is at the new name.
func renameExclusive(fromDir int, from string, toDir int, to string) error {
	return unix.RenameatxNp(fromDir, from, toDir, to, unix.RENAME_EXCL)
}

// cloneFile makes dst share the storage of src, which here only whole new files can.
func cloneFile(dst, src *os.File) error { return unix.ENOTSUP }

// punchHole gives the space of a range back, which here needs aligned ranges.
func punchHole(f *os.File, off, length int64) error { return unix.ENOTSUP }

func mknod(dir int, name string, mode uint32, rdev uint64) error {
	return unix.ENOTSUP
}

// isOwner is about user namespaces, which this system does not have.
func isOwner(*os.File) bool { return true }
