package accounts

import (
	"fmt"
	"testing"
	"time"
)

// TestLastUsed: a use is written down, but not more than once a minute.
func TestLastUsed(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, database string) {
		c := newClock()
		s := openStore(t, database, Options{Clock: c.read})
		k, secret := makeKey(t, s, NewKey{})
		first := c.read()
		use := func() {
			t.Helper()
			if _, err := s.Authenticate(t.Context(), secret); err != nil {
				t.Fatal(err)
			}
		}
		use()
		awaitLastUsed(t, s, k.ID, first)
		for range 5 { // with the cache and without
			c.add(7 * time.Second)
			use()
			use()
		}
		other := openStore(t, database, Options{Clock: c.read})
		if _, err := other.Authenticate(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
		if err := other.Close(); err != nil { // writes what is left
			t.Fatal(err)
		}
		awaitLastUsed(t, s, k.ID, first)
		c.add(25 * time.Second)
		use()
		awaitLastUsed(t, s, k.ID, first.Add(time.Minute))
		c.add(time.Hour)
		use()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		awaitLastUsed(t, openStore(t, database, Options{}), k.ID, c.read())
	})
}

// awaitLastUsed waits until the database has a key as last used at a time.
func awaitLastUsed(t *testing.T, s *Store, id string, want time.Time) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		keys, err := s.Keys(t.Context(), "acme")
		if err != nil || len(keys) != 1 || keys[0].ID != id {
			t.Fatalf("%+v, %v", keys, err)
		}
		if keys[0].LastUsed.Equal(want) {
			return
		}
		if keys[0].LastUsed.After(want) || time.Now().After(deadline) {
			t.Fatalf("last used %v, want %v", keys[0].LastUsed, want)
		}
	}
}

// TestCacheBounds fills the cache past its size.
func TestCacheBounds(t *testing.T) {
	var c keyCache
	c.lifetime = time.Second
	now := newClock().read()
	put := func(i int, expires time.Time) string {
		id := fmt.Sprint(i)
		_, epoch := c.lookupKey(id, now)
		c.storeKey(id, &cachedKey{key: Key{ID: "k" + id, Expires: expires}}, now, epoch)
		return id
	}
	for i := range maxCachedKeys + 500 {
		id := put(i, time.Time{})
		if e, _ := c.lookupKey(id, now); e == nil {
			t.Fatalf("entry %d is not there", i)
		}
	}
	if len(c.entries) != maxCachedKeys {
		t.Errorf("%d entries, want %d", len(c.entries), maxCachedKeys)
	}
	short := put(-1, now.Add(time.Millisecond))
	for after, want := range map[time.Duration]bool{0: true, time.Millisecond - 1: true, time.Millisecond: false} {
		c.storeKey(short, &cachedKey{key: Key{Expires: now.Add(time.Millisecond)}}, now, c.epoch)
		if e, _ := c.lookupKey(short, now.Add(after)); (e != nil) != want {
			t.Errorf("a key that expires in 1ms is there after %v: %v", after, e != nil)
		}
	}
	last := put(-2, time.Time{})
	if e, _ := c.lookupKey(last, now.Add(time.Second)); e != nil {
		t.Error("an entry outlives its time")
	}
	_, epoch := c.lookupKey("x", now)
	c.forgetKey("k" + last)
	if c.storeKey("x", &cachedKey{}, now, epoch); c.entries["x"] != nil {
		t.Error("what was read before something was forgotten is remembered")
	}
	off := keyCache{lifetime: -1}
	if off.storeKey("x", &cachedKey{}, now, 0); len(off.entries) != 0 {
		t.Error("a cache that is off remembers")
	}
}
