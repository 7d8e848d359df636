package native

import (
	"context"
	"sync"
)

// turns lets those take turns who replace the same file.
type turns struct {
	mu sync.Mutex // guards of, and how many wait
	of map[string]*turn
}

type turn struct {
	busy  chan struct{} // full while somebody has it
	users int
}

// take waits for the turn at a path. end must be called.
func (t *turns) take(ctx context.Context, path string) (end func(), err error) {
	t.mu.Lock()
	x := t.of[path]
	if x == nil {
		x = &turn{busy: make(chan struct{}, 1)}
		t.of[path] = x
	}
	x.users++
	t.mu.Unlock()
	select {
	case x.busy <- struct{}{}:
		return func() {
			<-x.busy
			t.leave(path, x)
		}, nil
	case <-ctx.Done():
		t.leave(path, x)
		return nil, ctx.Err()
	}
}

func (t *turns) leave(path string, x *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if x.users--; x.users == 0 {
		delete(t.of, path)
	}
}
