package sandbox

import (
	"cmp"
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
	logFile     = "log"     // output of a detached sandbox
)

// graceNew is how old a directory without a row must be to be taken for one that a
// dead process left, rather than one that is being made.
const graceNew = time.Minute

// reapDeadSandboxes cleans up after dead supervisors. A supervisor holds its lock as long as it
// lives, so a process that gets the lock knows that the supervisor died, and is the only one
// to clean up.
func (m *Manager) reapDeadSandboxes(ctx context.Context) error {
	live, err := m.rows.listSandboxes(ctx, false)
	if err != nil {
		return err
	}
	for _, i := range live {
		if err := m.reapSandbox(ctx, i); err != nil {
			return err
		}
	}
	return cmp.Or(m.sweepOrphanDirs(ctx), m.finishRemovals(ctx))
}

// reapSandbox cleans up after one live row whose lock is free or gone. Its row changes last, so that
// a cleanup that fails is tried again.
func (m *Manager) reapSandbox(ctx context.Context, i Info) error {
	lock, err := flock.TryExistingIn(m.sandboxesDir, i.ID+"/"+lockFile)
	switch {
	case errors.Is(err, fs.ErrNotExist): // so it has no supervisor
	case err != nil:
		return err
	case lock == nil:
		return nil // alive
	}
	defer lock.Release()
	if err := m.removeLeftovers(ctx, i.ID); err != nil {
		return err
	}
	// After that, so that what failed is tried again.
	if err := m.rows.setEnded(ctx, i.ID, StatusCrashed, nil, "its supervisor died", time.Now()); err != nil {
		return err
	}
	return m.removeEndedDir(ctx, i)
}

// removeEndedDir removes the directory of a sandbox that ended, unless there is a log in it.
func (m *Manager) removeEndedDir(ctx context.Context, i Info) error {
	if i.Detached {
		return nil
	}
	return removeSandboxTree(ctx, m.sandboxesDir, i.ID)
}

// removeLeftovers removes everything that a dead sandbox left except its log: its control
// groups, its socket, its scratch directory.
func (m *Manager) removeLeftovers(ctx context.Context, id string) error {
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := m.awaitHelper(wait, id); err != nil {
		return err
	}
	if err := cmp.Or(removeSandboxCgroups(wait, id), m.removeRecordedCgroup(wait, id)); err != nil {
		return err
	}
	for _, name := range []string{scratchDir, controlFile, helperFile, groupFile} {
		if err := removeSandboxTree(ctx, m.sandboxesDir, id+"/"+name); err != nil {
			return err
		}
	}
	return nil
}

// sweepOrphanDirs removes directories that belong to no sandbox.
func (m *Manager) sweepOrphanDirs(ctx context.Context) error {
	names, err := nolinks.Names(m.sandboxesDir, ".")
	if err != nil {
		return err
	}
	for _, name := range names {
		st, err := nolinks.Lstat(m.sandboxesDir, name)
		age := time.Since(time.Unix(st.Mtim.Unix()))
		switch {
		case err != nil || age < graceNew || st.Mode&unix.S_IFMT != unix.S_IFDIR:
		case isTemporaryName(name):
			// Of a probe, which takes seconds.
			if age > time.Hour {
				_ = removeSandboxTree(ctx, m.sandboxesDir, name) // the next one tries again
			}
		case driver.IsID(name): // anything else is no sandbox's
			if err := m.sweepOrphanDir(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweepOrphanDir removes a directory that has no row, unless it is locked: a sandbox is locked
// before its row is inserted.
func (m *Manager) sweepOrphanDir(ctx context.Context, id string) error {
	if _, err := m.rows.findSandbox(ctx, id); !errors.Is(err, vole.ErrNoSuch) {
		return err
	}
	lock, err := flock.TryExistingIn(m.sandboxesDir, id+"/"+lockFile)
	if err == nil && lock == nil {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	defer lock.Release()
	if err := m.removeLeftovers(ctx, id); err != nil {
		return err
	}
	return removeSandboxTree(ctx, m.sandboxesDir, id)
}
