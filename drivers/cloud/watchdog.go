package cloud

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// A server that accepts a request and then stays silent, or sends a byte now and then, must not
// block a client for ever. Only time spent waiting for the server counts: neither the time that
// the source of a request body takes, nor the time between two reads by the caller.
const (
	defaultMaxSilence = time.Minute      // while it receives a request or between two reads of the response
	maxSlowSilence    = 30 * time.Minute // before the response to a longRunning call
	maxResponseTime   = 10 * time.Minute // for reading a whole response that is not unbounded
	maxDrainTime      = time.Second      // for reading the rest of a response that is discarded
)

var errSilent = errors.New("it sent nothing for too long")

// watchdog cancels a request whose server is silent for too long. It watches two phases: until
// the response begins, the timer runs except while the body of the request is read from its
// source; after that, it runs during each Read of the response.
type watchdog struct {
	ctx            context.Context // of the request
	cancel         context.CancelCauseFunc
	timer          *time.Timer
	maxBodySilence time.Duration // once the response has begun
	bodyDeadline   time.Time     // for reading the response; zero: none

	mu         sync.Mutex    // guards what follows until the response has begun; net/http may still be reading the request body then
	maxSilence time.Duration // in the current phase
	sendEnded  bool          // the response has begun, or the request has ended
}

// newWatchdog starts the watch over a request, which must use its ctx.
func (b *Backend) newWatchdog(ctx context.Context, c call) *watchdog {
	w := &watchdog{maxSilence: b.maxSilence, maxBodySilence: b.maxSilence}
	if c.longRunning {
		w.maxSilence = maxSlowSilence
	}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(w.maxSilence, func() { w.cancel(errSilent) })
	return w
}

// watchResponse starts the second phase: the headers have arrived.
func (w *watchdog) watchResponse(c call) {
	w.endSending()
	w.maxSilence = w.maxBodySilence
	if !c.unbounded {
		w.bodyDeadline = time.Now().Add(maxResponseTime)
	}
}

// endSending ends the first phase.
func (w *watchdog) endSending() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sendEnded = true
	w.timer.Stop()
}

// pauseTimer stops the timer while the source of the request body is read; resumeTimer starts it
// again.
func (w *watchdog) pauseTimer() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.sendEnded {
		w.timer.Stop()
	}
}

func (w *watchdog) resumeTimer() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.sendEnded {
		w.timer.Reset(w.maxSilence)
	}
}

// cancelRequest ends the watch and cancels the request.
func (w *watchdog) cancelRequest() {
	w.endSending()
	w.cancel(nil)
}

// timeoutCause returns err, or errSilent if err is the cancellation that the watchdog caused.
func (w *watchdog) timeoutCause(err error) error {
	if err != nil && !errors.Is(err, io.EOF) && context.Cause(w.ctx) == errSilent {
		return errSilent
	}
	return err
}

// requestBody pauses the watchdog while the source of the body is read.
type requestBody struct {
	r io.Reader
	w *watchdog
}

func (b *requestBody) Read(p []byte) (int, error) {
	b.w.pauseTimer()
	defer b.w.resumeTimer()
	return b.r.Read(p)
}

// responseBody runs the watchdog during each Read.
type responseBody struct {
	io.ReadCloser
	w *watchdog
}

func (b *responseBody) Read(p []byte) (int, error) {
	most := b.w.maxSilence
	if !b.w.bodyDeadline.IsZero() {
		most = min(most, time.Until(b.w.bodyDeadline))
	}
	b.w.timer.Reset(max(most, 0))
	n, err := b.ReadCloser.Read(p)
	b.w.timer.Stop()
	return n, b.w.timeoutCause(err)
}

func (b *responseBody) Close() error {
	defer b.w.cancelRequest()
	return b.ReadCloser.Close()
}

// limitDrain bounds the time for reading the rest of the response.
func (b *responseBody) limitDrain() { b.w.bodyDeadline = time.Now().Add(maxDrainTime) }
