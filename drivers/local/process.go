//go:build unix

package local

import (
	"context"
	"errors"
	"io/fs"

	"github.com/google/uuid"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/beneath"
	"github.com/volehq/vole/internal/flock"
)

// process is this open backend as the catalog knows it: an id, and a lock on a file
// of that name which proves that it lives.
type process struct {
	id   string
	lock *flock.Lock
}

// processFileName is the name of a process's file beneath locks/.
func processFileName(id string) string { return processDir + "/" + id }

// processDir is the directory of process files within locks/. It is their own, so that
// looking for the dead takes no longer when there are many volumes.
const processDir = "processes"

// processID returns the id of this backend, locking its file the first time.
func (b *Backend) processID() (string, error) {
	if p := b.proc.Load(); p != nil {
		return p.id, nil
	}
	b.procMu.Lock()
	defer b.procMu.Unlock()
	if p := b.proc.Load(); p != nil {
		return p.id, nil
	}
	id, err := uuid.NewV7()
	if err != nil {
		return "", err
	}
	// Whoever looks for the dead may hold the lock for a moment, before it is ours.
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	lock, err := flock.WaitIn(ctx, b.locks, processFileName(id.String()))
	if err != nil {
		return "", err
	}
	b.proc.Store(&process{id.String(), lock})
	return id.String(), nil
}

// endProcess gives the lock up: from now on this process counts as dead.
func (b *Backend) endProcess() error {
	p := b.proc.Load()
	if p == nil {
		return nil
	}
	return errors.Join(b.removeLockFile(processFileName(p.id)), p.lock.Release())
}

// isOwnProcess reports whether id is this backend.
func (b *Backend) isOwnProcess(id string) bool {
	p := b.proc.Load()
	return p != nil && p.id == id
}

// liveness remembers which processes were found alive or dead in one operation.
type liveness struct {
	b    *Backend
	seen map[string]bool
}

func (b *Backend) newLiveness() *liveness { return &liveness{b, map[string]bool{}} }

// isAlive reports whether the process still runs. An error means alive: what is not
// known to be dead must not be undone.
func (l *liveness) isAlive(id string) bool {
	if l.b.isOwnProcess(id) {
		return true
	}
	if !driver.IsID(id) {
		return false // no process was ever called that
	}
	if live, ok := l.seen[id]; ok {
		return live
	}
	live := true
	lock, err := l.b.tryLockProcess(id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		live = false
	case lock != nil:
		live = false
		lock.Release()
	}
	l.seen[id] = live
	return live
}

// tryLockProcess takes the lock of another process, if that is dead.
func (b *Backend) tryLockProcess(id string) (*flock.Lock, error) {
	if b.locks == nil {
		return nil, fs.ErrNotExist
	}
	return flock.TryExistingIn(b.locks, processFileName(id))
}

// removeDeadProcesses removes the files of dead processes. One that stays does no harm.
func (b *Backend) removeDeadProcesses(live *liveness) {
	names, err := beneath.Names(b.locks, processDir)
	if err != nil {
		return
	}
	for _, id := range names {
		if !driver.IsID(id) || live.isAlive(id) {
			continue
		}
		// Under its lock, so that it cannot become that of a process which has just
		// made the file and is about to lock it.
		if lock, err := b.tryLockProcess(id); err == nil && lock != nil {
			_ = b.removeLockFile(processFileName(id))
			lock.Release()
		}
	}
}

// withoutCancel is a context for the second half of an operation, which is not to be left
// halfway when the caller loses patience.
func withoutCancel(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }
