//go:build !darwin

package driver

import "syscall"

// What getxattr(2) returns for a missing attribute, and a file system for structures it cannot
// trust. Windows has neither: package syscall invents both, as it does the numbers of POSIX.
const (
	errNoXattr = syscall.ENODATA
	errCorrupt = syscall.EUCLEAN
)
