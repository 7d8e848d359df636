package core

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/volehq/vole/internal/api"
)

// defaultGrace is how long a client may take beyond what its bytes entitle it to.
const defaultGrace = 30 * time.Second

// clientPace tells whether a client keeps up with the minimum rate in one direction. Only the
// time counts that the server waits for the client: what a database or a blob store takes is not
// the client's fault.
type clientPace struct {
	minRate      int64         // minimum, in bytes per second
	grace        time.Duration // see defaultGrace
	bytesMoved   int64
	timeWaited   time.Duration
	lastExtended time.Time // when the deadline was last set
}

// maxDeadlineAhead bounds deadlines: a client that was fast for long has no unlimited credit.
const maxDeadlineAhead = 10 * time.Minute

// nextDeadline returns when a client that is waited for from now on falls below the minimum
// rate: grace, plus the time that its bytes earned, minus the time already spent waiting.
func (p *clientPace) nextDeadline(now time.Time) time.Time {
	left := p.grace + time.Duration(float64(p.bytesMoved)/float64(p.minRate)*float64(time.Second)) - p.timeWaited
	return now.Add(min(max(left, 0), maxDeadlineAhead))
}

// extensionDue reports whether the deadline should be set again. Setting one costs a system call
// or a lock, so not for every few bytes.
func (p *clientPace) extensionDue(now time.Time) bool {
	if now.Sub(p.lastExtended) < min(time.Second, p.grace/4) {
		return false
	}
	p.lastExtended = now
	return true
}

// addWait counts n bytes that the client sent or took since start.
func (p *clientPace) addWait(start time.Time, n int) {
	p.timeWaited += time.Since(start)
	p.bytesMoved += int64(n)
}

// pacedResponse is the answer to one request. It cuts off a client that takes the answer more
// slowly than the minimum rate, so that none holds connections and memory for long; it knows the
// status for log and metrics, and can record the body for the idempotency cache.
//
// Its fields belong to the handler's goroutine, except cutOff, which stopSending sets from
// another.
type pacedResponse struct {
	http.ResponseWriter
	control *http.ResponseController
	pace    clientPace

	status     int
	aborted    bool
	http2      bool
	noDeadline bool            // no minimum rate: see DisableWriteDeadline
	cutOff     atomic.Bool     // see stopSending
	body       *pacedBody      // of the request
	ctx        context.Context // of the request
	memory     *requestMemory  // nil until the caller is authorized
	recorder   *answerRecorder // copies the body; nil: not needed
}

// Unwrap lets http.ResponseController reach the connection.
func (a *pacedResponse) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *pacedResponse) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

// chunkSize is how many bytes are written under one deadline: few at first, so that a slow
// client keeps up, more once the client has earned the time for them.
func (p *clientPace) chunkSize() int { return int(min(max(p.bytesMoved/8, 32<<10), 256<<10)) }

func (a *pacedResponse) Write(p []byte) (n int, err error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	for n < len(p) && err == nil {
		if a.cutOff.Load() && a.pace.bytesMoved > 0 {
			a.aborted = true
			return n, context.Canceled
		}
		var m int
		start := time.Now()
		a.extendWriteDeadline(start)
		m, err = a.ResponseWriter.Write(p[n:min(n+a.pace.chunkSize(), len(p))])
		a.pace.addWait(start, m)
		a.clearHTTP2Deadline()
		n += m
	}
	if a.recorder != nil {
		a.recorder.record(p[:n])
	}
	return n, err
}

// ReadFrom copies with a small buffer at first, and with a large one after largeCopyAfter bytes
// if the budget has memory for it.
func (a *pacedResponse) ReadFrom(r io.Reader) (n int64, err error) {
	small := smallBuffers.Get().(*[]byte)
	defer smallBuffers.Put(small)
	n, err = a.copyChunks(r, *small, largeCopyAfter)
	if err != nil {
		return n, ignoreEOF(err)
	}
	buf := *small
	if a.memory != nil && a.memory.tryAcquireBuffer(largeCopy) {
		defer a.memory.releaseBytes(largeCopy)
		large := largeBuffers.Get().(*[]byte)
		defer largeBuffers.Put(large)
		buf = *large
	}
	rest, err := a.copyChunks(r, buf, math.MaxInt64)
	return n + rest, ignoreEOF(err)
}

