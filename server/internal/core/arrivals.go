package core

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"
)

// arrivals bounds the memory of requests that no organisation's budget has (yet): those
// whose caller is not known, and answers that refuse one. A client of HTTP/2 that takes no
// answer keeps each of its requests, and more of them than it could have connections.
// Where all have too much, the connection that has most is closed.
type arrivals struct {
	most int64 // bytes

	mu    sync.Mutex // guards what follows, and every conn's
	used  int64
	conns map[*clientConn]struct{} // those that have some
}

// clientConn is a connection, for arrivals.
type clientConn struct {
	net.Conn
	watch  connWatch // nil: nobody wants to know
	used   int64
	closed bool // by arrivals; what it has counts no more
}

// connWatch is a listener's connection that wants to know of requests which were let in.
type connWatch interface {
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
	watch, _ := inner.(connWatch)
	return context.WithValue(ctx, clientConnKey{}, &clientConn{Conn: c, watch: watch})
}

// close ends the connection without the last words of TLS, which would wait for the client.
func (c *clientConn) close() {
	if t, ok := c.Conn.(*tls.Conn); ok {
		_ = t.NetConn().Close()
		return
	}
	_ = c.Conn.Close()
}

// arrival is a request that arrivals counts.
type arrival struct {
	of      *arrivals
	conn    *clientConn
	n       int64 // bytes; 0: it counts no more
	settled bool  // its answer was sent as far as the client lets it
}

type arrivalKey struct{}

func newArrivals(most int64) *arrivals {
	return &arrivals{most: most, conns: map[*clientConn]struct{}{}}
}

// enter counts a request of n bytes until leave. nil: its connection was closed.
func (a *arrivals) enter(conn *clientConn, n int64) *arrival {
	closed, ok := a.count(conn, n)
	for _, c := range closed {
		c.close()
	}
	if !ok {
		return nil
	}
	return &arrival{of: a, conn: conn, n: n}
}

// count makes room by taking out what is to be closed: a part of all there is at once, as
// many requests may wait for this.
func (a *arrivals) count(conn *clientConn, n int64) (closed []*clientConn, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if conn.closed {
		return nil, false
	}
	conn.used += n
	a.used += n
	a.conns[conn] = struct{}{}
	if a.used <= a.most {
		return nil, true
	}
	for a.used > a.most/8*7 {
		c := a.largest()
		c.closed = true
		a.forget(c, c.used)
		closed = append(closed, c)
	}
	return closed, !conn.closed
}

// largest returns the connection that has most. The caller holds mu, here and below.
func (a *arrivals) largest() *clientConn {
	var most *clientConn
	for c := range a.conns {
		if most == nil || c.used > most.used {
			most = c
		}
	}
	return most
}

func (a *arrivals) forget(c *clientConn, n int64) {
	a.used -= n
	if c.used -= n; c.used == 0 {
		delete(a.conns, c)
	}
}

// leave ends the counting: the request is over, or counts elsewhere.
func (x *arrival) leave() {
	if x == nil {
		return
	}
	x.of.mu.Lock()
	defer x.of.mu.Unlock()
	if !x.conn.closed {
		x.of.forget(x.conn, x.n)
	}
	x.n = 0
}

// admitted ends the counting of a request that was let in. The connection has it until end
// is called.
func (x *arrival) admitted() (end func()) {
	if x == nil || x.conn.watch == nil {
		x.leave()
		return func() {}
	}
	x.leave()
	x.conn.watch.RequestBegins()
	return x.conn.watch.RequestEnds
}

// arrivalOf returns what counts the request; nil where nobody does.
func arrivalOf(r *http.Request) *arrival {
	x, _ := r.Context().Value(arrivalKey{}).(*arrival)
	return x
}

// Arrive counts the requests of h from their arrival on. It is for servers with
// ConnContext.
func (c *Core) Arrive(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _ := r.Context().Value(clientConnKey{}).(*clientConn)
		if conn == nil {
			h.ServeHTTP(w, r)
			return
		}
		x := c.arrivals.enter(conn, requestSize(r))
		if x == nil {
			panic(http.ErrAbortHandler)
		}
		defer x.leave()
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), arrivalKey{}, x)))
		if !x.settled && r.ProtoMajor == 2 { // no route's: a redirection, say
			ctl := http.NewResponseController(w)
			_ = ctl.SetWriteDeadline(time.Now().Add(c.opts.Grace))
			_ = ctl.Flush()
		}
	})
}

// requestSize is what a request takes by itself, in bytes.
func requestSize(r *http.Request) int64 {
	n := int64(requestBase + len(r.RequestURI))
	for name, values := range r.Header {
		for _, v := range values {
			n += int64(len(name) + len(v) + 64)
		}
	}
	return n
}
