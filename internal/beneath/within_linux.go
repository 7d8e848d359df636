package beneath

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// openWithin lets the kernel resolve the path: one system call, where os.Root makes several
// for each element. What it refuses, os.Root looks at again, whose errors say more, and
// which is not bound by the longest path of a system call.
func openWithin(root *os.Root, top *os.File, path string) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	}
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat2(int(top.Fd()), path, &how)
		return err
	})
	switch {
	case err == nil:
		return os.NewFile(uintptr(fd), path), nil
	case errors.Is(err, unix.ENOENT):
		return nil, pathError("openat", path, err)
	}
	return openByRoot(root, path)
}
