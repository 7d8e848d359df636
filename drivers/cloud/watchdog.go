package cloud

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// A server that takes a request and then says nothing, or a byte now and then, must not
// hold a client for ever. Only the time counts that is spent waiting for the server: not
// what a source takes to give what is sent, nor what a caller takes between two reads.
const (
	defaultMaxSilence = time.Minute      // between two signs of life
	maxSlowSilence    = 30 * time.Minute // before the answer to what takes long
	maxResponseTime   = 10 * time.Minute // until an answer that is held in memory has come
	maxDrainTime      = time.Second      // for what is left of an answer
)

var errSilent = errors.New("nothing came for too long")

// watchdog cancels a request whose server is silent.
type watchdog struct {
	ctx            context.Context // of the request
	cancel         context.CancelCauseFunc
	timer          *time.Timer
	maxBodySilence time.Duration // of silence once the answer has begun
	bodyDeadline   time.Time     // when reading the answer ends; zero: no bound

	mu         sync.Mutex    // net/http may still read what is sent when the answer has begun
	maxSilence time.Duration // of silence; guarded by mu until the answer has begun
	sendEnded  bool          // the answer has begun, or the request ended
}

// newWatchdog begins to wait for the answer to a request.
func (b *Backend) newWatchdog(ctx context.Context, c call) *watchdog {
	w := &watchdog{maxSilence: b.maxSilence, maxBodySilence: b.maxSilence}
	if c.longRunning {
		w.maxSilence = maxSlowSilence
	}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(w.maxSilence, func() { w.cancel(errSilent) })
	return w
}

// watchResponse notes that the headers are there.
func (w *watchdog) watchResponse(c call) {
	w.endSending()
	w.maxSilence = w.maxBodySilence
	if !c.unbounded {
		w.bodyDeadline = time.Now().Add(maxResponseTime)
	}
}

// endSending ends the watch over what is sent.
func (w *watchdog) endSending() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sendEnded = true
	w.timer.Stop()
}

// pauseTimer stops the clock while a source is read, resume starts it again.
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

// endRequest ends the watch and the request.
func (w *watchdog) endRequest() {
	w.endSending()
	w.cancel(nil)
}

// timeoutCause is the error of the request: errSilent instead of a cancellation that it caused.
func (w *watchdog) timeoutCause(err error) error {
	if err != nil && !errors.Is(err, io.EOF) && context.Cause(w.ctx) == errSilent {
		return errSilent
	}
	return err
}

// requestBody is what is sent. While its source is read, the server is not waited for.
type requestBody struct {
	r io.Reader
	w *watchdog
}

func (b *requestBody) Read(p []byte) (int, error) {
	b.w.pauseTimer()
	defer b.w.resumeTimer()
	return b.r.Read(p)
}

// responseBody is an answer that is read under watch.
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
	defer b.w.endRequest()
	return b.ReadCloser.Close()
}

// limitDrain bounds what is still read of the answer.
func (b *responseBody) limitDrain() { b.w.bodyDeadline = time.Now().Add(maxDrainTime) }
