//go:build !linux

package beneath

import "os"

func openWithin(root *os.Root, _ *os.File, path string) (*os.File, error) {
	return openByRoot(root, path)
}
