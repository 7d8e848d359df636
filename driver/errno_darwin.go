package driver

import "syscall"

// errNoXattr is what getxattr(2) returns for a missing attribute on this system.
const errNoXattr = syscall.ENOATTR

// errCorrupt is EIO: this system has no errno for structures that contradict themselves.
const errCorrupt = syscall.EIO
