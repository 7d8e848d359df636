package server

import (
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/volehq/vole/server/internal/core"
)

// crowd counts the connections of a listener. Beyond most their requests are refused, and
// beyond twice as many they are closed at once, so that descriptors are left for what the
// others do.
type crowd struct {
	net.Listener
	most int64
	now  atomic.Int64
	busy int64 // goroutines beyond those of connections themselves; see crowdConn.Read
}

func (c *crowd) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c.now.Add(1) <= 2*c.most {
			return &crowdConn{Conn: conn, of: c}, nil
		}
		c.now.Add(-1)
		_ = conn.Close()
	}
}

// crowdConn is a connection that is counted until it is closed.
type crowdConn struct {
	net.Conn
	of   *crowd
	once sync.Once
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
