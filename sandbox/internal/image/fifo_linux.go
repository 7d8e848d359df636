package image

import (
	"archive/tar"
	"errors"
	"path"

	"golang.org/x/sys/unix"
)

// fifo makes a named pipe. os.Root cannot, so it is made in the opened parent.
func (u *unpacker) fifo(full string, h *tar.Header) error {
	if err := u.replace(full); err != nil {
		return err
	}
	d, err := u.root.Open(path.Dir(full))
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Mkfifoat(int(d.Fd()), path.Base(full), uint32(perm(h).Perm())); err != nil {
		return err
	}
	return u.chown(full, h)
}

func isEINVAL(err error) bool { return errors.Is(err, unix.EINVAL) }
