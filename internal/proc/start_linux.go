package proc

import (
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
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return time.Time{}
	}
	// The second field is the program's name in parentheses and may hold anything.
	s := string(stat)
	fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(fields) < 20 {
		return time.Time{}
	}
	ticks, err := strconv.ParseInt(fields[19], 10, 64) // starttime, field 22
	if err != nil {
		return time.Time{}
	}
	return bootTime().Add(time.Duration(ticks) * time.Second / userHZ).UTC()
}

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
