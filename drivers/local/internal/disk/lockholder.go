//go:build unix

package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/volehq/vole/internal/loop"
	"golang.org/x/sys/unix"
)

// loopDeviceOf returns the name of a loop device that uses the image, "" if none does. Such a
// device is mounted or may be at any time. For a reader only writable devices count.
func loopDeviceOf(image *os.File, reading bool) string {
	for _, d := range loop.Of(image) {
		if !reading || !d.ReadOnly {
			return d.Name
		}
	}
	return ""
}

// describeLockHolder names a process that holds a flock on f, "" if none does. /proc/locks has a
// line for each lock: number, kind, ADVISORY, READ or WRITE, pid, and device:inode. The pid is
// that of the process that took the lock; if that is dead, processes that inherited the open
// file hold it.
func describeLockHolder(f *os.File) string {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return ""
	}
	found := false
	list, _ := os.ReadFile("/proc/locks")
	for line := range strings.Lines(string(list)) {
		w := strings.Fields(line)
		if len(w) < 6 || w[1] != "FLOCK" || !strings.HasSuffix(w[5], fmt.Sprintf(":%d", st.Ino)) {
			continue
		}
		found = true
		if w[4] == fmt.Sprint(os.Getpid()) {
			return "this process"
		}
		if name := describeProcess(w[4]); name != "" {
			return name
		}
	}
	if !found {
		return ""
	}
	if heir := describeLockHeir(filepath.Base(f.Name()), &st); heir != "" {
		return heir
	}
	return "a process that cannot be seen from here"
}

// describeProcess returns the number and the name of a live process, "" if it is dead.
func describeProcess(pid string) string {
	comm, err := os.ReadFile("/proc/" + pid + "/comm")
	if err != nil {
		return ""
	}
	return fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(comm)))
}

// describeLockHeir names a process that inherited a lock on a file: it has the file open, and
// its fdinfo shows the lock.
func describeLockHeir(name string, st *unix.Stat_t) string {
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is well-formed
	for _, p := range fds {
		// Compare names first: on some file systems a stat can hang.
		if to, err := os.Readlink(p); err != nil || filepath.Base(to) != name {
			continue
		}
		var open unix.Stat_t
		if unix.Stat(p, &open) != nil || open.Dev != st.Dev || open.Ino != st.Ino {
			continue
		}
		w := strings.Split(p, "/") // "", proc, PID, fd, N
		info, _ := os.ReadFile("/proc/" + w[2] + "/fdinfo/" + w[4])
		if strings.Contains(string(info), "FLOCK") {
			if name := describeProcess(w[2]); name != "" {
				return name
			}
		}
	}
	return ""
}
