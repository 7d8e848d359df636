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

// WriteFile implements driver.FS. A small file is sent from memory and retried like any other
// request. A larger one is streamed, and retried only if the server certainly read nothing of it,
// since r yields its bytes once.
func (f *volumeFS) WriteFile(ctx context.Context, path string, r io.Reader, opts driver.WriteOptions) (int64, error) {
	if err := f.enter(ctx, true); err != nil {
		return 0, err
	}
	defer f.life.Leave()
	if err := opts.RefuseMeta(); err != nil {
		return 0, err
	}
	q := withParams(url.Values{"path": {path}}, "mode", formatModeIfSet(opts.Mode), "exclusive", formatFlag(opts.Exclusive))
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
	sent := newUploadSource(c.stream) // tells whether reading of the body began
	if c.stream != nil {
		c.stream = sent
	}
	var out api.Written
	err = f.withRefIfNeeded(ctx, true, func(ref *remoteRef) error {
		err := f.b.sendJSON(ctx, callThrough(ref, c), nil, &out)
		if begun, _ := sent.readState(); err != nil && begun && errors.Is(err, api.ErrStale) {
			return driver.Errorf(driver.ErrUnavailable, "the server ended the session while the file was being sent; send it again")
		}
		return err
	})
	sent.stopReading(ctx)
	if _, rerr := src.readState(); rerr != nil {
		return 0, rerr
	}
	return out.Size, err
}

// newContentCall returns the call that sends a file: from memory up to maxBufferedBody bytes, and
// as a stream beyond that.
func (f *volumeFS) newContentCall(ctx context.Context, src *uploadSource, opts driver.WriteOptions) (call, error) {
	c := call{method: "PUT", keyed: true, size: -1, header: http.Header{"Content-Type": {api.TypeBytes}}}
	switch {
	case opts.NextData != nil:
		c.header.Set("Content-Type", api.TypeSparse)
		c.stream = api.NewSparseEncoder(ctx, src, opts.Size, src.watchNextData(opts.NextData))
	case opts.Size > maxBufferedBody:
		c.stream = src // streamed, as the server may refuse it by its size before any byte is read
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

// maxBufferedBody is the size in bytes up to which a file is kept in memory for retries.
const maxBufferedBody = 256 << 10

// uploadSource is the reader of a request body. net/http may still read it for a moment after the
// round trip has returned, when the caller already owns the underlying reader again: stopReading
// prevents that. It records whether reading began, and the error of the reader. It hides every
// other method of the reader, since net/http would close it or rewind it.
type uploadSource struct {
	r       io.Reader
	reading chan struct{} // a semaphore: full while r is read

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

// recordError keeps the first-hand error of the source, which the error of the request hides.
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

// preventReading keeps the reader from being read from now on. It returns false if reading has
// begun.
func (s *uploadSource) preventReading() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = s.ended || !s.begun
	return !s.begun
}

// stopReading returns once the reader is not being read any more and never will be. It gives up
// after a second, or when ctx ends, if the reader is stuck.
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

// watchNextData returns next, with its errors recorded as those of the reader.
func (s *uploadSource) watchNextData(next func(ctx context.Context) (off, n int64, err error)) func(ctx context.Context) (off, n int64, err error) {
	return func(ctx context.Context) (int64, int64, error) {
		off, n, err := next(ctx)
		s.recordError(err)
		return off, n, err
	}
}
