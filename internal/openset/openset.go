// Package openset keeps the life of things that are open: file systems, files,
// attachments, sessions.
//
// A [Set] belongs to what opened them, a backend say, and closes them with it. A [Life] is
// the life of one of them, kept as a field. Each operation runs between Enter and Leave;
// Close ends the life, and what the thing holds is freed when the last operation has left:
//
//		open --Close--> closing --last Leave--> freed
//
//	  - Enter succeeds only while the thing is open.
//	  - Finish (to flush what was written) runs once, in the first Close, while the thing
//	    still holds all it needs; operations that began before may run beside it.
//	  - Free runs once, after Finish and after every operation has left. It never runs in the
//	    middle of an operation, so no descriptor is closed, and used by another file, under a
//	    system call.
//	  - A Set that is closed takes no more members. Its Close returns when all are freed, or
//	    when its context ends.
//
// A thing that must answer for more than that, or whose closing can fail and be tried again,
// is a [Closer] of its own and calls Add and Remove itself.
//
// Locks: a Life and a Set each have one, held for a few instructions. No method of a member
// is called under either.
package openset

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/volehq/vole/driver"
)

// Closer is something that a Set closes. Close must remove it from the set, at once or when
// what is under way has ended. It may be called more than once.
type Closer interface {
	Close(ctx context.Context) error
}

// Set holds what is open. The zero Set is empty and open; it must not be copied.
type Set struct {
	mu      sync.Mutex
	members map[Closer]struct{}
	closed  bool
	empty   chan struct{} // closed when closed is set and no member is left
}

// Add adds an open thing. driver.ErrClosed: the set is closed, and the caller frees the thing.
func (s *Set) Add(c Closer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return driver.ErrClosed
	}
	if s.members == nil {
		s.members = map[Closer]struct{}{}
	}
	s.members[c] = struct{}{}
	return nil
}

// Remove takes a thing out that holds nothing any more. One that is not in the set is ignored.
func (s *Set) Remove(c Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.members[c]; !ok {
		return
	}
	delete(s.members, c)
	if s.closed && len(s.members) == 0 {
		close(s.empty)
	}
}

// Close lets nothing more be opened, closes every member, one after the other, and waits until
// all have been removed, or ctx ends. It returns the members' errors. Only the first call
// closes; later ones only wait.
func (s *Set) Close(ctx context.Context) error {
	s.mu.Lock()
	var open []Closer
	if !s.closed {
		s.closed, s.empty = true, make(chan struct{})
		open = slices.Collect(maps.Keys(s.members))
		if len(open) == 0 {
			close(s.empty)
		}
	}
	empty := s.empty
	s.mu.Unlock()
	var errs []error
	for _, c := range open {
		errs = append(errs, c.Close(ctx))
	}
	select {
	case <-empty:
	case <-ctx.Done():
	}
	return errors.Join(errs...)
}

// Len returns how many members are open or closing.
func (s *Set) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.members)
}

// Member is an open thing whose life a Life keeps.
type Member interface {
	// Finish does what must be done while the thing still holds what it works with: it
	// flushes what was written. Its error is that of Close.
	Finish(ctx context.Context) error
	// Free gives back all that the thing holds. Its error is joined to that of Close if it
	// runs there, with the context of Close; otherwise an operation was still under way, and no
	// caller remains to get it or to bound it.
	Free(ctx context.Context) error
}

// Life is the life of one open thing. The zero Life has not begun: see Begin. It must not be
// copied.
type Life struct {
	set    *Set
	member Member

	mu     sync.Mutex
	uses   int // operations under way, and Close while it runs
	closed bool
}

// Begin begins the life of member and adds it to set. driver.ErrClosed: the set is closed;
// the life has not begun, and the caller frees what member holds.
func (l *Life) Begin(set *Set, member Member) error {
	l.set, l.member = set, member
	return set.Add(l)
}

// Enter begins an operation, which ends with Leave. It returns the error of ctx if that has
// ended, and driver.ErrClosed once the thing is closed.
func (l *Life) Enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return driver.ErrClosed
	}
	l.uses++
	return nil
}

// Run runs an operation between Enter and Leave.
func (l *Life) Run(ctx context.Context, operation func() error) error {
	if err := l.Enter(ctx); err != nil {
		return err
	}
	defer l.Leave()
	return operation()
}

// Leave ends an operation. The last one after Close frees the thing.
func (l *Life) Leave() { _ = l.leave(context.Background()) }

func (l *Life) leave(ctx context.Context) error {
	l.mu.Lock()
	l.uses--
	last := l.closed && l.uses == 0
	l.mu.Unlock()
	if !last {
		return nil
	}
	defer l.set.Remove(l) // who waits for the set finds all given back
	return l.member.Free(ctx)
}

// Close ends the life of the thing: no operation begins any more, Finish runs, and Free as soon
// as no operation is under way. Only the first call does anything; it does not wait for
// operations.
func (l *Life) Close(ctx context.Context) (err error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.uses++ // of Close itself: nothing is freed under Finish
	l.mu.Unlock()
	defer func() { // also if Finish panics
		if freed := l.leave(ctx); freed != nil {
			err = errors.Join(err, freed)
		}
	}()
	return l.member.Finish(ctx)
}
