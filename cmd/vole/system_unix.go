//go:build unix

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"golang.org/x/sys/unix"
)

// checkSystem returns the error of an operation that keeps volumes on this host: none.
func checkSystem(string) error { return nil }

// forwardedSignals are the signals that the program gets when vole does.
var forwardedSignals = []os.Signal{
	syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
}

// inForeground reports whether vole's process group is the one that the controlling
// terminal sends its signals to.
func inForeground() bool {
	tty, err := os.OpenFile("/dev/tty", os.O_RDONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	defer tty.Close()
	pgrp, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && pgrp == unix.Getpgrp()
}

// notifyResize has changes of the terminal's size sent to a channel.
func notifyResize(resized chan<- os.Signal) { signal.Notify(resized, syscall.SIGWINCH) }

// restrictNewFiles has files made for their owner alone until restore is called.
func restrictNewFiles() (restore func()) {
	old := syscall.Umask(0o177)
	return func() { syscall.Umask(old) }
}

// fileOwner is the user id of a file's owner; -1: unknown.
func fileOwner(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

// openFileOrDevice opens a file, or a block device, which no file system may be mounted from
// but for reading only.
func openFileOrDevice(name string, flag int) (*os.File, error) {
	st, err := os.Stat(name)
	if err != nil || !isBlockDevice(st.Mode()) {
		return os.OpenFile(name, flag, 0)
	}
	f, err := os.OpenFile(name, flag|unix.O_EXCL, 0) // of a device: for one user alone
	if !errors.Is(err, unix.EBUSY) {
		return f, err
	}
	if flag&unix.O_ACCMODE == os.O_RDONLY && onlyMountedReadOnly(st) {
		return os.OpenFile(name, flag, 0)
	}
	return nil, driver.Errorf(vole.ErrInUse, "the device is in use, by a mount perhaps; unmount it first")
}

// onlyMountedReadOnly reports whether all mounts of a block device are for reading only.
func onlyMountedReadOnly(device os.FileInfo) bool {
	st, ok := device.Sys().(*syscall.Stat_t)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if !ok || err != nil {
		return false
	}
	number := fmt.Sprintf("%d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
	found := false
	for line := range strings.Lines(string(mounts)) {
		_, source, _ := strings.Cut(line, " - ") // type, source, options of the file system
		mount, options := strings.Fields(line), strings.Fields(source)
		if len(mount) < 3 || mount[2] != number || len(options) < 3 {
			continue
		}
		found = true
		if o := strings.Split(options[2], ","); !slices.Contains(o, "ro") {
			return false
		}
	}
	return found
}
