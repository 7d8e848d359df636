//go:build unix

package flock

import (
	"context"
	"errors"
	"os"

	"github.com/volehq/vole/internal/beneath"
	"golang.org/x/sys/unix"
)

// noFollow is the flag of open(2) that refuses a symbolic link.
const noFollow = unix.O_NOFOLLOW

// TryIn is Try for a file beneath an open directory, on the way to which no link is
// followed.
func TryIn(dir *os.File, name string) (*Lock, error) {
	return tryLockIn(true, dir, name)
}

// tryLockIn is TryIn for a lock of a kind, LOCK_EX or LOCK_SH.
func tryLockIn(exclusive bool, dir *os.File, name string) (*Lock, error) {
	return tryLockCreating(exclusive, func() (*os.File, error) { return beneath.OpenFile(dir, name, os.O_RDWR|os.O_CREATE, 0o600) })
}

// TryExistingIn is TryExisting for a file beneath an open directory, as TryIn.
func TryExistingIn(dir *os.File, name string) (*Lock, error) {
	f, err := beneath.OpenFile(dir, name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return TryOpened(f, true)
}

// WaitIn is Wait for a file beneath an open directory, as TryIn.
func WaitIn(ctx context.Context, dir *os.File, name string) (*Lock, error) {
	return pollUntilLocked(ctx, func() (*Lock, error) { return TryIn(dir, name) })
}

// WaitSharedIn is WaitIn for a shared lock: any number may hold it, while no exclusive one is
// held.
func WaitSharedIn(ctx context.Context, dir *os.File, name string) (*Lock, error) {
	return pollUntilLocked(ctx, func() (*Lock, error) { return tryLockIn(false, dir, name) })
}

// TryFile takes the lock on an open file, until that is closed; false: another holds it.
func TryFile(f *os.File, exclusive bool) (held bool, err error) {
	kind := unix.LOCK_SH
	if exclusive {
		kind = unix.LOCK_EX
	}
	err = beneath.RetryInterrupted(func() error { return unix.Flock(int(f.Fd()), kind|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// isRemoved reports whether an open file has no name any more.
func isRemoved(f *os.File) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return err == nil && st.Nlink == 0, err
}