// copyChunks copies up to n bytes. The error is io.EOF if r ended before.
func (a *pacedResponse) copyChunks(r io.Reader, buf []byte, n int64) (done int64, err error) {
	for done < n && err == nil {
		var m int
		m, err = r.Read(buf[:min(int64(len(buf)), n-done)])
		w, werr := a.Write(buf[:m])
		done += int64(w)
		if werr != nil {
			return done, werr
		}
	}
	return done, err
}

// ignoreEOF returns err unless it is io.EOF.
func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

const (
	smallCopy      = 64 << 10  // bytes copied at once
	largeCopy      = 256 << 10 // after largeCopyAfter bytes
	largeCopyAfter = 1 << 20
)

var (
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, smallCopy); return &b }}
	largeBuffers = sync.Pool{New: func() any { b := make([]byte, largeCopy); return &b }}
)

// extendWriteDeadline gives the client its time for the next write.
func (a *pacedResponse) extendWriteDeadline(now time.Time) {
	if !a.noDeadline && a.pace.extensionDue(now) {
		a.setWriteDeadline(a.pace.nextDeadline(now))
	}
}

// cutOffGrace is how long a client whose rights have ended may still take what was written.
const cutOffGrace = time.Second

// stopSending ends the answer from another goroutine: writes that wait for the client fail after
// cutOffGrace, and nothing is added to what was written. An answer that has not begun may still
// be written, to say why. It must be called before the handler returns.
func (a *pacedResponse) stopSending() {
	a.cutOff.Store(true)
	_ = a.control.SetWriteDeadline(time.Now().Add(cutOffGrace))
}

// setWriteDeadline sets the write deadline, except that stopSending wins. cutOff is checked
// after setting, so that a concurrent stopSending is not overwritten.
func (a *pacedResponse) setWriteDeadline(t time.Time) {
	_ = a.control.SetWriteDeadline(t)
	if a.cutOff.Load() {
		_ = a.control.SetWriteDeadline(time.Now().Add(cutOffGrace))
	}
}

// clearHTTP2Deadline removes the deadline after a write. On HTTP/2 it would reset a stream that
// is idle just then; on HTTP/1 it matters only to the next write, which sets its own.
func (a *pacedResponse) clearHTTP2Deadline() {
	if a.http2 && !a.noDeadline {
		a.pace.lastExtended = time.Time{}
		a.setWriteDeadline(time.Time{})
	}
}

// extendForFinalFlush gives the client its time for what net/http still buffers of the answer.
func (a *pacedResponse) extendForFinalFlush() {
	if !a.noDeadline {
		a.setWriteDeadline(a.pace.nextDeadline(time.Now()))
	}
}

// flushSmallAnswer sends what net/http still buffers while the request counts in the budgets: on
// HTTP/2 the final flush waits for the client after the handler has returned.
func (a *pacedResponse) flushSmallAnswer(r *http.Request) {
	if x := preAuthRequestOf(r); x != nil {
		x.flushed = true
	}
	if a.http2 && a.pace.bytesMoved > 0 {
		_ = a.control.Flush()
	}
}

// pacedBody is the body of a request, which must arrive at the minimum rate.
type pacedBody struct {
	io.ReadCloser
	response *pacedResponse
	pace     clientPace
	started  bool // at least one byte was asked for
	finished bool // the body has ended, or failed
	stopped  atomic.Bool
	bodyErr  error // set if the body is malformed or incomplete
}

// stopReading makes the current read and all later ones fail, from any goroutine.
func (b *pacedBody) stopReading() {
	b.stopped.Store(true)
	_ = b.response.control.SetReadDeadline(time.Now())
}

