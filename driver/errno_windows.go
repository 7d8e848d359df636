package driver

import "syscall"

// Windows has neither number: package syscall invents them, as it does those of POSIX.
const (
	errNoXattr = syscall.ENODATA
	errCorrupt = syscall.EUCLEAN
)
