//go:build unix

package core

import (
	"math"
	"syscall"
)

// descriptorLimit returns RLIMIT_NOFILE of this process.
func descriptorLimit() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 1024
	}
	return int(min(l.Cur, math.MaxInt32))
}
