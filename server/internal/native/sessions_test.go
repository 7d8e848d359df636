package native

import (
	"sync"
	"sync/atomic"
	"testing"
)

// Sessions that are begun at once are bounded as those that are begun one by one.
func TestSessionsOfOneKey(t *testing.T) {
	a := &API{sessionsByKey: map[string]int{}}
	var begun atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range maxKeySessions {
				if a.countSession("org key", 1) {
					begun.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if begun.Load() != maxKeySessions || !a.countSession("other key", 1) {
		t.Errorf("%d sessions were begun", begun.Load())
	}
	for range maxKeySessions {
		a.countSession("org key", -1)
	}
	if !a.countSession("org key", 1) || len(a.sessionsByKey) != 2 {
		t.Errorf("counted: %v", a.sessionsByKey)
	}
}
