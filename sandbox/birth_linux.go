package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"time"

	"github.com/volehq/vole/driver"
	nolinks "github.com/volehq/vole/internal/beneath"
	"github.com/volehq/vole/internal/proc"
	"golang.org/x/sys/unix"
)

// A supervisor that is killed loses its lock before the kernel has killed its helper
// and the processes in the helper's pid namespace. A runtime that is still dying may
// make another control group, so a cleanup waits for the helper first. To be found, the
// helper is named in a file before it learns what to run.

// helperRecord names a process, and no other one at any time on any machine.
type helperRecord struct {
	Boot  string `json:"boot"`  // boot_id of random(4)
	PID   int    `json:"pid"`   // as the supervisor sees it
	Start int64  `json:"start"` // starttime of proc(5), in clock ticks since boot
}

// maxHelperRecord bounds the bytes of a record that are read, far more than one has.
const maxHelperRecord = 4 << 10

// recordHelper stores which process is a sandbox's helper.
func (m *Manager) recordHelper(id string, pid int) error {
	start, err := proc.StartTicks(pid)
	if err != nil {
		return err
	}
	b, err := json.Marshal(helperRecord{readBootID(), pid, start})
	if err != nil {
		return err
	}
	return m.createSandboxFile(id+"/"+helperFile, b)
}

// createSandboxFile makes a small file beneath the directory of sandboxes, which must not exist.
func (m *Manager) createSandboxFile(name string, b []byte) error {
	f, err := nolinks.OpenFile(m.sandboxesDir, name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// readSandboxFile reads a file beneath the directory of sandboxes, at most so many bytes of it.
// The owner of the home may have put anything there.
func (m *Manager) readSandboxFile(name string, most int64) ([]byte, error) {
	f, err := nolinks.OpenFile(m.sandboxesDir, name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

// recordedHelper opens the helper of a sandbox as a pidfd; nil if it has ended, or there
// never was one. A record that cannot be read counts as none: a damaged record must not
// keep the sandbox from being cleaned up.
func (m *Manager) recordedHelper(id string) *os.File {
	b, err := m.readSandboxFile(id+"/"+helperFile, maxHelperRecord)
	var r helperRecord
	if err != nil || json.Unmarshal(b, &r) != nil || r.PID < 2 || r.Boot != readBootID() {
		return nil
	}
	fd, err := unix.PidfdOpen(r.PID, 0)
	if err != nil {
		return nil // it has ended; or the kernel is older than 5.3
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	if start, err := proc.StartTicks(r.PID); err != nil || start != r.Start {
		pidfd.Close()
		return nil // another process with its number
	}
	return pidfd
}

// awaitHelper waits until the helper of a dead supervisor has ended, and with it all
// processes of its pid namespace: the kernel lets process 1 of one end last. Frozen
// processes die only when they are thawed.
func (m *Manager) awaitHelper(ctx context.Context, id string) error {
	pidfd := m.recordedHelper(id)
	if pidfd == nil {
		return nil
	}
	defer pidfd.Close()
	for ctx.Err() == nil {
		if err := thawSandbox(id); err != nil {
			return err
		}
		poll := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, int(thawEvery/time.Millisecond))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
		if n > 0 {
			return nil
		}
	}
	return driver.Errorf(ctx.Err(), "the processes of sandbox %s are still ending; try again", id)
}
