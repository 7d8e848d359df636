// Package budget bounds the memory that requests hold: all of a server together, and
// those of each organisation, whose slow clients are not to be felt by others.
package budget

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Class says what memory is for. The smaller it is, the more of a budget it may use, so
// that those who hold much leave room for small requests.
type Class int

const (
	Small      Class = iota // a request that moves no file content: all of the budget
	Stream                  // a request that does: seven eighths
	Buffer                  // what it holds beyond that, of a body, a chunk, an answer: five eighths
	classCount = 3
)

// classLimit is how much of a budget of n bytes may be in use after a class took its part.
func (c Class) classLimit(n int64) int64 { return [classCount]int64{n, n / 8 * 7, n / 8 * 5}[c] }

// Error says that there was no room within the time that one waits for it.
type Error struct {
	Own bool // the organisation's share is used up; else that of the server is
}

func (e *Error) Error() string {
	if e.Own {
		return "the organisation's requests hold as much memory as they may; make fewer at once, or read and send faster"
	}
	return "the requests of all organisations hold as much memory as they may; try again"
}

// Retry is when it is worthwhile to try again.
const Retry = 2 * time.Second

// Budget is the memory of a server. All methods may be called at once.
type Budget struct {
	maxBytes, maxShareBytes int64
	maxWait                 time.Duration

	mu     sync.Mutex // guards what follows, and every Share
	used   int64
	shares map[string]*Share
	// turns has the shares that have waiters of a class, in the order in which they get
	// what becomes free.
	turns [classCount][]*Share
}

// Share is what one organisation has of a Budget. A nil Share has no bounds.
type Share struct {
	// Dirty is how much of it is for what was written and is not committed, as those
	// count who write.
	Dirty atomic.Int64
	// Windows is how much of it is for what is known of open files.
	Windows atomic.Int64

	budget *Budget
	used   int64
	queue  [classCount][]*waiter // first come, first served
}

type waiter struct {
	bytes   int64
	granted chan struct{} // closed with mu held
}

// New returns a budget of most bytes, of which a share has maxShareBytes at most. Whoever
// finds no room waits for it at most that long.
func New(most, mostShare int64, wait time.Duration) *Budget {
	return &Budget{maxBytes: most, maxShareBytes: min(mostShare, most), maxWait: wait, shares: map[string]*Share{}}
}

// Share returns the share of that name. That of a nil Budget has no bounds.
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

// shareFloor is what a share may have however much the others have, so that those who hold all
// there is cannot keep others from working in small steps.
func (b *Budget) shareFloor() int64 { return b.maxShareBytes / 32 }

// Part returns the nth part of what a share may have.
func (s *Share) Part(n int64) int64 {
	return s.budget.maxShareBytes / n
}

// Used returns how many bytes all shares hold.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// checkRoom reports whether n bytes fit. own: they do not fit into the share. The caller holds
// mu, here and below.
func (s *Share) checkRoom(c Class, n int64) (ok, own bool) {
	if s.used+n > c.classLimit(s.budget.maxShareBytes) {
		return false, true
	}
	return s.used+n <= s.budget.shareFloor() || s.budget.used+n <= c.classLimit(s.budget.maxBytes), false
}

func (s *Share) addUsed(n int64) {
	s.used += n
	s.budget.used += n
}

// Acquire takes n bytes, waiting for them if need be. They are given back by Release.
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

// abandonWait takes a waiter out of its queue. What it was granted at the last moment is its
// own, unless it has an error to return.
func (s *Share) abandonWait(c Class, w *waiter, err error) error {
	b := s.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, x := range s.queue[c] {
		if x != w {
			continue
		}
		_, own := s.checkRoom(c, w.bytes)
		s.queue[c] = append(s.queue[c][:i:i], s.queue[c][i+1:]...)
		if len(s.queue[c]) == 0 {
			b.removeTurn(c, s)
		}
		b.grantWaiters() // those behind may need less
		if err == nil {
			err = &Error{Own: own}
		}
		return err
	}
	if err != nil {
		s.giveBack(w.bytes)
	}
	return err
}

// takeIfFree takes n bytes if they are free and nobody waits who would have them first.
func (s *Share) takeIfFree(c Class, n int64) bool {
	if len(s.queue[c]) > 0 {
		return false
	}
	for _, first := range s.budget.turns[c] {
		if ok, own := first.checkRoom(c, first.queue[c][0].bytes); !ok && !own && s.used+n > s.budget.shareFloor() {
			return false // it waits for what all share
		}
	}
	ok, _ := s.checkRoom(c, n)
	if ok {
		s.addUsed(n)
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

// Refusal is the error for whoever does not wait after Try.
func (s *Share) Refusal(c Class, n int64) error {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	_, own := s.checkRoom(c, n)
	return &Error{Own: own}
}

// UpTo takes as much as is free, halving most until it fits, and waits if there is less
// than least. It returns how much it took.
func (s *Share) UpTo(ctx context.Context, c Class, least, most int64) (int64, error) {
	for n := most; n > least; n = max(n/2, least) {
		if s.Try(c, n) {
			return n, nil
		}
	}
	least = min(least, most)
	return least, s.Acquire(ctx, c, least)
}

// Release gives n bytes back.
func (s *Share) Release(n int64) {
	if s == nil || n <= 0 {
		return
	}
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	s.giveBack(n)
}

func (s *Share) giveBack(n int64) {
	s.addUsed(-n)
	if s.used < 0 {
		panic("budget: more was released than taken")
	}
	s.budget.grantWaiters()
}

// grantWaiters gives what is free to those who wait: small ones first, and of each class to one
// share after the other.
func (b *Budget) grantWaiters() {
	for c := range Class(classCount) {
		for b.grantNextWaiter(c) {
		}
	}
}

func (b *Budget) grantNextWaiter(c Class) bool {
	for _, s := range b.turns[c] {
		w := s.queue[c][0]
		ok, own := s.checkRoom(c, w.bytes)
		if own {
			continue // others need not wait for it
		}
		if !ok {
			return false // it is the next to get what becomes free
		}
		s.addUsed(w.bytes)
		close(w.granted)
		s.queue[c] = s.queue[c][1:]
		b.removeTurn(c, s)
		if len(s.queue[c]) > 0 {
			b.turns[c] = append(b.turns[c], s)
		}
		return true
	}
	return false
}

// removeTurn takes a share out of those whose turn comes.
func (b *Budget) removeTurn(c Class, s *Share) {
	list := b.turns[c][:0:0]
	for _, x := range b.turns[c] {
		if x != s {
			list = append(list, x)
		}
	}
	b.turns[c] = list
}
