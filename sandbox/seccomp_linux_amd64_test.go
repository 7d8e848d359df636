package sandbox

import "golang.org/x/sys/unix"

const sysModifyLDT = unix.SYS_MODIFY_LDT
