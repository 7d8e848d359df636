package server

import (
	"container/list"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/core"
)

// connLimiter is a listener that bounds its open connections. At maxConns, a new connection
// replaces the one that has been without a request for longest, so that idle clients keep nobody
// out. If all have requests, requests on further connections are answered with 503; beyond twice
// maxConns, connections are closed at once, which leaves descriptors for other uses.
type connLimiter struct {
	net.Listener
	maxConns      int64
	openConns     atomic.Int64
	maxGoroutines int64 // goroutines beyond those of connections themselves; see limitedConn.Read

	mu   sync.Mutex // guards idle, and activeRequests and idleElem of connections
	idle list.List  // of *limitedConn, longest idle first
}

func (c *connLimiter) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c.openConns.Load() >= c.maxConns {
			c.closeLongestIdle()
		}
		if c.openConns.Add(1) <= 2*c.maxConns {
			x := &limitedConn{Conn: conn, limiter: c}
			c.mu.Lock()
			x.idleElem = c.idle.PushBack(x)
			c.mu.Unlock()
			return x, nil
		}
		c.openConns.Add(-1)
		_ = conn.Close()
	}
}

// closeLongestIdle closes the connection that has been without a request for longest.
func (c *connLimiter) closeLongestIdle() {
	c.mu.Lock()
	first := c.idle.Front()
	c.mu.Unlock()
	if first != nil {
		_ = first.Value.(*limitedConn).Close()
	}
}

// limitedConn is a connection that counts until it is closed. It is idle while none of its
// requests is admitted: package core calls RequestBegins and RequestEnds.
type limitedConn struct {
	net.Conn
	limiter        *connLimiter
	once           sync.Once
	activeRequests int           // admitted and running
	idleElem       *list.Element // in limiter.idle; nil: it has requests, or is closed
}

// RequestBegins notes that a request of the connection was admitted.
func (c *limitedConn) RequestBegins() {
	c.limiter.mu.Lock()
	defer c.limiter.mu.Unlock()
	c.activeRequests++
	c.removeFromIdle()
}

// RequestEnds notes that an admitted request has ended.
func (c *limitedConn) RequestEnds() {
	c.limiter.mu.Lock()
	defer c.limiter.mu.Unlock()
	if c.activeRequests--; c.activeRequests == 0 {
		c.idleElem = c.limiter.idle.PushBack(c)
	}
}

// removeFromIdle takes the connection off the idle list. The caller holds mu.
func (c *limitedConn) removeFromIdle() {
	if c.idleElem != nil {
		c.limiter.idle.Remove(c.idleElem)
		c.idleElem = nil
	}
}

// goroutinesPerConn is how many goroutines a connection has by itself at most.
const goroutinesPerConn = 4

// maxReadDelay bounds how long reading from a connection is delayed on a busy server.
const maxReadDelay = 10 * time.Second

// Read waits while the server has more goroutines than its budgets allow: HTTP/2 starts one for
// each request that arrives, and many connections together can start them faster than any gets
// to run and be refused.
func (c *limitedConn) Read(p []byte) (int, error) {
	for start := time.Now(); c.limiter.tooManyGoroutines() && time.Since(start) < maxReadDelay; {
		time.Sleep(5 * time.Millisecond)
	}
	return c.Conn.Read(p)
}

// tooManyGoroutines reports whether there are more goroutines than admitted requests and open
// connections need.
func (c *connLimiter) tooManyGoroutines() bool {
	return int64(runtime.NumGoroutine()) > c.maxGoroutines+goroutinesPerConn*c.openConns.Load()
}

// Close closes the connection and ends its counting, once.
func (c *limitedConn) Close() error {
	c.once.Do(func() { c.limiter.openConns.Add(-1) })
	c.limiter.mu.Lock()
	c.removeFromIdle()
	c.activeRequests = 1 << 30 // never idle again
	c.limiter.mu.Unlock()
	return c.Conn.Close()
}

// refuseWhenFull answers 503 and closes the connection if there are too many.
func (c *connLimiter) refuseWhenFull(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c.openConns.Load() <= c.maxConns {
			h.ServeHTTP(w, r)
			return
		}
		head := w.Header()
		head.Set("Connection", "close")
		head.Set("Retry-After", "2")
		_ = core.WriteJSON(w, http.StatusServiceUnavailable, map[string]any{"error": map[string]string{
			"code": api.CodeUnavailable, "message": "the server is at its limit of connections; try again"}})
	})
}
