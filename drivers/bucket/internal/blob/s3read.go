package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/volehq/vole/driver"
)

// ReadAt implements Store.
func (s *s3Store) ReadAt(ctx context.Context, key string, p []byte, off int64) error {
	err := s.checkCall(ctx, key)
	if err == nil {
		err = s.readRange(ctx, key, p, off)
	}
	return wrapFailure("read", key, s.translateError(err))
}

// readRange is ReadAt with the client's errors.
func (s *s3Store) readRange(ctx context.Context, key string, p []byte, off int64) error {
	end := off + int64(len(p))
	if off < 0 {
		return offsetError(off)
	}
	if end < off {
		return truncatedError(end)
	}
	if len(p) == 0 {
		// HTTP has no empty ranges.
		return s.retryTransient(ctx, func(ctx context.Context) error {
			found, err := s.headObject(ctx, key)
			if err == nil && found.Size < off {
				err = truncatedError(off)
			}
			return err
		})
	}
	r := &resumingReader{ctx: ctx, s: s, key: key, next: off, end: end}
	defer r.Close()
	_, err := io.ReadFull(r, p)
	return err
}

// Open implements Store.
func (s *s3Store) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	err := s.checkCall(ctx, key)
	r := &resumingReader{ctx: ctx, s: s, key: key, end: -1}
	if err == nil {
		err = s.retryTransient(ctx, r.requestRest)
	}
	if err != nil {
		return nil, wrapFailure("open", key, s.translateError(err))
	}
	return r, nil
}

// resumingReader reads an object, or a range of it. If the connection breaks it resumes with a
// new request: objects never change.
type resumingReader struct {
	ctx       context.Context // of Open: it bounds the stream
	s         *s3Store
	key       string
	next, end int64         // the rest; end < 0: the size is not known yet
	body      io.ReadCloser // nil: not connected
	failures  int           // since the last byte
}

// Read implements io.Reader.
func (r *resumingReader) Read(p []byte) (int, error) {
	for {
		if r.next == r.end || len(p) == 0 {
			if r.next == r.end {
				return 0, io.EOF
			}
			return 0, nil
		}
		n, err := r.readOnce(p)
		if n > 0 {
			// An error will be returned by the next read.
			r.failures = 0
			return n, nil
		}
		if err == nil {
			continue
		}
		if r.failures++; r.failures > r.s.opts.Retries+1 || !isTransient(r.ctx, err) {
			return 0, r.s.translateError(err)
		}
		if err := waitBackoff(r.ctx, r.failures-1); err != nil {
			return 0, err
		}
	}
}

