package beneath

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// openDirWithin lets the kernel resolve the path: one system call, where os.Root makes several
// for each element. If the kernel refuses, os.Root tries again: its errors say more, and it is
// not bound by the longest path of a system call.
func openDirWithin(root *os.Root, top *os.File, path string) (*os.File, error) {
	fd, err := openat2(top, path, unix.O_DIRECTORY)
	switch {
	case err == nil:
		return os.NewFile(uintptr(fd), path), nil
	case errors.Is(err, unix.ENOENT):
		return nil, wrapPathError("openat", path, err)
	}
	return openDirByRoot(root, path)
}

// openFileWithin implements OpenFileWithin. openat2:: openat2 opens a path for reading that must
// stay beneath top (openat2(2)).
func openFileWithin(top *os.File, path string) (fd int, err error) {
	return openat2(top, path, unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY)
}

func openat2(top *os.File, path string, flags uint64) (fd int, err error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | flags,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	}
	err = retryInterrupted(func() error {
		fd, err = unix.Openat2(int(top.Fd()), path, &how)
		return err
	})
	return fd, err
}
