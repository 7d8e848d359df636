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
func (f *volumeFS) WriteFile(ctx context.Context, path string, r io.Reader, opts driver.WriteOptions) (int64, error) {
	if err := f.checkUsable(ctx, true); err != nil {
		return 0, err
	}
	if err := opts.RefuseMeta(); err != nil {
		return 0, err
	}
	q := url.Values{"path": {path}}
	if opts.Mode != 0 {
		setModeParam(q, opts.Mode)
	}
	setBoolParams(q, map[string]bool{"exclusive": opts.Exclusive})
	if opts.NextData != nil {
		q.Set("size", strconv.FormatInt(opts.Size, 10))
	}
	src := newUploadSource(r)
	c, err := f.newContentCall(ctx, src, opts)
	if err != nil {
		return 0, err
	}
	c.path, c.query = volumePath(f.volumeID, "content"), q
	c.expectContinue, c.longRunning, c.repeatable = c.stream != nil, c.stream != nil, c.stream == nil && !opts.Exclusive
	sent := newUploadSource(c.stream) // tells whether the server began to take it
	if c.stream != nil {
		c.stream = sent
	}
	var out api.Written
	err = f.withRoute(ctx, true, func(p *remoteRef) error {
		err := f.b.sendJSON(ctx, callThrough(p, c), nil, &out)
		if begun, _ := sent.readState(); err != nil && begun && errors.Is(err, api.ErrStale) {
			return driver.Errorf(driver.ErrUnavailable, "the server lost the session while the file was being sent; send it again")
		}
		return err
	})
	sent.stopReading(ctx)
	if _, rerr := src.readState(); rerr != nil {
		return 0, rerr
	}
	return out.Size, err
}

// newContentCall returns the request that sends a file: few bytes from memory, more as a stream.
func (f *volumeFS) newContentCall(ctx context.Context, src *uploadSource, opts driver.WriteOptions) (call, error) {
	c := call{method: "PUT", keyed: true, size: -1, header: http.Header{"Content-Type": {api.TypeBytes}}}
	switch {
	case opts.NextData != nil:
		c.header.Set("Content-Type", api.TypeSparse)
		c.stream = api.NewSparseEncoder(ctx, src, opts.Size, src.watchNextData(opts.NextData))
	case opts.Size > maxBufferedBody:
		c.stream = src // the server may refuse it before it is read
		c.header.Set(api.HeaderSizeHint, strconv.FormatInt(opts.Size, 10))
	default:
		var err error
		if c.body, err = io.ReadAll(io.LimitReader(src, maxBufferedBody+1)); err != nil {
			return c, err
		}
		if len(c.body) > maxBufferedBody {
			c.stream, c.body = io.MultiReader(bytes.NewReader(c.body), src), nil
		}
	}
	return c, nil
}

// maxBufferedBody is how much of a file is kept in memory to be sent again if need be.
const maxBufferedBody = 256 << 10

// uploadSource is a reader that is read by net/http, which may do so for a moment after it has
// returned. It remembers whether it was read, and the error it failed with.
type uploadSource struct {
	r       io.Reader
	reading chan struct{} // full while it is read

	mu    sync.Mutex // guards what follows
	begun bool
	ended bool
	err   error
}

func newUploadSource(r io.Reader) *uploadSource {
	return &uploadSource{r: r, reading: make(chan struct{}, 1)}
}

func (s *uploadSource) Read(p []byte) (int, error) {
	s.reading <- struct{}{}
	defer func() { <-s.reading }()
	s.mu.Lock()
	ended := s.ended
	s.begun = true
	s.mu.Unlock()
	if ended {
		return 0, io.ErrClosedPipe
	}
	n, err := s.r.Read(p)
	s.recordError(err)
	return n, err
}

func (s *uploadSource) recordError(err error) {
	if err == nil || errors.Is(err, io.EOF) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *uploadSource) readState() (begun bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begun, s.err
}

// stopReading makes sure that the reader is not read any more, unless it is stuck.
func (s *uploadSource) stopReading(ctx context.Context) {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	stuck := time.NewTimer(time.Second)
	defer stuck.Stop()
	select {
	case s.reading <- struct{}{}:
		<-s.reading
	case <-ctx.Done():
	case <-stuck.C:
	}
}

// watchNextData keeps the error of next.
func (s *uploadSource) watchNextData(next func(ctx context.Context) (off, n int64, err error)) func(ctx context.Context) (off, n int64, err error) {
	return func(ctx context.Context) (int64, int64, error) {
		off, n, err := next(ctx)
		s.recordError(err)
		return off, n, err
	}
}
