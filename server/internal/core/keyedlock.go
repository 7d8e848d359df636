package core

import (
	"context"
	"sync"
)

// KeyedLock lets those take turns who change the same thing, such as a file. The zero value is
// ready to use.
type KeyedLock struct {
	mu    sync.Mutex // guards of, and how many wait
	byKey map[string]*keyLock
}

type keyLock struct {
	held chan struct{} // full while somebody has it
	refs int
}

// Lock waits for the turn at what key names. end must be called.
func (t *KeyedLock) Lock(ctx context.Context, key string) (end func(), err error) {
	t.mu.Lock()
	if t.byKey == nil {
		t.byKey = map[string]*keyLock{}
	}
	x := t.byKey[key]
	if x == nil {
		x = &keyLock{held: make(chan struct{}, 1)}
		t.byKey[key] = x
	}
	x.refs++
	t.mu.Unlock()
	select {
	case x.held <- struct{}{}:
		return func() {
			<-x.held
			t.releaseRef(key, x)
		}, nil
	case <-ctx.Done():
		t.releaseRef(key, x)
		return nil, ctx.Err()
	}
}

func (t *KeyedLock) releaseRef(key string, x *keyLock) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if x.refs--; x.refs == 0 {
		delete(t.byKey, key)
	}
}
