package core

import (
	"net"
	"testing"
)

// TestArrivals shows that the connection which has most makes room, and only that.
func TestArrivals(t *testing.T) {
	a := newPreAuthBudget(1000)
	dial := func() *clientConn {
		c, s := net.Pipe()
		t.Cleanup(func() { c.Close(); s.Close() })
		return &clientConn{Conn: s}
	}
	few, many := dial(), dial()
	first := a.chargeRequest(few, 100)
	var held []*preAuthRequest
	for range 9 {
		held = append(held, a.chargeRequest(many, 100))
	}
	if few.evicted || many.evicted || a.usedBytes != 1000 {
		t.Fatalf("%v %v %d", few.evicted, many.evicted, a.usedBytes)
	}
	second := a.chargeRequest(few, 100)
	if first == nil || second == nil || few.evicted || !many.evicted {
		t.Fatal("the wrong connection was closed")
	}
	if a.chargeRequest(many, 100) != nil {
		t.Error("a closed connection makes requests")
	}
	if _, err := many.Write([]byte{0}); err == nil {
		t.Error("the connection is open")
	}
	for _, x := range held {
		x.release()
	}
	first.release()
	first.release() // counts once
	second.release()
	if a.usedBytes != 0 || few.usedBytes != 0 || len(a.conns) != 0 {
		t.Errorf("%d bytes, %d of the connection, %d connections are left", a.usedBytes, few.usedBytes, len(a.conns))
	}
}
