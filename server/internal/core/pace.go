package core

import (
	"bytes"
	"io"
	"net/http"
	"sync"
	"time"
)

// grace is how long a client may take before its rate counts.
const grace = 30 * time.Second

// answer is a response that is paced: a client that takes it more slowly than the least
// rate is cut off, so that none can hold connections and memory for long.
type answer struct {
	http.ResponseWriter
	ctl   *http.ResponseController
	rate  int64
	start time.Time

	status   int
	written  int64
	extended time.Time // when the deadline was last put off
	broken   bool
	copy     *bytes.Buffer // what was written, if somebody wants it
}

// Unwrap lets http.ResponseController find the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	a.extend(time.Now())
	n, err := a.ResponseWriter.Write(p)
	a.written += int64(n)
	if a.copy != nil {
		a.copy.Write(p[:n])
	}
	return n, err
}

// ReadFrom copies in large pieces.
func (a *answer) ReadFrom(r io.Reader) (n int64, err error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{a}, struct{ io.Reader }{r}, *buf)
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// extend puts the end of the time off that the client has: as much as it took already
// entitles it to.
func (a *answer) extend(now time.Time) {
	if now.Sub(a.extended) < time.Second {
		return
	}
	a.extended = now
	_ = a.ctl.SetWriteDeadline(due(now, a.start, a.written, a.rate))
}

// due is when a client that moved n bytes since start is too slow. A client that makes
// progress has a few seconds for the next piece in any case.
func due(now, start time.Time, n, rate int64) time.Time {
	at := start.Add(grace + time.Duration(float64(n)/float64(rate)*float64(time.Second)))
	if most := now.Add(10 * time.Minute); at.After(most) {
		return most
	}
	return at
}

// pacedBody is a request's body that must come at the least rate.
type pacedBody struct {
	io.ReadCloser
	a        *answer
	start    time.Time
	read     int64
	extended time.Time
}

func (b *pacedBody) extend(now time.Time) {
	if now.Sub(b.extended) < time.Second {
		return
	}
	b.extended = now
	_ = b.a.ctl.SetReadDeadline(due(now, b.start, b.read, b.a.rate))
}

func (b *pacedBody) Read(p []byte) (int, error) {
	b.extend(time.Now())
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	return n, err
}

// Untimed lifts the time that a client has for the answer, for streams that may rest.
func Untimed(w http.ResponseWriter) {
	if a, ok := w.(*answer); ok {
		a.extended = time.Now().Add(1000 * time.Hour)
		_ = a.ctl.SetWriteDeadline(time.Time{})
	}
}

// Paced begins the time anew that the client has for the answer: long work is not the client's fault.
func Paced(w http.ResponseWriter) {
	if a, ok := w.(*answer); ok {
		a.start, a.written, a.extended = time.Now(), 0, time.Time{}
	}
}
