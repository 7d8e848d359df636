package cloud

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
)

// WriteFile implements driver.FS. Few bytes are made again like any other request; more
// only when the server certainly did not begin with them, for r gives its bytes once.
func (f *fileSystem) WriteFile(ctx context.Context, path string, r io.Reader, opts driver.WriteOptions) (int64, error) {
	if err := f.usable(ctx, true); err != nil {
		return 0, err
	}
	q := url.Values{"path": {path}}
	if opts.Mode != 0 {
		modeParam(q, opts.Mode)
	}
	setFlags(q, map[string]bool{"exclusive": opts.Exclusive})
	if opts.Size > 0 || opts.NextData != nil {
		q.Set("size", strconv.FormatInt(opts.Size, 10))
	}
	src := &source{r: r}
	c := call{method: "PUT", path: at(f.vol, "content"), query: q, once: true, header: http.Header{"Content-Type": {api.TypeBytes}}}
	var err error
	switch {
	case opts.NextData != nil:
		c.header.Set("Content-Type", api.TypeSparse)
		c.stream, c.size = api.NewSparseEncoder(ctx, src, opts.Size, src.watch(opts.NextData)), -1
	case opts.Size > fewBytes || opts.Size > 0 && !inMemory(r):
		c.stream, c.size = src, -1 // the server may refuse it before it is read
	default:
		c.body, err = io.ReadAll(io.LimitReader(src, fewBytes+1))
		if len(c.body) > fewBytes {
			c.stream, c.size, c.body = io.MultiReader(bytes.NewReader(c.body), src), -1, nil
		}
	}
	if err != nil {
		return 0, err
	}
	c.wait, c.again = c.stream != nil, c.stream == nil && !opts.Exclusive
	var out api.Written
	sent := &source{r: c.stream} // tells whether the server began to take it
	if c.stream != nil {
		c.stream = sent
	}
	err = f.in(ctx, true, func(p *place) error {
		err := f.b.json(ctx, through(p, c), nil, &out)
		if err != nil && sent.begun && errors.Is(err, errLost) {
			return driver.Errorf(driver.ErrUnavailable, "the server lost the session while the file was being sent; send it again")
		}
		return err
	})
	if src.err != nil {
		return 0, src.err
	}
	return out.Size, err
}

// inMemory reports whether r has in memory what it gives.
func inMemory(r io.Reader) bool {
	_, ok := r.(interface{ Len() int })
	return ok
}

// fewBytes is how much of a file is kept in memory to be sent again if need be.
const fewBytes = 256 << 10

// source remembers that a reader gave something, and the error it failed with.
type source struct {
	r     io.Reader
	begun bool
	err   error
}

func (s *source) Read(p []byte) (int, error) {
	s.begun = true
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// watch keeps the error of next.
func (s *source) watch(next func(ctx context.Context) (off, n int64, err error)) func(ctx context.Context) (off, n int64, err error) {
	return func(ctx context.Context) (int64, int64, error) {
		off, n, err := next(ctx)
		if err != nil && !errors.Is(err, io.EOF) {
			s.err = err
		}
		return off, n, err
	}
}
