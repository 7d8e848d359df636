package cloud

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
)

// WriteFile implements driver.FS. Few bytes are made again like any other request; more
// only when the server certainly did not begin with them, for r gives its bytes once.
func (f *fileSystem) WriteFile(ctx context.Context, path string, r io.Reader, opts driver.WriteOptions) (int64, error) {
	if err := f.usable(ctx, true); err != nil {
		return 0, err
	}
	if err := opts.RefuseMeta(); err != nil {
		return 0, err
	}
	q := url.Values{"path": {path}}
	if opts.Mode != 0 {
		modeParam(q, opts.Mode)
	}
	setFlags(q, map[string]bool{"exclusive": opts.Exclusive})
	if opts.NextData != nil {
		q.Set("size", strconv.FormatInt(opts.Size, 10))
	}
	src := newSource(r)
	c, err := f.fileBody(ctx, src, opts)
	if err != nil {
		return 0, err
	}
	c.path, c.query = at(f.vol, "content"), q
	c.wait, c.slow, c.again = c.stream != nil, c.stream != nil, c.stream == nil && !opts.Exclusive
	sent := newSource(c.stream) // tells whether the server began to take it
	if c.stream != nil {
		c.stream = sent
	}
	var out api.Written
	err = f.in(ctx, true, func(p *place) error {
		err := f.b.json(ctx, through(p, c), nil, &out)
		if begun, _ := sent.state(); err != nil && begun && errors.Is(err, errLost) {
			return driver.Errorf(driver.ErrUnavailable, "the server lost the session while the file was being sent; send it again")
		}
		return err
	})
	sent.end(ctx)
	if _, rerr := src.state(); rerr != nil {
		return 0, rerr
	}
	return out.Size, err
}

// fileBody returns the request that sends a file: few bytes from memory, more as a stream.
func (f *fileSystem) fileBody(ctx context.Context, src *source, opts driver.WriteOptions) (call, error) {
	c := call{method: "PUT", once: true, size: -1, header: http.Header{"Content-Type": {api.TypeBytes}}}
	switch {
	case opts.NextData != nil:
		c.header.Set("Content-Type", api.TypeSparse)
		c.stream = api.NewSparseEncoder(ctx, src, opts.Size, src.watch(opts.NextData))
	case opts.Size > fewBytes:
		c.stream = src // the server may refuse it before it is read
		c.header.Set(api.HeaderSizeHint, strconv.FormatInt(opts.Size, 10))
	default:
		var err error
		if c.body, err = io.ReadAll(io.LimitReader(src, fewBytes+1)); err != nil {
			return c, err
		}
		if len(c.body) > fewBytes {
			c.stream, c.body = io.MultiReader(bytes.NewReader(c.body), src), nil
		}
	}
	return c, nil
}

// fewBytes is how much of a file is kept in memory to be sent again if need be.
const fewBytes = 256 << 10

// source is a reader that is read by net/http, which may do so for a moment after it has
// returned. It remembers whether it was read, and the error it failed with.
type source struct {
	r    io.Reader
	busy chan struct{} // full while it is read

	mu    sync.Mutex // guards what follows
	begun bool
	ended bool
	err   error
}

func newSource(r io.Reader) *source { return &source{r: r, busy: make(chan struct{}, 1)} }

func (s *source) Read(p []byte) (int, error) {
	s.busy <- struct{}{}
	defer func() { <-s.busy }()
	s.mu.Lock()
	ended := s.ended
	s.begun = true
	s.mu.Unlock()
	if ended {
		return 0, io.ErrClosedPipe
	}
	n, err := s.r.Read(p)
	s.fail(err)
	return n, err
}

func (s *source) fail(err error) {
	if err == nil || errors.Is(err, io.EOF) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *source) state() (begun bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begun, s.err
}

// end makes sure that the reader is not read any more, unless it is stuck.
func (s *source) end(ctx context.Context) {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	stuck := time.NewTimer(time.Second)
	defer stuck.Stop()
	select {
	case s.busy <- struct{}{}:
		<-s.busy
	case <-ctx.Done():
	case <-stuck.C:
	}
}

// watch keeps the error of next.
func (s *source) watch(next func(ctx context.Context) (off, n int64, err error)) func(ctx context.Context) (off, n int64, err error) {
	return func(ctx context.Context) (int64, int64, error) {
		off, n, err := next(ctx)
		s.fail(err)
		return off, n, err
	}
}
