package core

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"
)

// preAuthBudget bounds the memory of requests that are in no organisation's budget: those whose
// caller is not authenticated yet, and answers that refuse one. An HTTP/2 client that reads no
// answers keeps each of its requests alive, many per connection. When the budget is used up, the
// connections with the most bytes are closed.
type preAuthBudget struct {
	maxBytes int64 // bytes

	mu        sync.Mutex // guards what follows, and every conn's
	usedBytes int64
	conns     map[*clientConn]struct{} // those with usedBytes > 0
}

// clientConn is a connection with its part of the preAuthBudget.
type clientConn struct {
	net.Conn
	observer  connObserver // nil: none
	usedBytes int64
	evicted   bool // its bytes are refunded already
}

// connObserver is a connection of a listener that counts its admitted requests; package server
// has one to find idle connections.
type connObserver interface {
	RequestBegins()
	RequestEnds()
}

type clientConnKey struct{}

// ConnContext is for http.Server.ConnContext: requests find their connection by it.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	inner := c
	if t, ok := c.(*tls.Conn); ok {
		inner = t.NetConn()
	}
	watch, _ := inner.(connObserver)
	return context.WithValue(ctx, clientConnKey{}, &clientConn{Conn: c, observer: watch})
}

// closeAbruptly closes the connection below TLS: its close_notify would block on a client that
// does not read.
func (c *clientConn) closeAbruptly() {
	if t, ok := c.Conn.(*tls.Conn); ok {
		_ = t.NetConn().Close()
		return
	}
	_ = c.Conn.Close()
}

// preAuthRequest is the part of one request in the budget.
type preAuthRequest struct {
	budget  *preAuthBudget
	conn    *clientConn
	bytes   int64 // 0: released
	flushed bool  // a route's handler has flushed the answer
}

type preAuthRequestKey struct{}

func newPreAuthBudget(most int64) *preAuthBudget {
	return &preAuthBudget{maxBytes: most, conns: map[*clientConn]struct{}{}}
}

// chargeRequest counts n bytes for a request until release. It returns nil if the connection was
// closed for it.
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

// chargeOrEvict counts n bytes and, if the budget is used up, evicts connections until an eighth
// of it is free, which the caller then closes: many requests may be waiting for the lock, so
// eviction is done in large steps. ok is false if conn itself was evicted.
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

// largestConn returns the connection with the most bytes. The caller holds mu, here and below.
func (a *preAuthBudget) largestConn() *clientConn {
	var most *clientConn
	for c := range a.conns {
		if most == nil || c.usedBytes > most.usedBytes {
			most = c
		}
	}
	return most
}

// refundConn returns n bytes of a connection.
func (a *preAuthBudget) refundConn(c *clientConn, n int64) {
	a.usedBytes -= n
	if c.usedBytes -= n; c.usedBytes == 0 {
		delete(a.conns, c)
	}
}

// release ends the counting: the request is over, or an organisation's budget has it.
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

// markAdmitted releases the bytes of a request that was admitted, and tells the observer that
// its connection is in use until end is called.
func (x *preAuthRequest) markAdmitted() (end func()) {
	if x == nil || x.conn.observer == nil {
		x.release()
		return func() {}
	}
	x.release()
	x.conn.observer.RequestBegins()
	return x.conn.observer.RequestEnds
}

// preAuthRequestOf returns the accounting of a request, nil if it did not come through
// LimitPreAuth.
func preAuthRequestOf(r *http.Request) *preAuthRequest {
	x, _ := r.Context().Value(preAuthRequestKey{}).(*preAuthRequest)
	return x
}

// LimitPreAuth counts the requests of h in the preAuthBudget from their arrival on. The server
// must use ConnContext.
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
		if !x.flushed && r.ProtoMajor == 2 { // answered by the router, such as a redirect
			ctl := http.NewResponseController(w)
			_ = ctl.SetWriteDeadline(time.Now().Add(c.opts.Grace))
			_ = ctl.Flush()
		}
	})
}

// requestMemorySize estimates the memory that a request takes by itself, in bytes.
func requestMemorySize(r *http.Request) int64 {
	n := int64(requestBase + len(r.RequestURI))
	for name, values := range r.Header {
		for _, v := range values {
			n += int64(len(name) + len(v) + 64)
		}
	}
	return n
}
