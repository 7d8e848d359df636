//go:build unix

package beneath

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// OpenWithin opens the directory at a path beneath root, of which top is an open file. Unlike
// with the other functions here, links on the way are followed as os.Root does: as long as
// they stay beneath root.
//
// The kernel resolves the path in one system call, where os.Root makes several for each
// element. If the kernel refuses, os.Root tries again: its errors say more, and it is not
// bound by the longest path of a system call.
func OpenWithin(root *os.Root, top *os.File, path string) (*os.File, error) {
	fd, err := openat2(top, path, unix.O_DIRECTORY)
	switch {
	case err == nil:
		return os.NewFile(uintptr(fd), path), nil
	case errors.Is(err, unix.ENOENT):
		return nil, wrapPathError("openat", path, err)
	}
	d, err := root.OpenFile(path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	// Open it again, by its descriptor: a directory from os.Root runs a stat on each entry
	// that it lists.
	return openNoFollow(d, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// OpenFileWithin opens for reading the file at a path beneath top, which must not be a link, by
// one system call. It follows links on the way as OpenWithin does, and does not wait for a fifo.
// The caller closes the descriptor. os.Root has better errors, and opens what this cannot: on
// systems other than Linux, and paths longer than a system call takes.
func OpenFileWithin(top *os.File, path string) (fd int, err error) {
	return openat2(top, path, unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY)
}
