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

// ctxMutex is a mutex whose Lock gives up when a context ends.
type ctxMutex chan struct{}

func newCtxMutex() ctxMutex { return make(ctxMutex, 1) }

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

func (m ctxMutex) unlock() { <-m }

// lockRange locks bytes of the page's file against other processes, and against
// other open pages of this one.
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
		select {
		case <-ctx.Done():
			who := p.holder()
			if who == "" {
				who = "another process"
			}
			return fmt.Errorf("waiting for the volume, which is held by %s: %w", who, ctx.Err())
		case <-time.After(pause/2 + rand.N(pause)):
			pause = min(2*pause, 5*time.Millisecond)
		}
	}
}

func (p *page) unlockRange(start, length int64) {
	// Unlocking cannot fail on a file that could be locked.
	_ = lockRange(p.f, unix.F_UNLCK, start, length)
}

// lockAll takes all locks of a volume: nothing changes names or sizes meanwhile, in
// any process. The page must not be one that a counter uses for its own locks.
func (p *page) lockAll(ctx context.Context, why string) (unlock func(), err error) {
	// One by one, in the order in which changes take them: all at once would find a
	// busy volume never free.
	for i := range int64(lockAllLen) {
		if err := p.lockRange(ctx, lockNames+i, 1); err != nil {
			p.unlockRange(lockNames, lockAllLen)
			return nil, err
		}
	}
	p.setHolder(fmt.Sprintf("%s (process %d): %s", filepath.Base(os.Args[0]), os.Getpid(), why))
	return func() {
		p.setHolder("")
		p.unlockRange(lockNames, lockAllLen)
	}, nil
}

// with runs fn holding one lock of the volume: in this process by m, against others
// by a byte of the page's file.
func (c *counter) with(ctx context.Context, m ctxMutex, at int64, fn func() error) error {
	if err := m.lock(ctx); err != nil {
		return fmt.Errorf("waiting for another change of the volume by this process: %w", err)
	}
	defer m.unlock()
	if err := c.page.lockRange(ctx, at, 1); err != nil {
		return err
	}
	defer c.page.unlockRange(at, 1)
	if c.page.load(offRemoved) != 0 {
		return volumeGone()
	}
	return fn()
}

// changeNames runs a change of directory entries that may change the usage.
func (c *counter) changeNames(ctx context.Context, fn func() error) error {
	return c.with(ctx, c.names, lockNames, fn)
}

// changeFile runs a change of a file's size. It may be called within changeNames,
// never the other way round.
func (c *counter) changeFile(ctx context.Context, ino uint64, fn func() error) error {
	i := ino % stripes
	return c.with(ctx, c.files[i], lockFiles+int64(i), fn)
}

// losing runs fn, which takes the name at p from the file old, under the lock of that
// file, so that its size and link count stand still. old may be nil: nothing is there.
func (c *counter) losing(ctx context.Context, p place, old *unix.Stat_t, fn func(old *unix.Stat_t) error) error {
	if old == nil || old.Mode&unix.S_IFMT != unix.S_IFREG {
		return fn(old)
	}
	return c.changeFile(ctx, uint64(old.Ino), func() error {
		now, err := p.stat()
		if err != nil {
			return err
		}
		return fn(&now)
	})
}

// unlink returns a function for removeTree that keeps the charge right.
func (c *counter) unlink(ctx context.Context) unlinkFunc {
	return func(dir *os.File, name string, st *unix.Stat_t) error {
		p := place{dir: dir, base: name}
		return c.losing(ctx, p, st, func(st *unix.Stat_t) error {
			if err := unlink(dir, name, st); err != nil {
				return err
			}
			c.lostName(st)
			return nil
		})
	}
}

// inode is a file that this process has open for writing. Once it has lost its last
// name, its bytes are charged until it is closed: base by the process that took the
// name away, if that had it open, and late by whichever writes to it then.
type inode struct {
	refs  int
	base  int64 // size when it lost its last name, not yet given back
	late  int64 // what it grew by since then
	epoch int64 // of the counter when base or late was first set, or last measured
}

// openWriter notes that this process has a file open for writing.
func (c *counter) openWriter(ino uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.writers[ino]
	if w == nil {
		w = &inode{}
		c.writers[ino] = w
	}
	w.refs++
}

// closeWriter undoes openWriter, giving back what a file without a name is charged.
func (c *counter) closeWriter(ino uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.writers[ino]
	w.refs--
	if w.refs > 0 {
		return
	}
	delete(c.writers, ino)
	switch {
	case w.base+w.late == 0:
	case w.epoch == c.page.load(offEpoch):
		c.page.add(-w.base - w.late)
	default:
		// Another process has measured since, and could not see this file, so some of
		// it is charged no more. Only another measurement can tell.
		c.page.store(offStale, 1)
	}
}

// isOpen reports whether this process has a file open for writing.
func (c *counter) isOpen(ino uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.writers[ino] != nil
}

// lostName corrects the charge after a name of a file was taken away, st being what
// the file was before. Call it under the file's lock.
func (c *counter) lostName(st *unix.Stat_t) {
	if st == nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink > 1 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.writers[uint64(st.Ino)]
	if w == nil {
		c.page.add(-st.Size)
		return
	}
	w.note(c, &w.base, st.Size)
}

// grewNameless notes that an open file without a name has grown by n bytes.
func (c *counter) grewNameless(ino uint64, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.writers[ino]
	w.note(c, &w.late, n)
}

func (w *inode) note(c *counter, field *int64, n int64) {
	if w.base == 0 && w.late == 0 {
		w.epoch = c.page.load(offEpoch)
	}
	*field += n
}

// namelessBytes is what files are charged that this process has open without a name.
func (b *Backend) namelessBytes(id string) int64 {
	var sum int64
	b.eachWriter(id, func(w *inode) { sum += w.base + w.late })
	return sum
}

// renewEpoch notes that a measurement has taken the files without a name into account.
func (b *Backend) renewEpoch(id string, epoch int64) {
	b.eachWriter(id, func(w *inode) { w.epoch = epoch })
}

func (b *Backend) eachWriter(id string, fn func(*inode)) {
	b.mu.Lock()
	c := b.counters[id]
	b.mu.Unlock()
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.writers {
		fn(w)
	}
}
