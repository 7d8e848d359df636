package flock

import (
	"context"
	"errors"
	"math"
	"os"

	"golang.org/x/sys/windows"
)

// noFollow has no counterpart here: making a symbolic link takes a privilege.
const noFollow = 0

// WaitIn returns errors.ErrUnsupported: files are not opened beneath a directory here.
func WaitIn(context.Context, *os.File, string) (*Lock, error) { return nil, errors.ErrUnsupported }

// WaitSharedIn returns errors.ErrUnsupported, as WaitIn.
func WaitSharedIn(context.Context, *os.File, string) (*Lock, error) {
	return nil, errors.ErrUnsupported
}

// TryFile takes the lock on an open file, until that is closed; false: another holds it.
func TryFile(f *os.File, exclusive bool) (held bool, err error) {
	flags := uint32(windows.LOCKFILE_FAIL_IMMEDIATELY)
	if exclusive {
		flags |= windows.LOCKFILE_EXCLUSIVE_LOCK
	}
	err = windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, math.MaxUint32, math.MaxUint32, new(windows.Overlapped))
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
		return false, nil
	}
	return err == nil, err
}

// isRemoved reports whether an open file has no name any more: a file that is open keeps it here.
func isRemoved(*os.File) (bool, error) { return false, nil }
