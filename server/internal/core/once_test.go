package core

import (
	"fmt"
	"testing"
	"time"
)

// A request that takes long keeps no answers of others, and they are bounded in bytes.
func TestOnceBounds(t *testing.T) {
	m := newOnceMap()
	add := func(key string, done bool, at time.Time, body int) {
		m.mu.Lock()
		defer m.mu.Unlock()
		x := m.add(onceKey{"me", key}, &onceAnswer{what: "PUT /x", done: make(chan struct{}), at: at})
		if done {
			x.body = make([]byte, body)
			m.size += body
			close(x.done)
		}
	}
	long := time.Now().Add(-time.Hour)
	add("long", false, long, 0)
	for i := range 1000 {
		add(fmt.Sprint("old", i), true, long, 0)
	}
	add("new", true, time.Now(), 0)
	if len(m.of) != 2 || len(m.order) != 2 {
		t.Errorf("%d answers are kept, %d in order", len(m.of), len(m.order))
	}
	for i := range 3 * onceSize / onceBody {
		add(fmt.Sprint("large", i), true, time.Now(), onceBody)
	}
	if m.size > onceSize+2*onceBody || m.of[onceKey{"me", "long"}] == nil {
		t.Errorf("%d bytes are kept", m.size)
	}
	for k, x := range m.of {
		m.remove(k, x)
	}
	if m.size != 0 {
		t.Errorf("%d bytes of nothing", m.size)
	}
}
