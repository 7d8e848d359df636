//go:build !linux

package sparse

import (
	"os"
	"syscall"
)

// PunchHole returns ENOTSUP: macOS punches aligned ranges only, and Windows sparse files only.
func PunchHole(*os.File, int64, int64) error { return syscall.ENOTSUP }
