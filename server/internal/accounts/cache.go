package accounts

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/volehq/vole/internal/catalog"
)

// maxCachedKeys bounds how many keys are remembered.
const maxCachedKeys = 10_000

// keyCache remembers keys that were accepted, by the hash of the secret (32 bytes) and by
// the id of the key (36): the lengths keep one from being the other. It has no lock
// on the path of writers to the database, so it must not bring back what they removed:
// epoch tells.
type keyCache struct {
	lifetime time.Duration

	mu      sync.Mutex // guards all below
	entries map[string]*cachedKey
	epoch   uint64 // how often something was forgotten
}

type cachedKey struct {
	key      Key
	until    time.Time
	lastUsed atomic.Int64 // when the key was last used as far as the database was told
}

// lookupKey returns what is remembered, or nil, and the epoch to hand to put.
func (c *keyCache) lookupKey(id string, now time.Time) (*cachedKey, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[id]
	if e != nil && !now.Before(e.until) {
		delete(c.entries, id)
		e = nil
	}
	return e, c.epoch
}

// storeKey remembers a key that was read after get returned epoch.
func (c *keyCache) storeKey(id string, e *cachedKey, now time.Time, epoch uint64) {
	e.until = now.Add(c.lifetime)
	if x := e.key.Expires; !x.IsZero() && x.Before(e.until) {
		e.until = x
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch != epoch || c.lifetime <= 0 {
		return
	}
	if c.entries == nil {
		c.entries = map[string]*cachedKey{}
	}
	if _, there := c.entries[id]; !there && len(c.entries) >= maxCachedKeys {
		for other := range c.entries { // any: the order of maps is random
			delete(c.entries, other)
			break
		}
	}
	c.entries[id] = e
}

// forgetKey removes a key, and keeps out what was read before.
func (c *keyCache) forgetKey(keyID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	for id, e := range c.entries {
		if e.key.ID == keyID {
			delete(c.entries, id)
		}
	}
}

// forgetAllKeys forgets all keys.
func (c *keyCache) forgetAllKeys() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	clear(c.entries)
}

// keyUseInterval is how often the use of a key is written down at most.
const keyUseInterval = time.Minute

// keyUseTimeout bounds how long writing one down may take.
const keyUseTimeout = 5 * time.Second

// keyUse is that a key was used.
type keyUse struct {
	keyID string
	at    int64
}

// noteKeyUse notes that a key is used now. It never waits: when too many are to be written
// one is left out, and the next use of that key tells.
func (s *Store) noteKeyUse(e *cachedKey, now time.Time) {
	at, last := catalog.Nanos(now), e.lastUsed.Load()
	if at-last < int64(keyUseInterval) || !e.lastUsed.CompareAndSwap(last, at) {
		return
	}
	select {
	case s.uses <- keyUse{e.key.ID, at}:
	default:
		e.lastUsed.Store(last)
	}
}

// writeUsesLoop writes what touch notes until the Store is closed, and then what is left.
func (s *Store) writeUsesLoop() {
	for {
		select {
		case u := <-s.uses:
			s.writeKeyUse(context.Background(), u)
		case <-s.stopped:
			// One time for all: Close is not to wait for a server that hangs.
			ctx, cancel := context.WithTimeout(context.Background(), keyUseTimeout)
			defer cancel()
			for {
				select {
				case u := <-s.uses:
					s.writeKeyUse(ctx, u)
				default:
					return
				}
			}
		}
	}
}

// writeKeyUse tells the database of one use. That it fails does no harm.
func (s *Store) writeKeyUse(ctx context.Context, u keyUse) {
	ctx, cancel := context.WithTimeout(ctx, keyUseTimeout)
	defer cancel()
	// Other servers, and other entries of the cache, may have told of it.
	_, _ = s.execOnce(ctx, `UPDATE server_keys SET last_used = $1 WHERE id = $2 AND last_used <= $3`,
		u.at, u.keyID, u.at-int64(keyUseInterval))
}
