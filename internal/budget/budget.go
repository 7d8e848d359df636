// Package budget bounds the memory that requests hold: on the whole server, and of each
// organisation, so that the slow clients of one do not take the memory of others.
package budget

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Class says what memory is for. Each class may fill the budget up to its limit only, lower for
// larger uses, so that requests that hold much leave room for small ones.
type Class int

const (
	Small      Class = iota // a request that moves no file content: all of the budget
	Stream                  // a request that does: seven eighths
	Buffer                  // what it holds beyond that, of a body, a chunk, an answer: five eighths
	classCount = 3
)

// classLimit returns how much of a budget of n bytes may be in use, in all, after a class took
// its part.
func (c Class) classLimit(n int64) int64 { return [classCount]int64{n, n / 8 * 7, n / 8 * 5}[c] }

// Error says that no room became free while a caller waited.
type Error struct {
	Own bool // the organisation's share is used up; else that of the server is
}

func (e *Error) Error() string {
	if e.Own {
		return "the requests of the organisation are at their memory limit; make fewer at once, or read and send faster"
	}
	return "the requests of all organisations are at the server's memory limit; try again"
}

// Retry is after what time a refused client should try again.
const Retry = 2 * time.Second

// Budget is a fair semaphore of bytes with two levels, the server and its organisations. Its
// methods may be called concurrently. One mutex guards it and all of its shares.
type Budget struct {
	maxBytes, maxShareBytes int64
	maxWait                 time.Duration

	mu     sync.Mutex // guards what follows, and every Share
	used   int64
	shares map[string]*Share
	// turns lists, for each class, the shares that have waiters, in the order in which they are
	// served.
	turns [classCount][]*Share
}

// Share is one organisation's part of a Budget. A nil Share is unlimited.
type Share struct {
	// Dirty is how many bytes of the share hold dirty data, as counted by the writers.
	Dirty atomic.Int64
	// Windows is how many bytes of the share hold chunk lists of open files.
	Windows atomic.Int64

	budget *Budget
	used   int64
	queue  [classCount][]*waiter // first come, first served
}

// waiter is a blocked Acquire.
type waiter struct {
	bytes   int64
	granted chan struct{} // closed with mu held
}

// New returns a budget of most bytes, of which one share may have mostShare. A caller that finds
// no room waits for it, for wait at most.
func New(most, mostShare int64, wait time.Duration) *Budget {
	return &Budget{maxBytes: most, maxShareBytes: min(mostShare, most), maxWait: wait, shares: map[string]*Share{}}
}

// Share returns the share of that name. The shares of a nil Budget are unlimited.
func (b *Budget) Share(name string) *Share {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.shares[name]
	if s == nil {
		s = &Share{budget: b}
		b.shares[name] = s
	}
	return s
}

// shareFloor is what a share may always use, even if the others use up the whole: so nobody can
// keep another organisation from working in small steps. The floors together may exceed most.
func (b *Budget) shareFloor() int64 { return b.maxShareBytes / 32 }

// Part returns an nth of what a share may have.
func (s *Share) Part(n int64) int64 {
	return s.budget.maxShareBytes / n
}

// Used returns the bytes that all shares hold.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// hasRoomFor reports whether n bytes fit. If they do not, own says whether the share is the
// reason. The caller holds mu, here and below.
func (s *Share) hasRoomFor(c Class, n int64) (ok, own bool) {
	if s.used+n > c.classLimit(s.budget.maxShareBytes) {
		return false, true
	}
	return s.used+n <= s.budget.shareFloor() || s.budget.used+n <= c.classLimit(s.budget.maxBytes), false
}

// addUsedBytes counts n bytes on both levels.
func (s *Share) addUsedBytes(n int64) {
	s.used += n
	s.budget.used += n
}

// Acquire takes n bytes, waiting for them if need be. Release returns them.
func (s *Share) Acquire(ctx context.Context, c Class, n int64) error {
	if s == nil || n <= 0 {
		return nil
	}
	b := s.budget
	b.mu.Lock()
	if s.takeIfFree(c, n) {
		b.mu.Unlock()
		return nil
	}
	if n > c.classLimit(b.maxShareBytes) {
		b.mu.Unlock()
		return &Error{Own: true}
	}
	w := &waiter{bytes: n, granted: make(chan struct{})}
	if s.queue[c] = append(s.queue[c], w); len(s.queue[c]) == 1 {
		b.turns[c] = append(b.turns[c], s)
	}
	b.mu.Unlock()
	timer := time.NewTimer(b.maxWait)
	defer timer.Stop()
	select {
	case <-w.granted:
		return nil
	case <-timer.C:
		return s.abandonWait(c, w, nil)
	case <-ctx.Done():
		return s.abandonWait(c, w, ctx.Err())
	}
}

