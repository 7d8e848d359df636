//go:build unix && !linux

package beneath

import (
	"errors"
	"os"
)

// openat2 is a system call of Linux alone.
func openat2(*os.File, string, int) (int, error) { return 0, errors.ErrUnsupported }
