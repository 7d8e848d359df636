package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/local"
	nolinks "github.com/volehq/vole/internal/beneath"
	"github.com/volehq/vole/internal/catalog"
)

// Manager runs and finds the sandboxes of one home. Its methods may be called from
// any number of goroutines and processes.
type Manager struct {
	home         string
	store        *vole.Store
	sandboxesDir *os.File // of the home, open; nil: the home is read-only and has none
	rows         catalogRows
}

// Open opens the sandboxes of a home ("": the default one), which must be that of
// store. It cleans up after those that died. The caller closes the Manager, and store
// after it. Errors are [*vole.Error], as with all of this package.
func Open(ctx context.Context, home string, store *vole.Store) (*Manager, error) {
	m, err := openManager(ctx, home, store)
	return m, wrapError("open sandboxes", "", err)
}

// openManager implements Open. A home that is open for reading only may lack the directory of
// sandboxes, which is then not made.
func openManager(ctx context.Context, home string, store *vole.Store) (*Manager, error) {
	if home == "" {
		var err error
		if home, err = local.DefaultHome(); err != nil {
			return nil, err
		}
	}
	home, err := filepath.Abs(home)
	if err != nil {
		return nil, err
	}
	dir, err := openHomeOf(store, home)
	if err != nil {
		return nil, err
	}
	m := &Manager{home: home, store: store}
	if !store.Caps().ReadOnly {
		if err := nolinks.Mkdir(dir, "sandboxes", 0o700); err != nil {
			return nil, err
		}
	}
	m.sandboxesDir, err = nolinks.OpenDir(dir, "sandboxes")
	if err != nil && !(store.Caps().ReadOnly && errors.Is(err, fs.ErrNotExist)) {
		return nil, err
	}
	if err := m.openCatalogRows(ctx, dir); err != nil {
		m.sandboxesDir.Close() // nil is closed already
		return nil, err
	}
	return m, nil
}

// openCatalogRows opens the catalog of the home, and cleans up.
func (m *Manager) openCatalogRows(ctx context.Context, dir *os.File) (err error) {
	readOnly := m.store.Caps().ReadOnly
	m.rows.db, err = catalog.Open(ctx, filepath.Join(m.home, "catalog.db"), catalog.Options{ReadOnly: readOnly, Dir: dir, Verify: true})
	if err != nil {
		return err
	}
	if readOnly {
		return nil
	}
	if err := m.reapDeadSandboxes(ctx); err != nil {
		m.rows.db.Close()
		return err
	}
	return nil
}

// openHomeOf returns the open directory of the home that store has opened, to which the path
// home must still lead: its contents were checked when it was opened.
func openHomeOf(store *vole.Store, home string) (*os.File, error) {
	b := store.Local()
	if b == nil {
		return nil, driver.Errorf(vole.ErrUnsupported, "sandboxes need volumes on this host, and the %s backend has none", store.Caps().Backend)
	}
	at, err := os.Stat(home)
	if err != nil {
		return nil, err
	}
	if opened, err := b.Directory().Stat(); err != nil || !os.SameFile(at, opened) {
		return nil, cmp.Or(err, driver.Errorf(vole.ErrCorrupt, "the home %s is not the one that was opened: it, or a link to it, has been moved", home))
	}
	return b.Directory(), nil
}

// Close ends the use of m. Sandboxes go on.
func (m *Manager) Close() error {
	err := m.rows.db.Close()
	m.sandboxesDir.Close()
	return wrapError("close sandboxes", "", err)
}

// sandboxDir is the path of a sandbox's directory, for calls that take only a path. Files that
// the home's owner may have put there are opened and removed beneath sandboxesDir, without
// following links.
func (m *Manager) sandboxDir(id string) string { return filepath.Join(m.home, "sandboxes", id) }

// wrapError puts the one *vole.Error around an error that leaves the package.
func wrapError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	if e := (*vole.Error)(nil); errors.As(err, &e) {
		return err
	}
	if name != "" {
		err = fmt.Errorf("sandbox %s: %w", name, err)
	}
	return &vole.Error{Op: op, Err: err}
}

// List returns the live sandboxes, or with all also those that ended, newest first.
func (m *Manager) List(ctx context.Context, all bool) ([]Info, error) {
	list, err := m.rows.listSandboxes(ctx, all)
	return list, wrapError("list sandboxes", "", err)
}

