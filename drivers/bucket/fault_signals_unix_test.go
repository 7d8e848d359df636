//go:build unix

package bucket_test

import "syscall"

// Signals that stop a process and have it go on.
const (
	sigStop     = syscall.SIGSTOP
	sigContinue = syscall.SIGCONT
)
