//go:build unix

package local

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ctxMutex is a mutex whose lock gives up when a context ends.
type ctxMutex chan struct{}

// newCtxMutex returns an unlocked mutex.
func newCtxMutex() ctxMutex { return make(ctxMutex, 1) }

// lock waits for the mutex until ctx ends.
func (m ctxMutex) lock(ctx context.Context) error {
	select {
	case m <- struct{}{}:
		return nil
	default:
	}
	select {
	case m <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// unlock gives the mutex to the next waiter.
func (m ctxMutex) unlock() { <-m }

// lockRange sets or clears an open file description lock (fcntl(2), F_OFD_SETLK): unlike other
// POSIX locks it belongs to the open file, not to the process, and is dropped when that is closed
// or its process dies.
func lockRange(f *os.File, kind int16, start, length int64) error {
	l := unix.Flock_t{Type: kind, Start: start, Len: length}
	return unix.FcntlFlock(f.Fd(), ofdSetlk, &l)
}

// lockRange locks bytes of the page's file against other processes, and against other open pages
// of this one. It polls, with growing random pauses, until ctx ends.
func (p *page) lockRange(ctx context.Context, start, length int64) error {
	pause := 50 * time.Microsecond
	for {
		err := lockRange(p.f, unix.F_WRLCK, start, length)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EINTR) {
			return err
		}
		p.store(offWanted, time.Now().UnixNano())
		select {
		case <-ctx.Done():
			who := p.lockHolder()
			if who == "" {
				who = "another process"
			}
			return fmt.Errorf("waiting for the volume, which is held by %s: %w", who, ctx.Err())
		case <-time.After(pause/2 + rand.N(pause)):
			pause = min(2*pause, maxPause)
		}
	}
}

// yieldToWaiters gives way to other processes that wait for a lock of the page. They poll, so a
// process that takes the locks many times in a row must pause for the time of one poll.
func (p *page) yieldToWaiters() {
	if time.Since(time.Unix(0, p.load(offWanted))) < 2*maxPause {
		time.Sleep(2 * maxPause)
	}
}

// maxPause is the longest pause between two polls of a lock, before a random half is added.
const maxPause = 5 * time.Millisecond

// unlockRange undoes lockRange.
func (p *page) unlockRange(start, length int64) {
	// Unlocking cannot fail on a file that could be locked.
	_ = lockRange(p.f, unix.F_UNLCK, start, length)
}

// lockAllRanges takes all locks of a volume: until unlock is called no process changes names or
// sizes. The page must not be the one that a counter uses for its own locks.
func (p *page) lockAllRanges(ctx context.Context, why string) (unlock func(), err error) {
	// One by one, in the order in which changes take them: all at once would find a
	// busy volume never free.
	for i := range int64(lockAllLen) {
		if err := p.lockRange(ctx, lockNames+i, 1); err != nil {
			p.unlockRange(lockNames, lockAllLen)
			return nil, err
		}
	}
	p.setLockHolder(fmt.Sprintf("%s (process %d): %s", filepath.Base(os.Args[0]), os.Getpid(), why))
	return func() {
		p.setLockHolder("")
		p.unlockRange(lockNames, lockAllLen)
	}, nil
}

// withLock runs fn under one lock of the volume: m excludes this process, a byte of the page's
// file the others. A draft has no other users until shareDraft, which waits for m. ErrNotFound:
// the volume has been removed.
func (c *counter) withLock(ctx context.Context, m ctxMutex, at int64, fn func() error) error {
	if err := m.lock(ctx); err != nil {
		return fmt.Errorf("waiting for another change of the volume by this process: %w", err)
	}
	defer m.unlock()
	if !c.draft.Load() {
		if err := c.page.lockRange(ctx, at, 1); err != nil {
			return err
		}
		defer c.page.unlockRange(at, 1)
	}
	if c.page.load(offRemoved) != 0 {
		return errVolumeRemoved()
	}
	c.touchLastUse()
	return fn()
}

// withNamesLock runs a change of directory entries that may change the charge.
func (c *counter) withNamesLock(ctx context.Context, fn func() error) error {
	return c.withLock(ctx, c.namesLock, lockNames, fn)
}

// withFileLock runs a change of a file's size. It may be called within withNamesLock, never the
// other way round.
func (c *counter) withFileLock(ctx context.Context, ino uint64, fn func() error) error {
	i := ino % stripes
	return c.withLock(ctx, c.fileLocks[i], lockFiles+int64(i), fn)
}

// withReplacedFile runs fn, which removes or replaces the name at p of the file old, under the
// lock of that file, so that its size and link count stand still. fn gets the state of the file
// under the lock. old may be nil: the name is free.
func (c *counter) withReplacedFile(ctx context.Context, p resolved, old *unix.Stat_t, fn func(old *unix.Stat_t) error) error {
	if old == nil || old.Mode&unix.S_IFMT != unix.S_IFREG {
		return fn(old)
	}
	return c.withFileLock(ctx, uint64(old.Ino), func() error {
		now, err := p.lstat()
		if err != nil {
			return err
		}
		return fn(&now)
	})
}

// chargedRemoval removes trees and keeps the charge right. Between two names it lets other
// processes change the volume.
func (c *counter) chargedRemoval(ctx context.Context) removal {
	return removal{
		// A process that has a directory of the tree open may still change names in it, so the file
		// is looked at again under the lock; a directory is left for the next read of its parent.
		unlink: func(dir *os.File, name string, _ *unix.Stat_t) error {
			return c.withNamesLock(ctx, func() error {
				p := resolved{parent: dir, name: name}
				st, err := p.lstat()
				if err != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR {
					return err
				}
				return c.unlinkCharged(ctx, p, &st)
			})
		},
		rmdir: func(dir *os.File, name string) error {
			return c.withNamesLock(ctx, func() error {
				p := resolved{parent: dir, name: name}
				st, err := p.lstat()
				if err != nil {
					return err
				}
				return c.unchargeDirectory(p, &st, func() error { return c.b.host.rmdir(dir, name) })
			})
		},
		renamed: c.chargeRename,
		pause:   c.page.yieldToWaiters,
	}
}

// chargeRename corrects the charge for a directory that is renamed on its way out.
func (c *counter) chargeRename(from, to string) {
	c.page.addTally(tally{names: int64(len(to) - len(from))})
}

// unlinkCharged removes a name that is not a directory's and uncharges the file. Call it within
// withNamesLock.
func (c *counter) unlinkCharged(ctx context.Context, p resolved, st *unix.Stat_t) error {
	return c.withReplacedFile(ctx, p, st, func(st *unix.Stat_t) error {
		lost := c.freedTally(p, st)
		if err := c.b.host.unlink(p.parent, p.name, st); err != nil {
			return err
		}
		c.page.addTally(tally{}.minus(lost))
		c.unchargeLostName(st)
		return nil
	})
}
