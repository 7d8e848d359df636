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

// defaultGrace is how long a client may take beyond what its rate entitles it to.
const defaultGrace = 30 * time.Second

// clientPace is how a client keeps up in one direction. Only the time counts that is spent
// waiting for the client: what a database or a blob store takes is not its fault.
type clientPace struct {
	minRate      int64         // bytes per second that are the least
	grace        time.Duration // see above
	bytesMoved   int64
	timeWaited   time.Duration
	lastExtended time.Time // when the deadline was last put off
}

// maxDeadlineAhead bounds deadlines: who took much quickly may not rest for ever.
const maxDeadlineAhead = 10 * time.Minute

// nextDeadline is when the client is too slow that is waited for from now on.
func (p *clientPace) nextDeadline(now time.Time) time.Time {
	left := p.grace + time.Duration(float64(p.bytesMoved)/float64(p.minRate)*float64(time.Second)) - p.timeWaited
	return now.Add(min(max(left, 0), maxDeadlineAhead))
}

// extensionDue reports whether the deadline must be put off; that costs a little, so not for
// every few bytes.
func (p *clientPace) extensionDue(now time.Time) bool {
	if now.Sub(p.lastExtended) < min(time.Second, p.grace/4) {
		return false
	}
	p.lastExtended = now
	return true
}

// addWait counts n bytes that a client sent or took since start.
func (p *clientPace) addWait(start time.Time, n int) {
	p.timeWaited += time.Since(start)
	p.bytesMoved += int64(n)
}

// pacedResponse is a response that is paced: a client that takes it more slowly than the least
// rate is cut off, so that none can hold connections and memory for long.
type pacedResponse struct {
	http.ResponseWriter
	control *http.ResponseController
	pace    clientPace

	status     int
	aborted    bool
	http2      bool
	noDeadline bool            // the client may take its time
	cutOff     atomic.Bool     // the client is to get no more than what was begun, see cut
	body       *pacedBody      // of the request
	ctx        context.Context // of the request
	memory     *requestMemory  // memory of the request; nil: its caller is not known yet
	recorder   *answerRecorder // what was written, if somebody wants it
}

// Unwrap lets http.ResponseController find the connection.
func (a *pacedResponse) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *pacedResponse) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

// chunkSize is how much is written under one deadline: little at first, so that a slow
// client can keep up, and more once the client has earned the time for it.
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

// ReadFrom copies in small pieces at first, and in large ones to a client that has shown
// that it takes them, while there is memory for that.
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

// copyChunks copies until n bytes are copied or nothing is left, which is io.EOF.
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

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

const (
	smallCopy      = 64 << 10  // bytes that are copied at once
	largeCopy      = 256 << 10 // once largeCopyAfter bytes were
	largeCopyAfter = 1 << 20
)

var (
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, smallCopy); return &b }}
	largeBuffers = sync.Pool{New: func() any { b := make([]byte, largeCopy); return &b }}
)

// extendWriteDeadline puts off the end of the time that the client has to take what is written next.
func (a *pacedResponse) extendWriteDeadline(now time.Time) {
	if !a.noDeadline && a.pace.extensionDue(now) {
		a.setWriteDeadline(a.pace.nextDeadline(now))
	}
}

// cutOffGrace is how long a client may still take what it has begun to take when its rights
// have ended.
const cutOffGrace = time.Second

// stopSending ends the answer: what waits for the client is given up, and nothing is added to what
// was written. An answer that was not begun may still be, to say why. It is to be called
// before the handler returns.
func (a *pacedResponse) stopSending() {
	a.cutOff.Store(true)
	_ = a.control.SetWriteDeadline(time.Now().Add(cutOffGrace))
}

// setWriteDeadline sets the end of the client's time, which cut does not let be put off.
func (a *pacedResponse) setWriteDeadline(t time.Time) {
	_ = a.control.SetWriteDeadline(t)
	if a.cutOff.Load() {
		_ = a.control.SetWriteDeadline(time.Now().Add(cutOffGrace))
	}
}

// clearHTTP2Deadline ends the deadline of HTTP/2, which breaks a stream off that nobody writes to just
// then. That of HTTP/1 does nothing before somebody writes.
func (a *pacedResponse) clearHTTP2Deadline() {
	if a.http2 && !a.noDeadline {
		a.pace.lastExtended = time.Time{}
		a.setWriteDeadline(time.Time{})
	}
}

