package dirstream

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/volehq/vole/driver"
)

// fakeSource has names as entries. Those that begin with "gone" cannot be described.
type fakeSource struct {
	names  []string
	closed int
}

func (s *fakeSource) ReadBatch(n int) ([]string, error) {
	if len(s.names) == 0 {
		return nil, io.EOF
	}
	batch := s.names[:min(n, len(s.names))]
	s.names = s.names[len(batch):]
	return batch, nil
}

func (s *fakeSource) NameOf(name string) string { return name }

func (s *fakeSource) Describe(names []string) (list []driver.Entry, err error) {
	for _, name := range names {
		if name[0] != 'g' {
			list = append(list, driver.Entry{Name: name})
		}
	}
	return list, nil
}

func (s *fakeSource) Close() error {
	s.closed++
	return nil
}

func TestStream(t *testing.T) {
	for name, want := range map[string][]string{"unsorted": {"c", "a", "b"}, "sorted": {"a", "b", "c"}} {
		t.Run(name, func(t *testing.T) {
			source := &fakeSource{names: []string{"c", "gone1", "gone2", "gone3", "a", "gone4", "b", "gone5"}}
			s := New(source, name == "sorted")
			var got []string
			for {
				list, err := s.Read(t.Context(), 2)
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil || len(list) == 0 {
					t.Fatalf("%v, %v", list, err)
				}
				for _, e := range list {
					got = append(got, e.Name)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%q", got)
			}
			if err := errors.Join(s.Close(), s.Close()); err != nil || source.closed != 1 {
				t.Errorf("%v, closed %d times", err, source.closed)
			}
			if _, err := s.Read(t.Context(), 1); !errors.Is(err, driver.ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		})
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := New(&fakeSource{names: []string{"a", "b"}}, true)
	cancel()
	if _, err := s.Read(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if list, err := s.Read(t.Context(), 2); err != nil || len(list) != 2 {
		t.Errorf("a later read: %v, %v", list, err)
	}
}
