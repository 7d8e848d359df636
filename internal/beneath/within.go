package beneath

import (
	"os"

	"golang.org/x/sys/unix"
)

// OpenWithin opens the directory at a path beneath root, of which top is an open file. Unlike
// with the other functions here, links on the way are followed as os.Root does: as long as
// they stay beneath root.
func OpenWithin(root *os.Root, top *os.File, path string) (*os.File, error) {
	return openWithin(root, top, path)
}

func openByRoot(root *os.Root, path string) (*os.File, error) {
	return root.OpenFile(path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}
