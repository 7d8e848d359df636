package local

import (
	"os"

	"golang.org/x/sys/unix"
)

// ofdSetlk is F_OFD_SETLK of xnu's bsd/sys/fcntl.h, which golang.org/x/sys lacks.
const ofdSetlk = 90

// lockRange sets or clears an open file description lock, as on Linux.
func lockRange(f *os.File, kind int16, start, length int64) error {
	l := unix.Flock_t{Type: kind, Start: start, Len: length}
	return unix.FcntlFlock(f.Fd(), ofdSetlk, &l)
}

// syncHostFileSystem schedules everything for writing and, through F_FULLFSYNC on f, waits for
// the drive's cache: macOS has no syncfs.
func syncHostFileSystem(f *os.File) error {
	if err := unix.Sync(); err != nil {
		return err
	}
	return f.Sync()
}
