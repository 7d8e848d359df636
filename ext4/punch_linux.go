package ext4

import (
	"errors"
	"os"
	"syscall"
)

// The flags of fallocate(2).
const (
	fallocKeepSize  = 1
	fallocPunchHole = 2
)

// punchHole makes a range of a device read as zeros, and frees its storage.
// ErrUnsupported: the device cannot.
func punchHole(dev Device, off, length int64) error {
	if p, ok := dev.(puncher); ok {
		return p.PunchHole(off, length)
	}
	f, ok := dev.(*os.File)
	if !ok {
		return ErrUnsupported
	}
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := c.Control(func(fd uintptr) {
		for {
			err = syscall.Fallocate(int(fd), fallocKeepSize|fallocPunchHole, off, length)
			if !errors.Is(err, syscall.EINTR) {
				return
			}
		}
	})
	if cerr != nil {
		return cerr
	}
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.ENODEV) {
		return unsupportedf("punching holes into %s", f.Name())
	}
	return err
}