// Get returns one sandbox, by id or by name: a live one before those that ended, of
// which the newest counts. ErrNoSuch.
func (m *Manager) Get(ctx context.Context, ref string) (Info, error) {
	i, err := m.rows.findSandbox(ctx, ref)
	return i, wrapError("get", ref, err)
}

// Reap cleans up after sandboxes whose supervisors died: it marks them crashed,
// removes their scratch directories and control groups. Open does it too.
func (m *Manager) Reap(ctx context.Context) error {
	return wrapError("clean up sandboxes", "", m.reapDeadSandboxes(ctx))
}

// Pause freezes all processes of a running sandbox. ErrUnsupported: there are no
// control groups for it, as without root, unless one is delegated. ErrInvalid: it is not running.
func (m *Manager) Pause(ctx context.Context, ref string) error {
	return wrapError("pause", ref, m.requestControl(ctx, ref, controlRequest{Op: "pause"}))
}

// Resume lets a paused sandbox go on. ErrInvalid: it is not paused.
func (m *Manager) Resume(ctx context.Context, ref string) error {
	return wrapError("resume", ref, m.requestControl(ctx, ref, controlRequest{Op: "resume"}))
}

// Stop asks a sandbox to end, by SIGTERM, and kills it when it has not done so after
// the time given. It returns once the sandbox is stopped and its volumes are detached.
func (m *Manager) Stop(ctx context.Context, ref string, timeout time.Duration) error {
	return wrapError("stop", ref, m.stopAndWait(ctx, ref, timeout))
}

// stopAndWait asks the supervisor to stop the sandbox and waits for its end, somewhat longer than
// the supervisor waits for the command.
func (m *Manager) stopAndWait(ctx context.Context, ref string, timeout time.Duration) error {
	if timeout < 0 {
		return driver.Errorf(vole.ErrInvalid, "time-out %v: must not be negative", timeout)
	}
	i, err := m.rows.findSandbox(ctx, ref)
	if err != nil {
		return err
	}
	if err := m.requestControl(ctx, i.ID, controlRequest{Op: "stop", Timeout: timeout}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout+2*patience, errors.New("the sandbox did not end"))
	defer cancel()
	return m.awaitEnd(ctx, i.ID)
}

// awaitEnd waits until a sandbox has ended.
func (m *Manager) awaitEnd(ctx context.Context, id string) error {
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		i, err := m.rows.findSandbox(ctx, id)
		if errors.Is(err, vole.ErrNoSuch) {
			return nil // and forgotten
		}
		if err != nil || !i.Status.Live() {
			return err
		}
		if pause > 50*time.Millisecond {
			if err := m.reapDeadSandboxes(ctx); err != nil { // its supervisor may have died
				return err
			}
		}
		select {
		case <-ctx.Done():
			return driver.Errorf(ctx.Err(), "sandbox %s is still %s: %v", i.Name, i.Status, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// Remove forgets a sandbox that ended, and its log. ErrInUse: it is live.
func (m *Manager) Remove(ctx context.Context, ref string) error {
	return wrapError("remove", ref, m.removeEnded(ctx, ref))
}

func (m *Manager) removeEnded(ctx context.Context, ref string) error {
	i, err := m.rows.findSandbox(ctx, ref)
	if err != nil {
		return err
	}
	if i.Status.Live() {
		return driver.Errorf(vole.ErrInUse, "sandbox %s is %s; stop it first", i.Name, i.Status)
	}
	if err := m.rows.deleteEnded(ctx, i.ID); err != nil {
		return err
	}
	return removeSandboxTree(ctx, m.sandboxesDir, i.ID)
}

// removeOldest forgets the oldest of the sandboxes that ended.
func (m *Manager) removeOldest(ctx context.Context) error {
	ids, err := m.rows.listSurplusIDs(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := m.rows.deleteEnded(ctx, id); err != nil {
			return err
		}
		if err := removeSandboxTree(ctx, m.sandboxesDir, id); err != nil {
			return err
		}
	}
	return nil
}

// isTemporaryName reports whether a name in the directory of sandboxes is not a sandbox's.
func isTemporaryName(name string) bool { return strings.HasPrefix(name, ".") }
