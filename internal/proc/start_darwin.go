package proc

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Start is when this process started; the zero time where that cannot be read.
func Start() time.Time {
	p, err := unix.SysctlKinfoProc("kern.proc.pid", os.Getpid())
	if err != nil {
		return time.Time{}
	}
	return time.Unix(p.Proc.P_starttime.Unix()).UTC()
}
