package main

import (
	"io/fs"
	"os"
	"syscall"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// checkSystem returns the error of an operation that keeps volumes on this host.
func checkSystem(op string) error {
	return &vole.Error{Op: op, Err: driver.Errorf(vole.ErrUnsupported, "this needs Linux or macOS; on Windows vole uses the volumes of a server ('vole login URL'), or runs in WSL")}
}

// forwardedSignals are the signals that the program gets when vole does.
var forwardedSignals = []os.Signal{os.Interrupt, syscall.SIGTERM}

// inForeground reports whether what is typed on the terminal reaches the program without
// help: all processes of a console get it.
func inForeground() bool { return true }

// notifyResize does nothing: the console tells of its size only who asks.
func notifyResize(chan<- os.Signal) {}

// restrictNewFiles does nothing: what is made inherits the access list of its directory.
func restrictNewFiles() (restore func()) { return func() {} }

// fileOwner is the user id of a file's owner; -1: unknown.
func fileOwner(fs.FileInfo) int { return -1 }

// openFileOrDevice opens a file.
func openFileOrDevice(name string, flag int) (*os.File, error) { return os.OpenFile(name, flag, 0) }
