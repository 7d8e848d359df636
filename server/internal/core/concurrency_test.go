package core

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestGates shows that requests beyond a bound wait for their turn, some seconds and not
// without end, and that an organisation leaves others room whatever its keys.
func TestGates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newConcurrencyLimiter(5*time.Second, 8)
		enter := func(org, key string, wait bool) (func(), error) {
			return g.acquireSlot(t.Context(), org, wait, concurrencyBound{"", 6, errServerBusy}, concurrencyBound{"org " + org, 4, errKeyBusy}, concurrencyBound{"key " + org + key, 2, errKeyBusy})
		}
		var leave []func()
		for _, key := range []string{"a", "a", "b", "b"} {
			l, err := enter("one", key, true)
			if err != nil {
				t.Fatal(err)
			}
			leave = append(leave, l)
		}
		if _, err := enter("one", "c", false); !errors.Is(err, errKeyBusy) {
			t.Errorf("the organisation's fifth: %v", err)
		}
		for range 2 {
			if _, err := enter("two", "a", false); err != nil {
				t.Errorf("another organisation's: %v", err)
			}
		}
		if _, err := enter("three", "a", false); !errors.Is(err, errServerBusy) {
			t.Errorf("the seventh of all: %v", err)
		}
		start := time.Now()
		if _, err := enter("one", "a", true); !errors.Is(err, errKeyBusy) && !errors.Is(err, errServerBusy) || time.Since(start) != 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.acquireSlot(ctx, "one", true, concurrencyBound{"key onea", 2, errKeyBusy}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a client that went away: %v", err)
		}
		let := make(chan error, 4)
		for range 4 {
			go func() {
				_, err := enter("one", "b", true)
				let <- err
			}()
		}
		synctest.Wait()
		if _, err := enter("one", "c", true); err == nil || len(g.queue) != 4 {
			t.Errorf("more wait than may: %v, %d", err, len(g.queue))
		}
		leave[0]() // it is not what the waiters lack
		synctest.Wait()
		if len(let) != 0 {
			t.Error("a key has more than it may")
		}
		leave[2]()
		leave[3]()
		for range 2 {
			if err := <-let; err != nil {
				t.Error(err)
			}
		}
		time.Sleep(6 * time.Second)
		for range 2 {
			if err := <-let; err == nil {
				t.Error("a key has more than it may")
			}
		}
		if len(g.queue) != 0 || len(g.queuedByOrg) != 0 {
			t.Errorf("%d wait, %v", len(g.queue), g.queuedByOrg)
		}
	})
}