// extendForFinalFlush gives the client its time for what net/http still holds of the answer.
func (a *pacedResponse) extendForFinalFlush() {
	if !a.noDeadline {
		a.setWriteDeadline(a.pace.nextDeadline(time.Now()))
	}
}

// flushSmallAnswer waits until the client has taken a small answer, which HTTP/2 would else wait for
// when nothing of the request counts any more.
func (a *pacedResponse) flushSmallAnswer(r *http.Request) {
	if x := preAuthRequestOf(r); x != nil {
		x.flushed = true
	}
	if a.http2 && a.pace.bytesMoved > 0 {
		_ = a.control.Flush()
	}
}

// pacedBody is a request's body that must come at the least rate.
type pacedBody struct {
	io.ReadCloser
	response *pacedResponse
	pace     clientPace
	started  bool // something was read
	finished bool // nothing more comes
	stopped  atomic.Bool
	bodyErr  error // why what came is no whole body
}

// stopReading ends the reading of the body, now and for ever.
func (b *pacedBody) stopReading() {
	b.stopped.Store(true)
	_ = b.response.control.SetReadDeadline(time.Now())
}

// stopReadingAfter calls cut when ctx ends. stop must be called before the handler returns: the
// connection is not the request's any more then.
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

// partlyRead reports whether the client is in the middle of a body of HTTP/1.
func (b *pacedBody) partlyRead() bool {
	return b.started && !b.finished && !b.response.http2 && !b.stopped.Load()
}

// discardRest takes what the client still sends until it has understood, for a while.
func (b *pacedBody) discardRest() {
	_ = b.response.control.SetReadDeadline(time.Now().Add(discardTime))
	_, _ = io.Copy(io.Discard, b.ReadCloser)
}

// discardTime is how long a client may go on to send what was refused.
const discardTime = 3 * time.Second

// newPacedBody bounds the time that the client has to send the body. It is to be called
// before anything else is done: net/http itself reads what a handler has left of a
// body, and would wait for it.
func newPacedBody(a *pacedResponse, r *http.Request) *pacedBody {
	b := &pacedBody{ReadCloser: r.Body, response: a, pace: clientPace{minRate: a.pace.minRate, grace: a.pace.grace}}
	if r.Body == http.NoBody {
		b.clearReadDeadline()
	} else {
		b.extendReadDeadline(time.Now())
	}
	return b
}

func (b *pacedBody) extendReadDeadline(now time.Time) {
	if b.pace.extensionDue(now) {
		_ = b.response.control.SetReadDeadline(b.pace.nextDeadline(now))
	}
}

// clearReadDeadline lifts the deadline: net/http reads on, to notice when the client goes away, and
// would take the end of the time for that.
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

// translateReadError is what a handler gets to see of an error of net/http. It matches none of the
// errors of the server's own reads, such as io.ErrUnexpectedEOF, which are retried, or
// taken for the end of a source.
func (b *pacedBody) translateReadError(err error) error {
	var ne net.Error
	switch {
	case errors.As(err, &ne) && ne.Timeout() && b.stopped.Load():
		return context.Canceled
	case errors.As(err, &ne) && ne.Timeout():
		return &Error{Status: http.StatusRequestTimeout, Code: api.CodeTimeout, Message: "the body of the request came too slowly"}
	case errors.Is(err, io.ErrUnexpectedEOF) || ne != nil:
		b.bodyErr = invalidBody("the request ended early")
	default:
		// It is about the encoding: chunks, their sizes and extensions, trailers.
		b.bodyErr = invalidBody("the body of the request is malformed: " + strings.TrimPrefix(err.Error(), "http: "))
	}
	return b.bodyErr
}

// causeOf returns why a request failed: net/http ends the context of a request whose body
// breaks off before it says so of the body, and a handler may notice that first.
func (b *pacedBody) causeOf(err error) error {
	if b != nil && b.bodyErr != nil && errors.Is(err, context.Canceled) {
		return b.bodyErr
	}
	return err
}

func invalidBody(message string) error {
	return newRefusal(api.CodeInvalidRequest, message)
}

// DisableWriteDeadline lifts the time that a client has for the answer, for streams that may rest.
func DisableWriteDeadline(w http.ResponseWriter) {
	if a, ok := w.(*pacedResponse); ok {
		a.noDeadline = true
		a.setWriteDeadline(time.Time{})
	}
}
