//go:build unix && !linux

package beneath

import (
	"errors"
	"os"
)

func openDirWithin(root *os.Root, _ *os.File, path string) (*os.File, error) {
	return openDirByRoot(root, path)
}

func openFileWithin(*os.File, string) (int, error) { return 0, errors.ErrUnsupported }
