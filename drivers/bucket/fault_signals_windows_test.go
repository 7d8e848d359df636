package bucket_test

import "syscall"

// There are no signals here that stop a process: tests that send these fail.
const (
	sigStop     = syscall.Signal(19)
	sigContinue = syscall.Signal(18)
)
