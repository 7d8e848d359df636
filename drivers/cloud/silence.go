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
	silenceMost     = time.Minute      // between two signs of life
	silenceSlowMost = 30 * time.Minute // before the answer to what takes long
	answerMost      = 10 * time.Minute // until an answer that is held in memory has come
	drainMost       = time.Second      // for what is left of an answer
)

var errSilent = errors.New("nothing came for too long")

// watchdog cancels a request whose server is silent.
type watchdog struct {
	ctx    context.Context // of the request
	cancel context.CancelCauseFunc
	timer  *time.Timer
	rest   time.Duration // of silence once the answer has begun
	until  time.Time     // when reading the answer ends; zero: no bound

	mu   sync.Mutex    // net/http may still read what is sent when the answer has begun
	most time.Duration // of silence; guarded by mu until the answer has begun
	over bool          // the answer has begun, or the request ended
}

// newWatchdog begins to wait for the answer to a request.
func (b *Backend) newWatchdog(ctx context.Context, c call) *watchdog {
	w := &watchdog{most: b.silence, rest: b.silence}
	if c.slow {
		w.most = silenceSlowMost
	}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(w.most, func() { w.cancel(errSilent) })
	return w
}

// answered notes that the headers are there.
func (w *watchdog) answered(c call) {
	w.sent()
	w.most = w.rest
	if !c.endless {
		w.until = time.Now().Add(answerMost)
	}
}

// sent ends the watch over what is sent.
func (w *watchdog) sent() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.timer.Stop()
}

// pause stops the clock while a source is read, resume starts it again.
func (w *watchdog) pause() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.timer.Stop()
	}
}

func (w *watchdog) resume() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.timer.Reset(w.most)
	}
}

// end ends the watch and the request.
func (w *watchdog) end() {
	w.sent()
	w.cancel(nil)
}

// cause is the error of the request: errSilent instead of a cancellation that it caused.
func (w *watchdog) cause(err error) error {
	if err != nil && !errors.Is(err, io.EOF) && context.Cause(w.ctx) == errSilent {
		return errSilent
	}
	return err
}

// sentBody is what is sent. While its source is read, the server is not waited for.
type sentBody struct {
	r io.Reader
	w *watchdog
}

func (b *sentBody) Read(p []byte) (int, error) {
	b.w.pause()
	defer b.w.resume()
	return b.r.Read(p)
}

// answerBody is an answer that is read under watch.
type answerBody struct {
	io.ReadCloser
	w *watchdog
}

func (b *answerBody) Read(p []byte) (int, error) {
	most := b.w.most
	if !b.w.until.IsZero() {
		most = min(most, time.Until(b.w.until))
	}
	b.w.timer.Reset(max(most, 0))
	n, err := b.ReadCloser.Read(p)
	b.w.timer.Stop()
	return n, b.w.cause(err)
}

func (b *answerBody) Close() error {
	defer b.w.end()
	return b.ReadCloser.Close()
}

// hurry bounds what is still read of the answer.
func (b *answerBody) hurry() { b.w.until = time.Now().Add(drainMost) }