// readOnce makes one attempt. It returns io.ErrUnexpectedEOF for a body that ends early.
func (r *resumingReader) readOnce(p []byte) (int, error) {
	if r.body == nil {
		if err := r.requestRest(r.ctx); err != nil {
			return 0, err
		}
	}
	if r.end >= 0 {
		p = p[:min(int64(len(p)), r.end-r.next)]
	}
	n, err := r.body.Read(p)
	r.next += int64(n)
	if err == nil {
		return n, nil
	}
	r.Close()
	switch {
	case r.next == r.end:
		return n, nil
	case errors.Is(err, io.EOF) && r.end < 0:
		r.end = r.next
		return n, nil
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// requestRest requests the rest of the range.
func (r *resumingReader) requestRest(ctx context.Context) error {
	var opts minio.GetObjectOptions
	ranged := true
	var err error
	switch {
	case r.end >= 0:
		err = setByteRange(&opts, r.next, r.end)
	case r.next > 0:
		err = opts.SetRange(r.next, 0)
	default:
		ranged = false
	}
	if err != nil {
		return err
	}
	body, _, h, err := r.s.client.GetObject(ctx, r.s.opts.Bucket, r.s.objectName(r.key), opts)
	if err != nil {
		return err
	}
	if err := r.checkResponse(h, ranged); err != nil {
		body.Close()
		return err
	}
	r.body = body
	return nil
}

// setByteRange requests the bytes [off, end).
func setByteRange(opts *minio.GetObjectOptions, off, end int64) error {
	if off == 0 && end == 1 {
		// The client would take a range that ends with byte 0 for one without an end.
		opts.Set("Range", "bytes=0-0")
		return nil
	}
	return opts.SetRange(off, end-1)
}

// checkResponse checks that the answer is the range that was requested, and learns the size
// from it.
func (r *resumingReader) checkResponse(h http.Header, ranged bool) error {
	length, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64)
	if err != nil {
		length = -1
	}
	text := h.Get("Content-Range")
	if text == "" {
		if r.next > 0 || ranged && length != r.end {
			return driver.Errorf(driver.ErrUnsupported, "the storage service ignores ranges")
		}
		r.end = length
		return nil
	}
	first, last, total, err := parseContentRange(text)
	switch {
	case err != nil:
		return err
	case first != r.next || r.end >= 0 && last >= r.end:
		return fmt.Errorf("the storage service sent range %q for bytes %d to %d", text, r.next, r.end)
	case last+1 < r.end:
		return truncatedError(r.end)
	case r.end < 0 && last+1 < total:
		return fmt.Errorf("the storage service sent range %q for all from byte %d", text, r.next)
	}
	r.end = last + 1
	return nil
}

// parseContentRange parses a Content-Range such as "bytes 0-99/1000". A total of "*" becomes
// last+1.
func parseContentRange(text string) (first, last, total int64, err error) {
	var totalText string
	spec, totalText, _ := strings.Cut(strings.TrimPrefix(text, "bytes "), "/")
	from, to, _ := strings.Cut(spec, "-")
	first, err = strconv.ParseInt(from, 10, 64)
	if err == nil {
		last, err = strconv.ParseInt(to, 10, 64)
	}
	total = last + 1
	if err == nil && totalText != "*" {
		total, err = strconv.ParseInt(totalText, 10, 64)
	}
	if err != nil || last < first || total <= last {
		return 0, 0, 0, fmt.Errorf("the storage service sent an invalid range %q", text)
	}
	return first, last, total, nil
}

// Close implements io.Closer.
func (r *resumingReader) Close() error {
	if r.body == nil {
		return nil
	}
	err := r.body.Close()
	r.body = nil
	return err
}

// List implements Store.
func (s *s3Store) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if s.closed.Load() {
			yield(Info{}, wrapFailure("list", prefix, driver.ErrClosed))
			return
		}
		if err := checkPrefix(prefix); err != nil {
			yield(Info{}, wrapFailure("list", prefix, err))
			return
		}
		for info, err := range s.listPages(ctx, prefix, 0) {
			if !yield(info, wrapFailure("list", prefix, err)) {
				return
			}
		}
	}
}

// listPages yields the objects under a prefix, in pages of up to page objects (0: as many as
// the service likes). A page that fails is requested again.
func (s *s3Store) listPages(ctx context.Context, prefix string, page int) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		after := ""
		for failures := 0; ; failures++ {
			last, more, err := s.listOnceAfter(ctx, prefix, after, page, yield)
			if !more {
				return
			}
			if err == nil {
				err = ctx.Err() // the client's iterator ends without an error then
			}
			if err == nil {
				return
			}
			if last != after {
				after, failures = last, 0
			}
			if failures >= s.opts.Retries || !isTransient(ctx, err) || waitBackoff(ctx, failures) != nil {
				yield(Info{}, s.translateError(err))
				return
			}
		}
	}
}

// listOnceAfter yields the objects after a name, until an error. It returns the last name that
// it yielded, and false if yield did.
func (s *s3Store) listOnceAfter(ctx context.Context, prefix, after string, page int, yield func(Info, error) bool) (string, bool, error) {
	owner := false
	for o := range s.client.ListObjectsIter(ctx, s.opts.Bucket, minio.ListObjectsOptions{
		Prefix: s.objectName(prefix), Recursive: true, StartAfter: after, MaxKeys: page, FetchOwner: &owner,
	}) {
		if o.Err != nil {
			return after, true, o.Err
		}
		after = o.Key
		// Skip the empty objects with a final slash that consoles make; no key has one.
		key := strings.TrimPrefix(o.Key, s.opts.Prefix)
		if checkKey(key) != nil {
			continue
		}
		if !yield(Info{Key: key, Size: o.Size, Modified: o.LastModified}, nil) {
			return after, false, nil
		}
	}
	return after, true, nil
}
