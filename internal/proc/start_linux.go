package proc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// userHZ is the unit of times in /proc, in ticks a second. It is 100 on every
// architecture that Go runs on (proc(5), sysconf(_SC_CLK_TCK)).
const userHZ = 100

// Start is when this process started, from proc(5); the zero time where that
// cannot be read.
func Start() time.Time {
	ticks, err := StartTicks(os.Getpid())
	if err != nil {
		return time.Time{}
	}
	return bootTime().Add(time.Duration(ticks) * time.Second / userHZ).UTC()
}

// StartTicks is when a process started, in clock ticks since the system was booted. With
// its number it names the process: numbers are used again, but not within a tick.
func StartTicks(pid int) (int64, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The second field is the program's name in parentheses and may hold anything.
	s := string(stat)
	fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields after the name, want 20 or more", pid, len(fields))
	}
	return strconv.ParseInt(fields[19], 10, 64) // starttime, field 22
}

// bootTime is when the system was booted, in whole seconds.
func bootTime() time.Time {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "btime "); ok {
			sec, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return time.Unix(sec, 0)
		}
	}
	return time.Time{}
}
