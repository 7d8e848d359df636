package sparse

import (
	"os"

	"golang.org/x/sys/unix"
)

// PunchHole gives the space of a range of f back to the file system; the range reads as zeros.
// ENOTSUP: the file system cannot.
func PunchHole(f *os.File, off, length int64) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
}
