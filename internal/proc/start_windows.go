package proc

import (
	"time"

	"golang.org/x/sys/windows"
)

// Start is when this process started; the zero time where that cannot be read.
func Start() time.Time {
	var created, exited, kernel, user windows.Filetime
	if err := windows.GetProcessTimes(windows.CurrentProcess(), &created, &exited, &kernel, &user); err != nil {
		return time.Time{}
	}
	return time.Unix(0, created.Nanoseconds()).UTC()
}
