package accounts

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/volehq/vole/internal/catalog"
)

// maxCachedKeys bounds the cache; at the bound a random key makes room.
const maxCachedKeys = 10_000

// keyCache remembers accepted keys, by the hash of the secret (32 bytes) and by the id of the
// key (36 bytes); the lengths keep the two apart. It is not locked while the database is asked,
// so a key that was read before a revocation must not be stored after it: every forget raises
// epoch, and storeKey drops what was read in an earlier epoch.
type keyCache struct {
	lifetime time.Duration

	mu      sync.Mutex // guards all below
	entries map[string]*cachedKey
	epoch   uint64 // how often something was forgotten
}

// cachedKey is a key that may be used without asking the database until a time.
type cachedKey struct {
	key      Key
	until    time.Time
	lastUsed atomic.Int64 // last use that was written to the database
}

// lookupKey returns the cached key, or nil, and the epoch to pass to storeKey.
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

// storeKey remembers a key that was read after lookupKey returned epoch.
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

// forgetKey drops a key, and rejects readings of the current epoch.
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

// forgetAllKeys drops all keys, and rejects readings of the current epoch.
func (c *keyCache) forgetAllKeys() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	clear(c.entries)
}

// keyUseInterval is the resolution of Key.LastUsed: uses are written at most this often.
const keyUseInterval = time.Minute

// keyUseTimeout bounds the writing of one use.
const keyUseTimeout = 5 * time.Second

// keyUse is one use of a key, on its way to the database.
type keyUse struct {
	keyID string
	at    int64
}

// noteKeyUse notes that a key is used now. It never blocks: if the queue is full it drops the
// use, and the next use of the key is noted instead.
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

// writeUsesLoop writes uses until the Store is closed, and then those still queued.
func (s *Store) writeUsesLoop() {
	for {
		select {
		case u := <-s.uses:
			s.writeKeyUse(context.Background(), u)
		case <-s.stopped:
			// One timeout for all: Close must not wait for a database that hangs.
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

// writeKeyUse writes one use. A failure is harmless: LastUsed is informational.
func (s *Store) writeKeyUse(ctx context.Context, u keyUse) {
	ctx, cancel := context.WithTimeout(ctx, keyUseTimeout)
	defer cancel()
	// Other servers and other cache entries may have written a use already.
	_, _ = s.exec(ctx, `UPDATE server_keys SET last_used = $1 WHERE id = $2 AND last_used <= $3`,
		u.at, u.keyID, u.at-int64(keyUseInterval))
}
