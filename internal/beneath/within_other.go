//go:build unix && !linux

package beneath

import (
	"errors"
	"os"
)

// openDirWithin opens a directory through os.Root.
func openDirWithin(root *os.Root, _ *os.File, path string) (*os.File, error) {
	return openDirByRoot(root, path)
}

// openFileWithin needs openat2, which this system does not have.
func openFileWithin(*os.File, string) (int, error) { return 0, errors.ErrUnsupported }
