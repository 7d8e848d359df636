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
)

// grace is how long a client may take beyond what its rate entitles it to.
const grace = 30 * time.Second

// pace is how a client keeps up in one direction. Only the time counts that is spent
// waiting for the client: what a database or a blob store takes is not its fault.
type pace struct {
	rate  int64         // bytes per second that are the least
	grace time.Duration // see above
	moved int64
	spent time.Duration
	set   time.Time // when the deadline was last put off
}

// mostAhead bounds deadlines: who took much quickly may not rest for ever.
const mostAhead = 10 * time.Minute

// deadline is when the client is too slow that is waited for from now on.
func (p *pace) deadline(now time.Time) time.Time {
	left := p.grace + time.Duration(float64(p.moved)/float64(p.rate)*float64(time.Second)) - p.spent
	return now.Add(min(max(left, 0), mostAhead))
}

// due reports whether the deadline must be put off; that costs a little, so not for
// every few bytes.
func (p *pace) due(now time.Time) bool {
	if now.Sub(p.set) < min(time.Second, p.grace/4) {
		return false
	}
	p.set = now
	return true
}

// waited counts n bytes that a client sent or took since start.
func (p *pace) waited(start time.Time, n int) {
	p.spent += time.Since(start)
	p.moved += int64(n)
}

// answer is a response that is paced: a client that takes it more slowly than the least
// rate is cut off, so that none can hold connections and memory for long.
type answer struct {
	http.ResponseWriter
	ctl  *http.ResponseController
	pace pace

	status  int
	broken  bool
	http2   bool
	untimed bool            // the client may take its time
	gone    atomic.Bool     // the client is to get no more than what was begun, see cut
	body    *pacedBody      // of the request
	ctx     context.Context // of the request
	held    *held           // memory of the request; nil: its caller is not known yet
	copy    *answerCopy     // what was written, if somebody wants it
}

// Unwrap lets http.ResponseController find the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

// atOnce is how much is written under one deadline: little at first, so that a slow
// client can keep up, and more once the client has earned the time for it.
func (p *pace) atOnce() int { return int(min(max(p.moved/8, 32<<10), 256<<10)) }

func (a *answer) Write(p []byte) (n int, err error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	for n < len(p) && err == nil {
		if a.gone.Load() && a.pace.moved > 0 {
			a.broken = true
			return n, context.Canceled
		}
		var m int
		start := time.Now()
		a.extend(start)
		m, err = a.ResponseWriter.Write(p[n:min(n+a.pace.atOnce(), len(p))])
		a.pace.waited(start, m)
		a.lift()
		n += m
	}
	if a.copy != nil {
		a.copy.add(p[:n])
	}
	return n, err
}

// ReadFrom copies in small pieces at first, and in large ones to a client that has shown
// that it takes them, while there is memory for that.
func (a *answer) ReadFrom(r io.Reader) (n int64, err error) {
	small := smallBuffers.Get().(*[]byte)
	defer smallBuffers.Put(small)
	n, err = a.copyN(r, *small, copyFirst)
	if err != nil {
		return n, notEOF(err)
	}
	buf := *small
	if a.held != nil && a.held.try(copyMost) {
		defer a.held.give(copyMost)
		large := largeBuffers.Get().(*[]byte)
		defer largeBuffers.Put(large)
		buf = *large
	}
	rest, err := a.copyN(r, buf, math.MaxInt64)
	return n + rest, notEOF(err)
}

// copyN copies until n bytes are copied or nothing is left, which is io.EOF.
func (a *answer) copyN(r io.Reader, buf []byte, n int64) (done int64, err error) {
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

func notEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

const (
	copyLeast = 64 << 10  // bytes that are copied at once
	copyMost  = 256 << 10 // once copyFirst bytes were
	copyFirst = 1 << 20
)

var (
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, copyLeast); return &b }}
	largeBuffers = sync.Pool{New: func() any { b := make([]byte, copyMost); return &b }}
)

// extend puts off the end of the time that the client has to take what is written next.
func (a *answer) extend(now time.Time) {
	if !a.untimed && a.pace.due(now) {
		a.setDeadline(a.pace.deadline(now))
	}
}

// lastWords is how long a client may still take what it has begun to take when its rights
// have ended.
const lastWords = time.Second

// cut ends the answer: what waits for the client is given up, and nothing is added to what
// was written. An answer that was not begun may still be, to say why. It is to be called
// before the handler returns.
func (a *answer) cut() {
	a.gone.Store(true)
	_ = a.ctl.SetWriteDeadline(time.Now().Add(lastWords))
}

// setDeadline sets the end of the client's time, which cut does not let be put off.
func (a *answer) setDeadline(t time.Time) {
	_ = a.ctl.SetWriteDeadline(t)
	if a.gone.Load() {
		_ = a.ctl.SetWriteDeadline(time.Now().Add(lastWords))
	}
}

