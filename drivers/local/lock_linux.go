package local

import (
	"os"

	"golang.org/x/sys/unix"
)

// lockRange sets or clears an open file description lock (fcntl(2), F_OFD_SETLK): unlike
// other POSIX locks it belongs to the open file, not to the process, and is dropped
// when that is closed or its process dies.
func lockRange(f *os.File, kind int16, start, length int64) error {
	l := unix.Flock_t{Type: kind, Start: start, Len: length}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l)
}

// syncHostFileSystem makes everything written to the file system of f durable.
func syncHostFileSystem(f *os.File) error { return unix.Syncfs(int(f.Fd())) }
