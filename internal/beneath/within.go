//go:build unix

package beneath

import (
	"os"

	"golang.org/x/sys/unix"
)

// OpenWithin opens the directory at a path beneath root, of which top is an open file. Unlike
// with the other functions here, links on the way are followed as os.Root does: as long as
// they stay beneath root.
func OpenWithin(root *os.Root, top *os.File, path string) (*os.File, error) {
	return openDirWithin(root, top, path)
}

// OpenFileWithin opens for reading the file at a path beneath top, which must not be a link, by
// one system call. It follows links on the way as OpenWithin does, and does not wait for a fifo.
// The caller closes the descriptor. os.Root has better errors, and opens what this cannot: on
// systems other than Linux, and paths longer than a system call takes.
func OpenFileWithin(top *os.File, path string) (fd int, err error) {
	return openFileWithin(top, path)
}

// openDirByRoot opens a directory through os.Root.
func openDirByRoot(root *os.Root, path string) (*os.File, error) {
	d, err := root.OpenFile(path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	// Open it again, by its descriptor: a directory from os.Root runs a stat on each entry
	// that it lists.
	return openNoFollow(d, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
}