// lift ends the deadline of HTTP/2, which breaks a stream off that nobody writes to just
// then. That of HTTP/1 does nothing before somebody writes.
func (a *answer) lift() {
	if a.http2 && !a.untimed {
		a.pace.set = time.Time{}
		a.setDeadline(time.Time{})
	}
}

// flushed gives the client its time for what net/http still holds of the answer.
func (a *answer) flushed() {
	if !a.untimed {
		a.setDeadline(a.pace.deadline(time.Now()))
	}
}

// settle waits until the client has taken a small answer, which HTTP/2 would else wait for
// when nothing of the request counts any more.
func (a *answer) settle(r *http.Request) {
	if x := arrivalOf(r); x != nil {
		x.settled = true
	}
	if a.http2 && a.pace.moved > 0 {
		_ = a.ctl.Flush()
	}
}

// pacedBody is a request's body that must come at the least rate.
type pacedBody struct {
	io.ReadCloser
	a     *answer
	pace  pace
	begun bool // something was read
	over  bool // nothing more comes
	gone  atomic.Bool
	bad   error // why what came is no whole body
}

// cut ends the reading of the body, now and for ever.
func (b *pacedBody) cut() {
	b.gone.Store(true)
	_ = b.a.ctl.SetReadDeadline(time.Now())
}

// cutAfter calls cut when ctx ends. stop must be called before the handler returns: the
// connection is not the request's any more then.
func (b *pacedBody) cutAfter(ctx context.Context) (stop func()) {
	cut := make(chan struct{})
	undo := context.AfterFunc(ctx, func() {
		defer close(cut)
		b.cut()
	})
	return func() {
		if !undo() {
			<-cut
		}
	}
}

// half reports whether the client is in the middle of a body of HTTP/1.
func (b *pacedBody) half() bool { return b.begun && !b.over && !b.a.http2 && !b.gone.Load() }

// discard takes what the client still sends until it has understood, for a while.
func (b *pacedBody) discard() {
	_ = b.a.ctl.SetReadDeadline(time.Now().Add(lingering))
	_, _ = io.Copy(io.Discard, b.ReadCloser)
}

// lingering is how long a client may go on to send what was refused.
const lingering = 3 * time.Second

// paceBody bounds the time that the client has to send the body. It is to be called
// before anything else is done: net/http itself reads what a handler has left of a
// body, and would wait for it.
func paceBody(a *answer, r *http.Request) *pacedBody {
	b := &pacedBody{ReadCloser: r.Body, a: a, pace: pace{rate: a.pace.rate, grace: a.pace.grace}}
	if r.Body == http.NoBody {
		b.ended()
	} else {
		b.extend(time.Now())
	}
	return b
}

func (b *pacedBody) extend(now time.Time) {
	if b.pace.due(now) {
		_ = b.a.ctl.SetReadDeadline(b.pace.deadline(now))
	}
}

// ended lifts the deadline: net/http reads on, to notice when the client goes away, and
// would take the end of the time for that.
func (b *pacedBody) ended() { _ = b.a.ctl.SetReadDeadline(time.Time{}) }

func (b *pacedBody) Read(p []byte) (int, error) {
	start := time.Now()
	b.extend(start)
	if b.gone.Load() {
		return 0, context.Canceled
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = b.failed(err)
	}
	b.pace.waited(start, n)
	b.begun, b.over = true, err != nil
	if err == io.EOF {
		b.ended()
	}
	return n, err
}

// failed is what a handler gets to see of an error of net/http. It matches none of the
// errors of the server's own reads, such as io.ErrUnexpectedEOF, which are retried, or
// taken for the end of a source.
func (b *pacedBody) failed(err error) error {
	var ne net.Error
	switch {
	case errors.As(err, &ne) && ne.Timeout() && b.gone.Load():
		return context.Canceled
	case errors.As(err, &ne) && ne.Timeout():
		return refusal(http.StatusRequestTimeout, "timeout", "the body of the request came too slowly")
	case errors.Is(err, io.ErrUnexpectedEOF) || ne != nil:
		b.bad = badBody("the request ended early")
	default:
		// It is about the encoding: chunks, their sizes and extensions, trailers.
		b.bad = badBody("the body of the request is malformed: " + strings.TrimPrefix(err.Error(), "http: "))
	}
	return b.bad
}

// cause returns why a request failed: net/http ends the context of a request whose body
// breaks off before it says so of the body, and a handler may notice that first.
func (b *pacedBody) cause(err error) error {
	if b != nil && b.bad != nil && errors.Is(err, context.Canceled) {
		return b.bad
	}
	return err
}

func badBody(message string) error {
	return refusal(http.StatusBadRequest, "invalid_request", message)
}

// Untimed lifts the time that a client has for the answer, for streams that may rest.
func Untimed(w http.ResponseWriter) {
	if a, ok := w.(*answer); ok {
		a.untimed = true
		a.setDeadline(time.Time{})
	}
}
