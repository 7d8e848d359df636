package cloud

import (
	"sync"

	"github.com/volehq/vole/driver"
)

// ledger keeps account of changes that a server has acknowledged and not yet made
// durable, so that nobody is told that they are when the server has died with them.
type ledger struct {
	mu     sync.Mutex // guards what follows
	acked  uint64     // changes
	synced uint64     // of these, those that are durable or were reported as lost
	lost   bool       // some may be lost, which nobody was told yet
}

// ack notes an acknowledged change; gone: the server that has it is known to be lost.
func (l *ledger) ack(gone bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked++
	if gone {
		l.lost, l.synced = true, l.acked
	}
}

// lose notes that what is not durable yet may be lost.
func (l *ledger) lose() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.acked > l.synced {
		l.lost, l.synced = true, l.acked
	}
}

// begin is to be called before a sync; saved after it takes what begin returned: what is
// acknowledged meanwhile may not be in it.
func (l *ledger) begin() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked
}

// saved notes that a sync succeeded, and returns an error if something may have been lost
// before it.
func (l *ledger) saved(upTo uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.synced = max(l.synced, upTo)
	lost := l.lost
	l.lost = false
	if lost {
		return errUnsaved
	}
	return nil
}

// pending reports whether something is not durable yet.
func (l *ledger) pending() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked > l.synced
}

var errUnsaved = driver.Errorf(driver.ErrUnavailable, "the server ended before all changes were synced; some of them may be lost")
