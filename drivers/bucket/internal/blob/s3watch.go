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

// stallTransport is a transport that ends requests which make no progress: the answer must
// begin within header of the end of the request, and bytes of either body must follow
// each other within stall. A limit on the whole would have to guess the bandwidth.
type stallTransport struct {
	next          http.RoundTripper
	header, stall time.Duration
}

// RoundTrip implements http.RoundTripper.
func (w *stallTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	d := &watchdog{cancel: cancel}
	d.timer = time.AfterFunc(w.header, func() { cancel(errStalled) })
	out := req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		// GetBody is left out: the transport must not send again by itself what it
		// may have sent already.
		out.GetBody = nil
		out.Body = &watchedBody{ReadCloser: req.Body, ctx: ctx, watchdog: d, betweenReads: w.stall, afterLast: w.header}
		d.resetTimer(w.stall + w.header) // it may have to connect first
	}
	res, err := w.next.RoundTrip(out)
	if err != nil {
		d.stopWatching()
		return nil, d.explainCancel(ctx, err)
	}
	d.resetTimer(w.stall)
	res.Body = &watchedBody{ReadCloser: res.Body, ctx: ctx, watchdog: d, betweenReads: w.stall, isResponse: true}
	return res, nil
}

// watchdog cancels a request unless it is reset in time.
type watchdog struct {
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	timer   *time.Timer // guarded by mu
	stopped bool        // guarded by mu
}

func (d *watchdog) resetTimer(after time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.stopped {
		d.timer.Reset(after)
	}
}

// stopWatching ends the watch and the request.
func (d *watchdog) stopWatching() {
	d.mu.Lock()
	d.stopped = true
	d.timer.Stop()
	d.mu.Unlock()
	d.cancel(nil)
}

// explainCancel says errStalled where that is why the request was canceled.
func (d *watchdog) explainCancel(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

// watchedBody resets the dog as bytes pass.
type watchedBody struct {
	io.ReadCloser
	ctx          context.Context // the request's
	watchdog     *watchdog
	betweenReads time.Duration // from one byte to the next
	afterLast    time.Duration // from the last byte of a request to its answer
	isResponse   bool          // of a response: what comes after is nothing
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == nil:
		b.watchdog.resetTimer(b.betweenReads)
	case b.isResponse:
		err = b.watchdog.explainCancel(b.ctx, err)
		b.watchdog.stopWatching()
	default:
		b.watchdog.resetTimer(b.afterLast)
	}
	return n, err
}

// Close implements io.Closer.
func (b *watchedBody) Close() error {
	err := b.ReadCloser.Close()
	if b.isResponse {
		b.watchdog.stopWatching()
	} else {
		b.watchdog.resetTimer(b.afterLast)
	}
	return err
}
