package core

import (
	"context"
	"sync"
)

// KeyedLock is a set of mutexes by key, such as a file. A mutex exists while it is held or
// waited for. The zero value is ready to use.
type KeyedLock struct {
	mu    sync.Mutex // guards byKey and every refs
	byKey map[string]*keyLock
}

// keyLock is the mutex of one key, as a channel so that a waiter can give up.
type keyLock struct {
	held chan struct{} // has an element while the lock is held
	refs int
}

// Lock waits until the caller has the lock of key or ctx ends. unlock must be called.
func (t *KeyedLock) Lock(ctx context.Context, key string) (unlock func(), err error) {
	t.mu.Lock()
	if t.byKey == nil {
		t.byKey = map[string]*keyLock{}
	}
	lock := t.byKey[key]
	if lock == nil {
		lock = &keyLock{held: make(chan struct{}, 1)}
		t.byKey[key] = lock
	}
	lock.refs++
	t.mu.Unlock()
	select {
	case lock.held <- struct{}{}:
		return func() {
			<-lock.held
			t.releaseRef(key, lock)
		}, nil
	case <-ctx.Done():
		t.releaseRef(key, lock)
		return nil, ctx.Err()
	}
}

// releaseRef drops one reference, and the mutex with its last.
func (t *KeyedLock) releaseRef(key string, lock *keyLock) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if lock.refs--; lock.refs == 0 {
		delete(t.byKey, key)
	}
}
