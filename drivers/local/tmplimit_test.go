//go:build unix

package local_test

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/volehq/vole"
)

// TestManySlowStreams has many write to a volume at once, none of whom finishes: together
// they store a few times the quota, and when they are gone there is room again.
func TestManySlowStreams(t *testing.T) {
	ctx := t.Context()
	const size = 3 << 20
	s, err := vole.Open(ctx, vole.Options{Home: filepath.Join(t.TempDir(), "home")})
	must(t, err)
	defer s.Close()
	v, err := s.Create(ctx, "v", vole.Spec{Quota: 4 << 20})
	must(t, err)
	for name, opts := range map[string]vole.WriteOptions{
		"plain":  {},
		"sparse": {Size: size + 2, NextData: oneRange(size + 2)},
	} {
		f, err := v.FS(ctx)
		must(t, err)
		var open []*io.PipeWriter
		results := make(chan error, 100)
		var refused error
		for refused == nil && len(open) < 20 {
			r, w := io.Pipe()
			open = append(open, w)
			opts := opts
			if opts.NextData != nil {
				opts.NextData = oneRange(size + 2)
			}
			go func() {
				_, err := f.WriteFrom(ctx, name+strconv.Itoa(len(open)), r, opts)
				r.CloseWithError(errors.Join(err, io.ErrClosedPipe))
				results <- err
			}()
			_, _ = w.Write(make([]byte, size))
			if _, err := w.Write([]byte("x")); err != nil { // what came before has been written
				refused = <-results
			}
		}
		if !errors.Is(refused, vole.ErrQuota) || len(open) < 5 {
			t.Errorf("%s: of %d streams the last: %v", name, len(open), refused)
		}
		for _, w := range open[:len(open)-1] {
			w.CloseWithError(io.ErrUnexpectedEOF)
			<-results
		}
		must(t, f.WriteFile(ctx, "after", make([]byte, size), 0o644), f.Remove(ctx, "after"), f.Close())
	}
}

// oneRange says that a file has no holes.
func oneRange(size int64) func(context.Context) (off, n int64, err error) {
	said := false
	return func(context.Context) (int64, int64, error) {
		if said {
			return 0, 0, io.EOF
		}
		said = true
		return 0, size, nil
	}
}