// stopReadingAfter calls stopReading when ctx ends. The caller must call stop before the handler
// returns, which waits for a stopReading under way: after that the connection belongs to the
// next request.
func (b *pacedBody) stopReadingAfter(ctx context.Context) (stop func()) {
	cut := make(chan struct{})
	undo := context.AfterFunc(ctx, func() {
		defer close(cut)
		b.stopReading()
	})
	return func() {
		if !undo() {
			<-cut
		}
	}
}

// partlyRead reports whether the client is still sending a body over HTTP/1.
func (b *pacedBody) partlyRead() bool {
	return b.started && !b.finished && !b.response.http2 && !b.stopped.Load()
}

// discardRest reads and drops what the client still sends, for discardTime at most.
func (b *pacedBody) discardRest() {
	_ = b.response.control.SetReadDeadline(time.Now().Add(discardTime))
	_, _ = io.Copy(io.Discard, b.ReadCloser)
}

// discardTime is how long a client may go on sending after a refusal: closing earlier would
// reset the connection before the client has read the answer.
const discardTime = 3 * time.Second

// newPacedBody puts the body of r under the minimum rate. It comes before anything else is done
// with the request: net/http itself reads what a handler leaves of a body, and would wait for it
// without a deadline.
func newPacedBody(a *pacedResponse, r *http.Request) *pacedBody {
	b := &pacedBody{ReadCloser: r.Body, response: a, pace: clientPace{minRate: a.pace.minRate, grace: a.pace.grace}}
	if r.Body == http.NoBody {
		b.clearReadDeadline()
	} else {
		b.extendReadDeadline(time.Now())
	}
	return b
}

// extendReadDeadline gives the client its time for the next read.
func (b *pacedBody) extendReadDeadline(now time.Time) {
	if b.pace.extensionDue(now) {
		_ = b.response.control.SetReadDeadline(b.pace.nextDeadline(now))
	}
}

// clearReadDeadline removes the deadline at the end of the body: net/http goes on reading to
// notice a disconnect, and would take a timeout for one.
func (b *pacedBody) clearReadDeadline() { _ = b.response.control.SetReadDeadline(time.Time{}) }

func (b *pacedBody) Read(p []byte) (int, error) {
	start := time.Now()
	b.extendReadDeadline(start)
	if b.stopped.Load() {
		return 0, context.Canceled
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = b.translateReadError(err)
	}
	b.pace.addWait(start, n)
	b.started, b.finished = true, err != nil
	if err == io.EOF {
		b.clearReadDeadline()
	}
	return n, err
}

// translateReadError maps an error of net/http to one for the handler. The result matches none
// of the errors of the server's own reads, such as io.ErrUnexpectedEOF, which are retried or
// taken for the end of a source.
func (b *pacedBody) translateReadError(err error) error {
	var ne net.Error
	switch {
	case errors.As(err, &ne) && ne.Timeout() && b.stopped.Load():
		return context.Canceled
	case errors.As(err, &ne) && ne.Timeout():
		return &Error{Status: http.StatusRequestTimeout, Code: api.CodeTimeout, Message: "the body of the request arrived too slowly"}
	case errors.Is(err, io.ErrUnexpectedEOF) || ne != nil:
		b.bodyErr = invalidBody("the request ended early")
	default:
		// The transfer encoding: chunks, their sizes and extensions, trailers.
		b.bodyErr = invalidBody("the body of the request is malformed: " + strings.TrimPrefix(err.Error(), "http: "))
	}
	return b.bodyErr
}

// causeOf returns the error of the body if err is its consequence: net/http cancels the context
// of a request whose body breaks off before it reports the body, so a handler may see
// context.Canceled first.
func (b *pacedBody) causeOf(err error) error {
	if b != nil && b.bodyErr != nil && errors.Is(err, context.Canceled) {
		return b.bodyErr
	}
	return err
}

// invalidBody returns the error for a body that is malformed or incomplete.
func invalidBody(message string) error {
	return newRefusal(api.CodeInvalidRequest, message)
}

// DisableWriteDeadline exempts an answer from the minimum rate, for streams that may be idle.
func DisableWriteDeadline(w http.ResponseWriter) {
	if a, ok := w.(*pacedResponse); ok {
		a.noDeadline = true
		a.setWriteDeadline(time.Time{})
	}
}
