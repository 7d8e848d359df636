package core

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"
)

// preAuthBudget bounds the memory of requests that no organisation's budget has (yet): those
// whose caller is not known, and answers that refuse one. A client of HTTP/2 that takes no
// answer keeps each of its requests, and more of them than it could have connections.
// Where all have too much, the connection that has most is closed.
type preAuthBudget struct {
	maxBytes int64 // bytes

	mu        sync.Mutex // guards what follows, and every conn's
	usedBytes int64
	conns     map[*clientConn]struct{} // those that have some
}

// clientConn is a connection, for arrivals.
type clientConn struct {
	net.Conn
	observer  connObserver // nil: nobody wants to know
	usedBytes int64
	evicted   bool // by arrivals; what it has counts no more
}

// connObserver is a listener's connection that wants to know of requests which were let in.
type connObserver interface {
	RequestBegins()
	RequestEnds()
}

type clientConnKey struct{}

// ConnContext is for http.Server: it lets requests know their connection.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	inner := c
	if t, ok := c.(*tls.Conn); ok {
		inner = t.NetConn()
	}
	watch, _ := inner.(connObserver)
	return context.WithValue(ctx, clientConnKey{}, &clientConn{Conn: c, observer: watch})
}

// closeAbruptly ends the connection without the last words of TLS, which would wait for the client.
func (c *clientConn) closeAbruptly() {
	if t, ok := c.Conn.(*tls.Conn); ok {
		_ = t.NetConn().Close()
		return
	}
	_ = c.Conn.Close()
}

// preAuthRequest is a request that arrivals counts.
type preAuthRequest struct {
	budget  *preAuthBudget
	conn    *clientConn
	bytes   int64 // bytes; 0: it counts no more
	flushed bool  // its answer was sent as far as the client lets it
}

type preAuthRequestKey struct{}

func newPreAuthBudget(most int64) *preAuthBudget {
	return &preAuthBudget{maxBytes: most, conns: map[*clientConn]struct{}{}}
}

// chargeRequest counts a request of n bytes until leave. nil: its connection was closed.
func (a *preAuthBudget) chargeRequest(conn *clientConn, n int64) *preAuthRequest {
	closed, ok := a.chargeOrEvict(conn, n)
	for _, c := range closed {
		c.closeAbruptly()
	}
	if !ok {
		return nil
	}
	return &preAuthRequest{budget: a, conn: conn, bytes: n}
}

// chargeOrEvict makes room by taking out what is to be closed: a part of all there is at once, as
// many requests may wait for this.
func (a *preAuthBudget) chargeOrEvict(conn *clientConn, n int64) (closed []*clientConn, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if conn.evicted {
		return nil, false
	}
	conn.usedBytes += n
	a.usedBytes += n
	a.conns[conn] = struct{}{}
	if a.usedBytes <= a.maxBytes {
		return nil, true
	}
	for a.usedBytes > a.maxBytes/8*7 {
		c := a.largestConn()
		c.evicted = true
		a.refundConn(c, c.usedBytes)
		closed = append(closed, c)
	}
	return closed, !conn.evicted
}

// largestConn returns the connection that has most. The caller holds mu, here and below.
func (a *preAuthBudget) largestConn() *clientConn {
	var most *clientConn
	for c := range a.conns {
		if most == nil || c.usedBytes > most.usedBytes {
			most = c
		}
	}
	return most
}

func (a *preAuthBudget) refundConn(c *clientConn, n int64) {
	a.usedBytes -= n
	if c.usedBytes -= n; c.usedBytes == 0 {
		delete(a.conns, c)
	}
}

// release ends the counting: the request is over, or counts elsewhere.
func (x *preAuthRequest) release() {
	if x == nil {
		return
	}
	x.budget.mu.Lock()
	defer x.budget.mu.Unlock()
	if !x.conn.evicted {
		x.budget.refundConn(x.conn, x.bytes)
	}
	x.bytes = 0
}

// markAdmitted ends the counting of a request that was let in. The connection has it until end
// is called.
func (x *preAuthRequest) markAdmitted() (end func()) {
	if x == nil || x.conn.observer == nil {
		x.release()
		return func() {}
	}
	x.release()
	x.conn.observer.RequestBegins()
	return x.conn.observer.RequestEnds
}

// preAuthRequestOf returns what counts the request; nil where nobody does.
func preAuthRequestOf(r *http.Request) *preAuthRequest {
	x, _ := r.Context().Value(preAuthRequestKey{}).(*preAuthRequest)
	return x
}

// LimitPreAuth counts the requests of h from their arrival on. It is for servers with
// ConnContext.
func (c *Core) LimitPreAuth(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _ := r.Context().Value(clientConnKey{}).(*clientConn)
		if conn == nil {
			h.ServeHTTP(w, r)
			return
		}
		x := c.preAuth.chargeRequest(conn, requestMemorySize(r))
		if x == nil {
			panic(http.ErrAbortHandler)
		}
		defer x.release()
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), preAuthRequestKey{}, x)))
		if !x.flushed && r.ProtoMajor == 2 { // no route's: a redirection, say
			ctl := http.NewResponseController(w)
			_ = ctl.SetWriteDeadline(time.Now().Add(c.opts.Grace))
			_ = ctl.Flush()
		}
	})
}

// requestMemorySize is what a request takes by itself, in bytes.
func requestMemorySize(r *http.Request) int64 {
	n := int64(requestBase + len(r.RequestURI))
	for name, values := range r.Header {
		for _, v := range values {
			n += int64(len(name) + len(v) + 64)
		}
	}
	return n
}
