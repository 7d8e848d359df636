package cloud

import (
	"sync"

	"github.com/volehq/vole/driver"
)

// dirtyChanges keeps account of changes that a server has acknowledged and not yet made
// durable, so that nobody is told that they are when the server has died with them.
type dirtyChanges struct {
	mu             sync.Mutex // guards what follows
	acked          uint64     // changes
	synced         uint64     // of these, those that are durable or were reported as lost
	unreportedLoss bool       // some may be lost, which nobody was told yet
}

// recordChange notes an acknowledged change; gone: the server that has it is known to be lost.
func (l *dirtyChanges) recordChange(gone bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked++
	if gone {
		l.unreportedLoss, l.synced = true, l.acked
	}
}

// markLost notes that what is not durable yet may be lost.
func (l *dirtyChanges) markLost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.acked > l.synced {
		l.unreportedLoss, l.synced = true, l.acked
	}
}

// beginSync is to be called before a sync; saved after it takes what begin returned: what is
// acknowledged meanwhile may not be in it.
func (l *dirtyChanges) beginSync() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked
}

// endSync notes that a sync succeeded, and returns an error if something may have been lost
// before it.
func (l *dirtyChanges) endSync(upTo uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.synced = max(l.synced, upTo)
	lost := l.unreportedLoss
	l.unreportedLoss = false
	if lost {
		return errChangesLost
	}
	return nil
}

// isDirty reports whether something is not durable yet.
func (l *dirtyChanges) isDirty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked > l.synced
}

var errChangesLost = driver.Errorf(driver.ErrUnavailable, "the server ended before all changes were synced; some of them may be lost")
