package blob

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// errStalled ends a request whose other side has stopped.
var errStalled = errors.New("the storage service stopped answering")

// watchful is a transport that ends requests which make no progress: the answer must
// begin within header of the end of the request, and bytes of either body must follow
// each other within stall. A limit on the whole would have to guess the bandwidth.
type watchful struct {
	next          http.RoundTripper
	header, stall time.Duration
}

// RoundTrip implements http.RoundTripper.
func (w *watchful) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	d := &dog{cancel: cancel}
	d.timer = time.AfterFunc(w.header, func() { cancel(errStalled) })
	out := req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		// GetBody is left out: the transport must not send again by itself what it
		// may have sent already.
		out.GetBody = nil
		out.Body = &watchedBody{ReadCloser: req.Body, ctx: ctx, dog: d, each: w.stall, after: w.header}
		d.reset(w.stall + w.header) // it may have to connect first
	}
	res, err := w.next.RoundTrip(out)
	if err != nil {
		d.stop()
		return nil, d.explain(ctx, err)
	}
	d.reset(w.stall)
	res.Body = &watchedBody{ReadCloser: res.Body, ctx: ctx, dog: d, each: w.stall, last: true}
	return res, nil
}

// dog cancels a request unless it is reset in time.
type dog struct {
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	timer   *time.Timer // guarded by mu
	stopped bool        // guarded by mu
}

func (d *dog) reset(after time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.stopped {
		d.timer.Reset(after)
	}
}

// stop ends the watch and the request.
func (d *dog) stop() {
	d.mu.Lock()
	d.stopped = true
	d.timer.Stop()
	d.mu.Unlock()
	d.cancel(nil)
}

// explain says errStalled where that is why the request was canceled.
func (d *dog) explain(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

// watchedBody resets the dog as bytes pass.
type watchedBody struct {
	io.ReadCloser
	ctx   context.Context // the request's
	dog   *dog
	each  time.Duration // from one byte to the next
	after time.Duration // from the last byte of a request to its answer
	last  bool          // of a response: what comes after is nothing
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == nil:
		b.dog.reset(b.each)
	case b.last:
		err = b.dog.explain(b.ctx, err)
		b.dog.stop()
	default:
		b.dog.reset(b.after)
	}
	return n, err
}

// Close implements io.Closer.
func (b *watchedBody) Close() error {
	err := b.ReadCloser.Close()
	if b.last {
		b.dog.stop()
	} else {
		b.dog.reset(b.after)
	}
	return err
}
