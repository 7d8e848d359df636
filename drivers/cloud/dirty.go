package cloud

import (
	"errors"
	"sync"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
)

// dirtyChanges counts changes that a server has acknowledged but not yet made durable. When the
// server is lost, they may be lost with it; the next Sync or Close reports that once, like the
// writeback error of a kernel.
type dirtyChanges struct {
	mu             sync.Mutex // guards what follows
	acked          uint64     // changes
	synced         uint64     // of these, those that are durable or count as lost
	unreportedLoss bool       // some may be lost, and no Sync or Close has said so yet
}

// recordChange counts an acknowledged change. lost: the server that has it is already lost.
func (l *dirtyChanges) recordChange(lost bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked++
	if lost {
		l.unreportedLoss, l.synced = true, l.acked
	}
}

// markLost counts every change that is not durable as lost.
func (l *dirtyChanges) markLost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.acked > l.synced {
		l.unreportedLoss, l.synced = true, l.acked
	}
}

// beginSync returns how many changes a sync that begins now makes durable, for endSync: those
// that are acknowledged while it runs may not be part of it.
func (l *dirtyChanges) beginSync() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked
}

// endSync records that a sync of the first upTo changes succeeded. It returns an error, once, if
// some earlier change may be lost.
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

// endClosing takes the result of closing what made the changes, and returns the error to report.
// What the server does not know any more was closed with it, and its changes may be lost.
func (l *dirtyChanges) endClosing(err error) error {
	switch {
	case errors.Is(err, api.ErrStale):
		l.markLost()
	case err != nil:
		return err
	}
	return l.endSync(0)
}

// isDirty reports whether an acknowledged change is not durable yet.
func (l *dirtyChanges) isDirty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked > l.synced
}

// errChangesLost is the writeback error of a server that was lost with changes.
var errChangesLost = driver.Errorf(driver.ErrUnavailable, "the server ended before all changes were synced; some of them may be lost, so write them again")
