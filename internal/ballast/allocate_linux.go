package ballast

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// allocateBytes gives the file size bytes of storage.
func allocateBytes(f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = writeRandomBytes(f, size)
	}
	return err
}
