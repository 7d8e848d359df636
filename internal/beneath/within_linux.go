package beneath

import (
	"os"

	"golang.org/x/sys/unix"
)

// openat2 opens a path for reading that must stay beneath top (openat2(2)).
func openat2(top *os.File, path string, flags int) (fd int, err error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | uint64(flags),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	}
	err = RetryInterrupted(func() error {
		fd, err = unix.Openat2(int(top.Fd()), path, &how)
		return err
	})
	return fd, err
}
