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

// process is this open backend in the catalog: an id, and a lock on the file of that name, which
// proves that the process lives.
type process struct {
	id   string
	lock *flock.Lock
}

// processFileName is the name of a process's file beneath locks/.
func processFileName(id string) string { return processDir + "/" + id }

// processDir is the directory of process files within locks/. They have a directory of their own
// so that looking for dead processes does not take longer when there are many volumes.
const processDir = "processes"

// processID returns the id of this backend, which locks its file the first time.
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
	// A process that looks for dead ones may hold the lock for a moment.
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	lock, err := flock.WaitIn(ctx, b.locks, processFileName(id.String()))
	if err != nil {
		return "", err
	}
	b.proc.Store(&process{id.String(), lock})
	return id.String(), nil
}

// endProcess gives up the lock: from now on this process counts as dead.
func (b *Backend) endProcess() error {
	p := b.proc.Load()
	if p == nil {
		return nil
	}
	return errors.Join(b.removeLockFile(processFileName(p.id)), p.lock.Release())
}

// isOwnProcess reports whether id is that of this backend.
func (b *Backend) isOwnProcess(id string) bool {
	p := b.proc.Load()
	return p != nil && p.id == id
}

// liveness remembers, for the length of one operation, which processes are alive.
type liveness struct {
	b    *Backend
	seen map[string]bool
}

// newLiveness returns a liveness that knows no process yet.
func (b *Backend) newLiveness() *liveness { return &liveness{b, map[string]bool{}} }

// isAlive reports whether the process still runs. An error means that it does: work of a process
// that is not known to be dead must not be undone.
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
	lock, err := l.b.tryLockProcess(id)
	lock.Release()
	live := lock == nil && !errors.Is(err, fs.ErrNotExist)
	l.seen[id] = live
	return live
}

// tryLockProcess takes the lock of another process, which is free if that is dead.
// fs.ErrNotExist: the process has ended.
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
