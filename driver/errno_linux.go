package driver

import "syscall"

// errNoXattr is what getxattr(2) returns for a missing attribute on this system.
const errNoXattr = syscall.ENODATA

// errCorrupt is what a file system returns for structures it cannot trust.
const errCorrupt = syscall.EUCLEAN
