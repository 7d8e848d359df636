package accounts

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/volehq/vole/internal/catalog"
)

// cacheSize bounds how many keys are remembered.
const cacheSize = 10_000

// cache remembers keys that were accepted, by the hash of the secret (32 bytes) and by
// the id of the key (36): the lengths keep one from being the other. It has no lock
// on the path of writers to the database, so it must not bring back what they removed:
// epoch tells.
type cache struct {
	lifetime time.Duration

	mu      sync.Mutex // guards all below
	entries map[string]*entry
	epoch   uint64 // how often something was forgotten
}

type entry struct {
	key   Key
	until time.Time
	used  atomic.Int64 // when the key was last used as far as the database was told
}

// get returns what is remembered, or nil, and the epoch to hand to put.
func (c *cache) get(id string, now time.Time) (*entry, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[id]
	if e != nil && !now.Before(e.until) {
		delete(c.entries, id)
		e = nil
	}
	return e, c.epoch
}

// put remembers a key that was read after get returned epoch.
func (c *cache) put(id string, e *entry, now time.Time, epoch uint64) {
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
		c.entries = map[string]*entry{}
	}
	if _, there := c.entries[id]; !there && len(c.entries) >= cacheSize {
		for other := range c.entries { // any: the order of maps is random
			delete(c.entries, other)
			break
		}
	}
	c.entries[id] = e
}

// forget removes a key, and keeps out what was read before.
func (c *cache) forget(keyID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	for id, e := range c.entries {
		if e.key.ID == keyID {
			delete(c.entries, id)
		}
	}
}

// forgetAll forgets all keys.
func (c *cache) forgetAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	clear(c.entries)
}

// useEvery is how often the use of a key is written down at most.
const useEvery = time.Minute

// useTime bounds how long writing one down may take.
const useTime = 5 * time.Second

// use is that a key was used.
type use struct {
	keyID string
	at    int64
}

// touch notes that a key is used now. It never waits: when too many are to be written
// one is left out, and the next use of that key tells.
func (s *Store) touch(e *entry, now time.Time) {
	at, last := catalog.Nanos(now), e.used.Load()
	if at-last < int64(useEvery) || !e.used.CompareAndSwap(last, at) {
		return
	}
	select {
	case s.uses <- use{e.key.ID, at}:
	default:
		e.used.Store(last)
	}
}

// writeUses writes what touch notes until the Store is closed, and then what is left.
func (s *Store) writeUses() {
	for {
		select {
		case u := <-s.uses:
			s.writeUse(context.Background(), u)
		case <-s.stop:
			// One time for all: Close is not to wait for a server that hangs.
			ctx, cancel := context.WithTimeout(context.Background(), useTime)
			defer cancel()
			for {
				select {
				case u := <-s.uses:
					s.writeUse(ctx, u)
				default:
					return
				}
			}
		}
	}
}

// writeUse tells the database of one use. That it fails does no harm.
func (s *Store) writeUse(ctx context.Context, u use) {
	ctx, cancel := context.WithTimeout(ctx, useTime)
	defer cancel()
	// Other servers, and other entries of the cache, may have told of it.
	_, _ = s.execOnce(ctx, `UPDATE server_keys SET last_used = $1 WHERE id = $2 AND last_used <= $3`,
		u.at, u.keyID, u.at-int64(useEvery))
}
