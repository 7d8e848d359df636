package sandbox

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	nolinks "github.com/volehq/vole/internal/beneath"
	"github.com/volehq/vole/internal/flock"
	"golang.org/x/sys/unix"
)

// A sandbox's directory holds these; all but the log goes when it ended.
const (
	lockFile    = "lock"    // locked by the supervisor as long as it lives
	controlFile = "control" // its socket
	helperFile  = "helper"  // names the process that its supervisor watches
	scratchDir  = "scratch" // the writable layer, the image
	logFile     = "log"     // what a detached sandbox printed
)

// graceNew is how old a directory without a row must be to be taken for one that a
// dead process left, rather than one that is being made.
const graceNew = time.Minute

// reap cleans up after dead supervisors. A supervisor lives as long as its lock is
// held, so whoever gets that lock knows that it died, and is alone to clean up.
func (m *Manager) reap(ctx context.Context) error {
	live, err := m.rows.list(ctx, false)
	if err != nil {
		return err
	}
	for _, i := range live {
		if err := m.reapOne(ctx, i); err != nil {
			return err
		}
	}
	return errorsFirst(m.sweep(ctx), m.finishRemovals(ctx))
}

func (m *Manager) reapOne(ctx context.Context, i Info) error {
	lock, err := flock.TryExistingIn(m.top, i.ID+"/"+lockFile)
	switch {
	case errors.Is(err, fs.ErrNotExist): // so it has no supervisor
	case err != nil:
		return err
	case lock == nil:
		return nil // alive
	default:
		defer lock.Release()
	}
	if err := m.clean(ctx, i.ID); err != nil {
		return err
	}
	// After that, so that what failed is tried again.
	if err := m.rows.end(ctx, i.ID, StatusCrashed, nil, "its supervisor died", time.Now()); err != nil {
		return err
	}
	return m.dropDir(ctx, i)
}

// dropDir removes the directory of a sandbox that ended, unless there is a log in it.
func (m *Manager) dropDir(ctx context.Context, i Info) error {
	if i.Detached {
		return nil
	}
	return removeTree(ctx, m.top, i.ID)
}

// clean removes what a dead sandbox left, but its log.
func (m *Manager) clean(ctx context.Context, id string) error {
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := m.awaitHelper(wait, id); err != nil {
		return err
	}
	if err := errorsFirst(removeCgroups(wait, id), m.removeRecordedGroup(wait, id)); err != nil {
		return err
	}
	for _, name := range []string{scratchDir, controlFile, helperFile, groupFile} {
		if err := removeTree(ctx, m.top, id+"/"+name); err != nil {
			return err
		}
	}
	return nil
}

// sweep removes directories that belong to no sandbox.
func (m *Manager) sweep(ctx context.Context) error {
	names, err := nolinks.Names(m.top, ".")
	if err != nil {
		return err
	}
	for _, name := range names {
		st, err := nolinks.Lstat(m.top, name)
		age := time.Since(time.Unix(st.Mtim.Unix()))
		switch {
		case err != nil || age < graceNew || st.Mode&unix.S_IFMT != unix.S_IFDIR:
		case isTemp(name):
			// Of a probe, which takes seconds.
			if age > time.Hour {
				_ = removeTree(ctx, m.top, name) // the next one tries again
			}
		case driver.IsID(name): // anything else is no sandbox's
			if err := m.sweepOne(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *Manager) sweepOne(ctx context.Context, id string) error {
	if _, err := m.rows.get(ctx, id); !errors.Is(err, vole.ErrNoSuch) {
		return err
	}
	lock, err := flock.TryExistingIn(m.top, id+"/"+lockFile)
	if err == nil && lock == nil {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if lock != nil {
		defer lock.Release()
	}
	if err := m.clean(ctx, id); err != nil {
		return err
	}
	return removeTree(ctx, m.top, id)
}
