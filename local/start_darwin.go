package local

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// processStart is when this process started; the zero time where that cannot be read.
func processStart() time.Time {
	p, err := unix.SysctlKinfoProc("kern.proc.pid", os.Getpid())
	if err != nil {
		return time.Time{}
	}
	return time.Unix(p.Proc.P_starttime.Unix()).UTC()
}
