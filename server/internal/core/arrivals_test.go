package core

import (
	"net"
	"testing"
)

// TestArrivals shows that the connection which has most makes room, and only that.
func TestArrivals(t *testing.T) {
	a := newArrivals(1000)
	dial := func() *clientConn {
		c, s := net.Pipe()
		t.Cleanup(func() { c.Close(); s.Close() })
		return &clientConn{Conn: s}
	}
	few, many := dial(), dial()
	first := a.enter(few, 100)
	var held []*arrival
	for range 9 {
		held = append(held, a.enter(many, 100))
	}
	if few.closed || many.closed || a.used != 1000 {
		t.Fatalf("%v %v %d", few.closed, many.closed, a.used)
	}
	second := a.enter(few, 100)
	if first == nil || second == nil || few.closed || !many.closed {
		t.Fatal("the wrong connection was closed")
	}
	if a.enter(many, 100) != nil {
		t.Error("a closed connection makes requests")
	}
	if _, err := many.Write([]byte{0}); err == nil {
		t.Error("the connection is open")
	}
	for _, x := range held {
		x.leave()
	}
	first.leave()
	first.leave() // counts once
	second.leave()
	if a.used != 0 || few.used != 0 || len(a.conns) != 0 {
		t.Errorf("%d bytes, %d of the connection, %d connections are left", a.used, few.used, len(a.conns))
	}
}
