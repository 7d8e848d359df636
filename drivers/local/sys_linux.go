package local

import (
	"os"

	"golang.org/x/sys/unix"
)

// hasXattrs says that extended attributes are available.
const hasXattrs = true

const (
	openPath  = unix.O_PATH
	utimeOmit = unix.UTIME_OMIT
	ofdSetlk  = unix.F_OFD_SETLK
)

// syncHostFileSystem makes everything written to the file system of f durable.
func syncHostFileSystem(f *os.File) error { return unix.Syncfs(int(f.Fd())) }

// renameExclusive renames, unless something is at the new name.
func renameExclusive(fromDir int, from string, toDir int, to string) error {
	return unix.Renameat2(fromDir, from, toDir, to, unix.RENAME_NOREPLACE)
}

// cloneFile makes dst share the storage of src, where the file system can.
func cloneFile(dst, src *os.File) error { return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) }

func mknod(dir int, name string, mode uint32, rdev uint64) error {
	return unix.Mknodat(dir, name, mode, int(rdev))
}

// isOwner reports whether this user owns an open directory, or may act for its owner: the
// kernel lets no other user open it without a change of its access time (open(2)).
func isOwner(dir *os.File) bool {
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOATIME|unix.O_CLOEXEC, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	return err != unix.EPERM
}
