//go:build unix

package local

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/volehq/vole/internal/loop"
	"golang.org/x/sys/unix"
)

// loopDeviceOf returns a loop device that has an image, if one has: then it is mounted, or
// may be at any time, whoever did it. Beside readers only those that write count.
func loopDeviceOf(image *os.File, reading bool) string {
	for _, d := range loop.Of(image) {
		if !reading || !d.ReadOnly {
			return d.Name
		}
	}
	return ""
}

// describeLockHolder names a process that holds a lock on a file. /proc/locks has a line for
// each lock: its number, kind, ADVISORY, READ or WRITE, pid, and device:inode. The pid is
// of who took it; when that has died, the lock is held by others that have inherited it.
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

// describeProcess describes a live process.
func describeProcess(pid string) string {
	comm, err := os.ReadFile("/proc/" + pid + "/comm")
	if err != nil {
		return ""
	}
	return fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(comm)))
}

// describeLockHeir looks for a process that has inherited a lock on a file: it has the file
// open, and the kernel shows the lock beside it.
func describeLockHeir(name string, st *unix.Stat_t) string {
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is well-formed
	for _, p := range fds {
		// First by name: on some file systems even a look at a file can take for ever.
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
