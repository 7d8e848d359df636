//go:build !linux

package servers

import "syscall"

// dieWithParent does nothing: a server outlives a process that is killed.
func dieWithParent(*syscall.SysProcAttr, syscall.Signal) {}
