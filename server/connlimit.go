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

// connLimiter counts the connections of a listener. At most, one more takes the place of that
// which has been without a request for longest: who only keeps connections keeps nobody
// out. Where all have requests those of new ones are refused, and beyond twice as many
// connections are closed at once, so that descriptors are left for what the others do.
type connLimiter struct {
	net.Listener
	maxConns      int64
	openConns     atomic.Int64
	maxGoroutines int64 // goroutines beyond those of connections themselves; see limitedConn.Read

	mu   sync.Mutex // guards idle, and each connection's requests and place
	idle list.List  // of *limitedConn, that which is without a request for longest first
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

// closeLongestIdle closes the connection that is without a request for longest.
func (c *connLimiter) closeLongestIdle() {
	c.mu.Lock()
	first := c.idle.Front()
	c.mu.Unlock()
	if first != nil {
		_ = first.Value.(*limitedConn).Close()
	}
}

// limitedConn is a connection that is counted until it is closed.
type limitedConn struct {
	net.Conn
	limiter        *connLimiter
	once           sync.Once
	activeRequests int           // that were let in and are under way
	idleElem       *list.Element // in of.idle; nil: it has requests, or is closed
}

// RequestBegins is for package core: a request of the connection was let in.
func (c *limitedConn) RequestBegins() {
	c.limiter.mu.Lock()
	defer c.limiter.mu.Unlock()
	c.activeRequests++
	c.removeFromIdle()
}

// RequestEnds is for package core.
func (c *limitedConn) RequestEnds() {
	c.limiter.mu.Lock()
	defer c.limiter.mu.Unlock()
	if c.activeRequests--; c.activeRequests == 0 {
		c.idleElem = c.limiter.idle.PushBack(c)
	}
}

// removeFromIdle takes the connection out of those without requests. The caller holds mu.
func (c *limitedConn) removeFromIdle() {
	if c.idleElem != nil {
		c.limiter.idle.Remove(c.idleElem)
		c.idleElem = nil
	}
}

// goroutinesPerConn is how many goroutines a connection has by itself, at most.
const goroutinesPerConn = 4

// maxReadDelay bounds how long a connection is not read because the server has too much to do.
const maxReadDelay = 10 * time.Second

// Read waits while the server has more requests than it can have looked at: HTTP/2 makes
// goroutines of all that a client sends, and many connections together send them faster
// than any of them runs.
func (c *limitedConn) Read(p []byte) (int, error) {
	for start := time.Now(); c.limiter.tooManyGoroutines() && time.Since(start) < maxReadDelay; {
		time.Sleep(5 * time.Millisecond)
	}
	return c.Conn.Read(p)
}

func (c *connLimiter) tooManyGoroutines() bool {
	return int64(runtime.NumGoroutine()) > c.maxGoroutines+goroutinesPerConn*c.openConns.Load()
}

func (c *limitedConn) Close() error {
	c.once.Do(func() { c.limiter.openConns.Add(-1) })
	c.limiter.mu.Lock()
	c.removeFromIdle()
	c.activeRequests = 1 << 30 // and never comes back
	c.limiter.mu.Unlock()
	return c.Conn.Close()
}

// refuseWhenFull answers 503 where there are too many connections, and has the client's closed.
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
			"code": api.CodeUnavailable, "message": "the server has as many connections as it may; try again"}})
	})
}