// abandonWait removes a waiter from its queue. If it was granted its bytes at the last moment,
// it keeps them, unless it has an error to return.
func (s *Share) abandonWait(c Class, w *waiter, err error) error {
	b := s.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(s.queue[c], w)
	if i < 0 {
		if err != nil {
			s.returnBytes(w.bytes)
		}
		return err
	}
	_, own := s.hasRoomFor(c, w.bytes)
	s.queue[c] = slices.Delete(s.queue[c], i, i+1)
	if len(s.queue[c]) == 0 {
		b.removeFromTurns(c, s)
	}
	b.grantWaiters() // waiters behind it may need less
	if err == nil {
		err = &Error{Own: own}
	}
	return err
}

// takeIfFree takes n bytes if they are free and no waiter has a right to them first: one of the
// same share, or one of another share that waits for the server's bytes.
func (s *Share) takeIfFree(c Class, n int64) bool {
	if len(s.queue[c]) > 0 {
		return false
	}
	for _, first := range s.budget.turns[c] {
		if ok, own := first.hasRoomFor(c, first.queue[c][0].bytes); !ok && !own && s.used+n > s.budget.shareFloor() {
			return false // it waits for bytes of the server
		}
	}
	ok, _ := s.hasRoomFor(c, n)
	if ok {
		s.addUsedBytes(n)
	}
	return ok
}

// Try takes n bytes if they are free.
func (s *Share) Try(c Class, n int64) bool {
	if s == nil || n <= 0 {
		return true
	}
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	return s.takeIfFree(c, n)
}

// Refusal returns the error for a caller that does not wait after Try.
func (s *Share) Refusal(c Class, n int64) error {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	_, own := s.hasRoomFor(c, n)
	return &Error{Own: own}
}

// UpTo takes as much as is free, from most downward by halves, and waits only for least. It
// returns how much it took.
func (s *Share) UpTo(ctx context.Context, c Class, least, most int64) (int64, error) {
	for n := most; n > least; n = max(n/2, least) {
		if s.Try(c, n) {
			return n, nil
		}
	}
	least = min(least, most)
	return least, s.Acquire(ctx, c, least)
}

// Release returns n bytes.
func (s *Share) Release(n int64) {
	if s == nil || n <= 0 {
		return
	}
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	s.returnBytes(n)
}

// returnBytes returns n bytes and serves waiters.
func (s *Share) returnBytes(n int64) {
	s.addUsedBytes(-n)
	if s.used < 0 {
		panic("budget: more was released than taken")
	}
	s.budget.grantWaiters()
}

// grantWaiters gives free bytes to waiters: small classes first, and within a class to the
// shares in turn.
func (b *Budget) grantWaiters() {
	for c := range Class(classCount) {
		for b.grantNextWaiter(c) {
		}
	}
}

// grantNextWaiter serves one waiter of a class and reports whether it did. A share at its own
// limit is skipped; a share that waits for the server's bytes is not overtaken.
func (b *Budget) grantNextWaiter(c Class) bool {
	for _, s := range b.turns[c] {
		w := s.queue[c][0]
		ok, own := s.hasRoomFor(c, w.bytes)
		if own {
			continue // its waiters hold up nobody else
		}
		if !ok {
			return false // it is next
		}
		s.addUsedBytes(w.bytes)
		close(w.granted)
		s.queue[c] = s.queue[c][1:]
		b.removeFromTurns(c, s)
		if len(s.queue[c]) > 0 {
			b.turns[c] = append(b.turns[c], s)
		}
		return true
	}
	return false
}

// removeFromTurns takes a share out of turns.
func (b *Budget) removeFromTurns(c Class, s *Share) {
	b.turns[c] = slices.DeleteFunc(b.turns[c], func(x *Share) bool { return x == s })
}
