// Package dirstream reads directories as driver.Dir promises, for both kinds of volumes: in the
// order of the directory, or sorted by name.
package dirstream

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/volehq/vole/driver"
)

// Source is an open directory. T is what it knows of an entry once it has read it, which a sorted
// stream keeps in memory. Errors match the sentinels of driver.
type Source[T any] interface {
	// ReadBatch returns up to n more entries, and io.EOF with none at the end.
	ReadBatch(n int) ([]T, error)
	// NameOf returns the name of an entry.
	NameOf(T) string
	// Describe returns what the reader gets of entries. Those that are gone are left out.
	Describe([]T) ([]driver.Entry, error)
	// Close ends the use of the directory.
	Close() error
}

// sortedBatch is how many entries a sorted stream reads between two looks at the context.
const sortedBatch = 1024

// Stream implements driver.Dir.
type Stream[T any] struct {
	source Source[T]
	sorted bool

	mu     sync.Mutex // guards what follows, and the source: a stream has one position
	closed bool
	rest   []T  // of a sorted stream, what is left
	filled bool // rest is complete
}

// New returns a stream of a directory, which it closes.
func New[T any](source Source[T], sorted bool) *Stream[T] {
	return &Stream[T]{source: source, sorted: sorted}
}

// Read implements driver.Dir.
func (s *Stream[T]) Read(ctx context.Context, n int) ([]driver.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, driver.ErrClosed
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		batch, err := s.readNextBatch(ctx, n)
		if err != nil {
			return nil, err
		}
		list, err := s.source.Describe(batch)
		if err != nil || len(list) > 0 {
			return list, err
		}
		// All of them have been removed since they were read: read on.
	}
}

// readNextBatch returns up to n entries: of a sorted stream from memory, otherwise from the
// directory.
func (s *Stream[T]) readNextBatch(ctx context.Context, n int) ([]T, error) {
	if !s.sorted {
		return s.source.ReadBatch(n)
	}
	if err := s.readAndSort(ctx); err != nil {
		return nil, err
	}
	if len(s.rest) == 0 {
		return nil, io.EOF
	}
	batch := s.rest[:min(n, len(s.rest))]
	s.rest = s.rest[len(batch):]
	return batch, nil
}

// readAndSort reads all entries into memory, unless it has done so, and sorts them by name.
func (s *Stream[T]) readAndSort(ctx context.Context) error {
	for !s.filled {
		batch, err := s.source.ReadBatch(sortedBatch)
		switch {
		case errors.Is(err, io.EOF):
			slices.SortFunc(s.rest, func(a, b T) int { return strings.Compare(s.source.NameOf(a), s.source.NameOf(b)) })
			s.filled = true
		case err != nil:
			return err
		case s.rest == nil:
			s.rest = batch // of most directories this is all
		default:
			s.rest = append(s.rest, batch...)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// Close implements driver.Dir.
func (s *Stream[T]) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed, s.rest = true, nil
	return s.source.Close()
}
