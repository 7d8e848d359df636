package local

import (
	"os"

	"golang.org/x/sys/unix"
)

// hasXattrs says that extended attributes are not available: Vole's way to them leads through
// /proc.
const hasXattrs = false

const (
	openPath  = unix.O_RDONLY // there is no open for the path alone
	utimeOmit = -2            // UTIME_OMIT of xnu's bsd/sys/stat.h
	ofdSetlk  = 90            // F_OFD_SETLK of xnu's bsd/sys/fcntl.h
)

// syncHostFileSystem schedules everything for writing and, through F_FULLFSYNC on f, waits for
// the drive's cache: macOS has no syncfs.
func syncHostFileSystem(f *os.File) error {
	if err := unix.Sync(); err != nil {
		return err
	}
	return f.Sync()
}

// renameExclusive renames, unless something is at the new name.
func renameExclusive(fromDir int, from string, toDir int, to string) error {
	return unix.RenameatxNp(fromDir, from, toDir, to, unix.RENAME_EXCL)
}

// cloneFile makes dst share the storage of src, which here only whole new files can.
func cloneFile(dst, src *os.File) error { return unix.ENOTSUP }

func mknod(dir int, name string, mode uint32, rdev uint64) error { return unix.ENOTSUP }

// isOwner is about user namespaces, which this system does not have.
func isOwner(*os.File) bool { return true }
