package core

import (
	"context"
	"sync"
)

// Turns lets those take turns who change the same thing, such as a file. The zero value is
// ready to use.
type Turns struct {
	mu sync.Mutex // guards of, and how many wait
	of map[string]*turn
}

type turn struct {
	busy  chan struct{} // full while somebody has it
	users int
}

// Take waits for the turn at what key names. end must be called.
func (t *Turns) Take(ctx context.Context, key string) (end func(), err error) {
	t.mu.Lock()
	if t.of == nil {
		t.of = map[string]*turn{}
	}
	x := t.of[key]
	if x == nil {
		x = &turn{busy: make(chan struct{}, 1)}
		t.of[key] = x
	}
	x.users++
	t.mu.Unlock()
	select {
	case x.busy <- struct{}{}:
		return func() {
			<-x.busy
			t.leave(key, x)
		}, nil
	case <-ctx.Done():
		t.leave(key, x)
		return nil, ctx.Err()
	}
}

func (t *Turns) leave(key string, x *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if x.users--; x.users == 0 {
		delete(t.of, key)
	}
}
