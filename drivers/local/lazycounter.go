//go:build unix

package local

import (
	"context"
	"sync/atomic"
)

// lazyCounter is the counter of a volume for one user, which acquires it at the first change. It
// implements disk.Counter.
type lazyCounter struct {
	b        *Backend
	id       string
	acquired atomic.Pointer[counter] // nil until the first change
}

// acquire returns the counter.
func (l *lazyCounter) acquire(ctx context.Context) (*counter, error) {
	if c := l.acquired.Load(); c != nil {
		return c, nil
	}
	c, err := l.b.acquireCounter(ctx, l.id)
	if err != nil {
		return nil, err
	}
	if !l.acquired.CompareAndSwap(nil, c) {
		c.release() // another change was first
	}
	return l.acquired.Load(), nil
}

// BeginChange implements disk.Counter. Files of a disk are changed under the hold on its
// directory, not under locks of the page.
func (l *lazyCounter) BeginChange(ctx context.Context) error {
	c, err := l.acquire(ctx)
	if err == nil {
		c.touchLastUse()
	}
	return err
}

// AddBytes implements disk.Counter.
func (l *lazyCounter) AddBytes(more int64) bool {
	c := l.acquired.Load()
	if c != nil {
		c.page.addBytes(more)
	}
	return c != nil
}

// Release implements disk.Counter. stale marks the usage: changes were charged that may not have
// lasted.
func (l *lazyCounter) Release(stale bool) {
	c := l.acquired.Load()
	if c == nil {
		return
	}
	if stale {
		c.markStale()
	}
	c.release()
}
