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

// OpenFileWithin opens for reading what is at a path beneath top, itself no link, in one step
// by the kernel. Links on the way are followed as by OpenWithin. A fifo is not waited for.
// The descriptor is the caller's to close. Of errors os.Root has better ones to tell, and it
// opens what this cannot: another system than Linux, or a path longer than a system call takes.
func OpenFileWithin(top *os.File, path string) (fd int, err error) {
	return openFileWithin(top, path)
}

func openDirByRoot(root *os.Root, path string) (*os.File, error) {
	d, err := root.OpenFile(path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	// Anew, by its descriptor: a directory that was opened through os.Root looks at each
	// entry as it lists it.
	return openNoFollow(d, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
}
