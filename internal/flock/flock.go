// Package flock takes advisory locks on files with flock(2). The kernel drops such a
// lock when the process that took it dies, in whatever mount or pid namespace it was,
// so a lock that can be taken proves that its holder is gone.
package flock

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/volehq/vole/internal/beneath"
	"golang.org/x/sys/unix"
)

// Lock is a held lock, exclusive unless it is made by WaitSharedIn.
type Lock struct{ f *os.File }

// Try takes the lock on the file at path, making the file (0600) when it is missing. A link
// of that name, which could have one made anywhere, is not followed.
// It returns nil without an error when another holds it.
func Try(path string) (*Lock, error) {
	return tryLockCreating(unix.LOCK_EX, func() (*os.File, error) { return os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600) })
}

// TryIn is Try for a file beneath an open directory, on the way to which no link is
// followed.
func TryIn(dir *os.File, name string) (*Lock, error) {
	return tryLockIn(unix.LOCK_EX, dir, name)
}

func tryLockIn(kind int, dir *os.File, name string) (*Lock, error) {
	return tryLockCreating(kind, func() (*os.File, error) { return beneath.OpenFile(dir, name, os.O_RDWR|os.O_CREATE, 0o600) })
}

func tryLockCreating(kind int, open func() (*os.File, error)) (*Lock, error) {
	for {
		f, err := open()
		if err != nil {
			return nil, err
		}
		l, err := tryFlock(kind, f)
		if l == nil || err != nil {
			return nil, err
		}
		// Whoever held it may have removed the file before letting go of it, and
		// then this lock would be on a file that nobody else can find.
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Nlink > 0 {
			return l, err
		}
		l.Release()
	}
}

// TryExisting is Try for a file that must be there.
func TryExisting(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return tryFlock(unix.LOCK_EX, f)
}

// TryExistingIn is TryExisting for a file beneath an open directory, as TryIn.
func TryExistingIn(dir *os.File, name string) (*Lock, error) {
	f, err := beneath.OpenFile(dir, name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return tryFlock(unix.LOCK_EX, f)
}

func tryFlock(kind int, f *os.File) (*Lock, error) {
	for {
		err := unix.Flock(int(f.Fd()), kind|unix.LOCK_NB)
		switch {
		case err == nil:
			return &Lock{f}, nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EWOULDBLOCK):
			f.Close()
			return nil, nil
		default:
			f.Close()
			return nil, err
		}
	}
}

// Wait takes the lock, waiting for it as long as ctx lasts.
func Wait(ctx context.Context, path string) (*Lock, error) {
	return pollUntilLocked(ctx, func() (*Lock, error) { return Try(path) })
}

// WaitIn is Wait for a file beneath an open directory, as TryIn.
func WaitIn(ctx context.Context, dir *os.File, name string) (*Lock, error) {
	return pollUntilLocked(ctx, func() (*Lock, error) { return TryIn(dir, name) })
}

// WaitSharedIn is WaitIn for a lock that any number may hold, and nobody an exclusive one
// beside them.
func WaitSharedIn(ctx context.Context, dir *os.File, name string) (*Lock, error) {
	return pollUntilLocked(ctx, func() (*Lock, error) { return tryLockIn(unix.LOCK_SH, dir, name) })
}

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

// File is the locked file. It must not be closed but by Release.
func (l *Lock) File() *os.File { return l.f }

// Release gives the lock up.
func (l *Lock) Release() error { return l.f.Close() }
