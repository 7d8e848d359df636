// Package flock takes locks on files with flock(2), on Windows with LockFileEx. The kernel
// drops such a lock when the process that took it dies, in whatever mount or pid namespace
// it was, so a lock that can be taken proves that its holder is gone.
package flock

import (
	"context"
	"os"
	"time"
)

// Lock is a held lock, exclusive unless it is made by WaitSharedIn.
type Lock struct{ f *os.File }

// Try takes the lock on the file at path, making the file (0600) when it is missing. A link
// of that name, which could have one made anywhere, is not followed.
// It returns nil without an error when another holds it.
func Try(path string) (*Lock, error) {
	return tryLockCreating(true, func() (*os.File, error) { return os.OpenFile(path, os.O_RDWR|os.O_CREATE|noFollow, 0o600) })
}

// tryLockCreating locks the file that open returns, and opens it again if the holder before has
// removed it.
func tryLockCreating(exclusive bool, open func() (*os.File, error)) (*Lock, error) {
	for {
		f, err := open()
		if err != nil {
			return nil, err
		}
		l, err := TryOpened(f, exclusive)
		if l == nil || err != nil {
			return nil, err
		}
		// The holder before may have removed the file before it released the lock: then
		// this lock is on a file that no other process can find.
		if gone, err := isRemoved(f); err != nil || !gone {
			return l, err
		}
		l.Release()
	}
}

// TryExisting is Try for a file that must be there.
func TryExisting(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|noFollow, 0)
	if err != nil {
		return nil, err
	}
	return TryOpened(f, true)
}

// TryOpened takes the lock on an open file, which Release closes. It returns nil without an error
// when another holds it. Without the lock, the file is closed.
func TryOpened(f *os.File, exclusive bool) (*Lock, error) {
	held, err := TryFile(f, exclusive)
	if err != nil || !held {
		f.Close()
		return nil, err
	}
	return &Lock{f}, nil
}

// Wait takes the lock, waiting for it as long as ctx lasts.
func Wait(ctx context.Context, path string) (*Lock, error) {
	return pollUntilLocked(ctx, func() (*Lock, error) { return Try(path) })
}

// pollUntilLocked calls try, with growing pauses, until it returns a lock or an error or ctx
// ends.
func pollUntilLocked(ctx context.Context, try func() (*Lock, error)) (*Lock, error) {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		l, err := try()
		if l != nil || err != nil {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// File is the locked file, which another process may inherit; nil without a lock. It must not be
// closed but by Release.
func (l *Lock) File() *os.File {
	if l == nil {
		return nil
	}
	return l.f
}

// Release gives the lock up, unless another process has inherited the file. A nil Lock has nothing
// to give up.
func (l *Lock) Release() error {
	if l == nil {
		return nil
	}
	return l.f.Close()
}
