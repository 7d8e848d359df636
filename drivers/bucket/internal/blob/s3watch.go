package blob

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// errStalled ends a request that makes no progress.
var errStalled = errors.New("the storage service stopped answering")

// stallTransport is a transport that ends requests without progress: the answer must begin
// within header after the end of the request, and each byte of a body must follow the last
// within stall. A limit on the whole request would have to guess the bandwidth.
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
		// Without GetBody the transport does not repeat by itself a request that it may have
		// sent already.
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

// watchdog cancels a request unless its timer is reset in time.
type watchdog struct {
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	timer   *time.Timer // guarded by mu
	stopped bool        // guarded by mu
}

// resetTimer restarts the timer, unless the watch has ended.
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

// explainCancel returns errStalled if that is why the request was cancelled, otherwise err.
func (d *watchdog) explainCancel(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

// watchedBody is a body that resets the watchdog as its bytes pass.
type watchedBody struct {
	io.ReadCloser
	ctx          context.Context // the request's
	watchdog     *watchdog
	betweenReads time.Duration // time from one byte to the next
	afterLast    time.Duration // of a request: time from its last byte to the answer
	isResponse   bool          // its end ends the watch
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
