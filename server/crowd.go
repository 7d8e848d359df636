package server

import (
	"container/list"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/volehq/vole/server/internal/core"
)

// crowd counts the connections of a listener. At most, one more takes the place of that
// which has been without a request for longest: who only keeps connections keeps nobody
// out. Where all have requests those of new ones are refused, and beyond twice as many
// connections are closed at once, so that descriptors are left for what the others do.
type crowd struct {
	net.Listener
	most int64
	now  atomic.Int64
	busy int64 // goroutines beyond those of connections themselves; see crowdConn.Read

	mu   sync.Mutex // guards idle, and each connection's requests and place
	idle list.List  // of *crowdConn, that which is without a request for longest first
}

func (c *crowd) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c.now.Load() >= c.most {
			c.closeIdle()
		}
		if c.now.Add(1) <= 2*c.most {
			x := &crowdConn{Conn: conn, of: c}
			c.mu.Lock()
			x.place = c.idle.PushBack(x)
			c.mu.Unlock()
			return x, nil
		}
		c.now.Add(-1)
		_ = conn.Close()
	}
}

// closeIdle closes the connection that is without a request for longest.
func (c *crowd) closeIdle() {
	c.mu.Lock()
	first := c.idle.Front()
	c.mu.Unlock()
	if first != nil {
		_ = first.Value.(*crowdConn).Close()
	}
}

// crowdConn is a connection that is counted until it is closed.
type crowdConn struct {
	net.Conn
	of       *crowd
	once     sync.Once
	requests int           // that were let in and are under way
	place    *list.Element // in of.idle; nil: it has requests, or is closed
}

// RequestBegins is for package core: a request of the connection was let in.
func (c *crowdConn) RequestBegins() {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.requests++
	c.leaveIdle()
}

// RequestEnds is for package core.
func (c *crowdConn) RequestEnds() {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if c.requests--; c.requests == 0 {
		c.place = c.of.idle.PushBack(c)
	}
}

// leaveIdle takes the connection out of those without requests. The caller holds mu.
func (c *crowdConn) leaveIdle() {
	if c.place != nil {
		c.of.idle.Remove(c.place)
		c.place = nil
	}
}

// connGoroutines is how many goroutines a connection has by itself, at most.
const connGoroutines = 4

// busyWait bounds how long a connection is not read because the server has too much to do.
const busyWait = 10 * time.Second

// Read waits while the server has more requests than it can have looked at: HTTP/2 makes
// goroutines of all that a client sends, and many connections together send them faster
// than any of them runs.
func (c *crowdConn) Read(p []byte) (int, error) {
	for start := time.Now(); c.of.tooBusy() && time.Since(start) < busyWait; {
		time.Sleep(5 * time.Millisecond)
	}
	return c.Conn.Read(p)
}

func (c *crowd) tooBusy() bool {
	return int64(runtime.NumGoroutine()) > c.busy+connGoroutines*c.now.Load()
}

func (c *crowdConn) Close() error {
	c.once.Do(func() { c.of.now.Add(-1) })
	c.of.mu.Lock()
	c.leaveIdle()
	c.requests = 1 << 30 // and never comes back
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// refuse answers 503 where there are too many connections, and has the client's closed.
func (c *crowd) refuse(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c.now.Load() <= c.most {
			h.ServeHTTP(w, r)
			return
		}
		head := w.Header()
		head.Set("Connection", "close")
		head.Set("Retry-After", "2")
		_ = core.WriteJSON(w, http.StatusServiceUnavailable, map[string]any{"error": map[string]string{
			"code": "unavailable", "message": "the server has as many connections as it may; try again"}})
	})
}
