//go:build unix

package local

// Recovery never guesses whether a process lives: it takes the lock on the process's file, which
// the kernel drops when the process dies. Each step of it can be repeated, by several processes
// at once: a volume whose recovery dies is found again by the next.

import (
	"context"
	"errors"
	"io/fs"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/catalog"
)

// recoverHome finishes or undoes the work of dead processes, and returns how many volumes and
// rows it settled. It reads only rows of unfinished work, so its cost does not grow with the
// number of volumes, and it leaves the work of live processes alone. Work that cannot be settled
// (a file that cannot be deleted, for example) stays for the next recovery, and for Check to
// report: it must not keep anyone from all other volumes.
func (b *Backend) recoverHome(ctx context.Context) (int, error) {
	live := b.newLiveness()
	volumes, err := b.recoverVolumes(ctx, live)
	if err != nil {
		return 0, err
	}
	rows, err := b.recoverMarks(ctx, live)
	if err != nil {
		return volumes, err
	}
	b.removeDeadProcesses(live)
	return volumes + rows, ctx.Err()
}

// unsettledVolume is a volume in creation, a draft, or a volume in removal.
type unsettledVolume struct {
	id, kind, state, owner string
}

// activity says what the owner was doing with the volume: creating or removing it.
func (u unsettledVolume) activity() string {
	if u.state == stateDraft {
		return string(driver.StateCreating)
	}
	return u.state
}

// validate returns an error for a row with an invalid id or owner.
func (u unsettledVolume) validate() error { return validateIDs(u.id, u.owner) }

// listUnsettled lists the volumes in any state but ready.
func (b *Backend) listUnsettled(ctx context.Context) ([]unsettledVolume, error) {
	return catalog.Select(ctx, b.db, func(scan catalog.Scanner) (u unsettledVolume, err error) {
		return u, scan(&u.id, &u.kind, &u.state, &u.owner)
	}, `SELECT id, kind, state, owner FROM volumes WHERE state <> 'ready'`)
}

// recoverVolumes settles the unsettled volumes of dead processes, and returns how many.
func (b *Backend) recoverVolumes(ctx context.Context, live *liveness) (int, error) {
	list, err := b.listUnsettled(ctx)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, u := range list {
		if u.validate() != nil || live.isAlive(u.owner) {
			continue
		}
		if b.recoverVolume(ctx, u) == nil {
			n++
		}
	}
	return n, nil
}

// recoverVolume settles one volume. It finishes a removal, undoes a draft, and finishes a
// creation if the directory (and the image of a disk) exists; otherwise it undoes it. Several
// processes may do this at once.
func (b *Backend) recoverVolume(ctx context.Context, u unsettledVolume) error {
	if u.state == "removing" {
		return b.finishRemoval(ctx, u.id)
	}
	if u.state == stateDraft {
		return b.undoCreate(ctx, u.id)
	}
	_, err := resolved{parent: b.volumes, name: u.id}.lstat()
	if errors.Is(err, fs.ErrNotExist) {
		return b.undoCreate(ctx, u.id)
	}
	if err == nil && u.kind == string(driver.KindDisk) {
		whole, derr := b.disks.Volume(u.id).Exists()
		if derr == nil && !whole {
			return b.undoCreate(ctx, u.id)
		}
		err = derr
	}
	if err == nil {
		err = b.syncVolumesDir()
	}
	if err != nil {
		return translateError(err)
	}
	return b.db.Exec(ctx, catalog.Durable, `UPDATE volumes SET state = 'ready', owner = '' WHERE id = ? AND state = 'creating'`, u.id)
}

// VolumesInRemoval returns the ids of the volumes whose removal is committed and not finished.
// There is no way back from that, so package sandbox may delete what they hold.
func (b *Backend) VolumesInRemoval(ctx context.Context) ([]string, error) {
	if err := b.checkOpen(); err != nil {
		return nil, err
	}
	return catalog.Select(ctx, b.db, scanID, selectRemoving)
}

// selectRemoving finds the volumes in removal. The last term says nothing new, but shows SQLite
// that the index on unsettled volumes has them.
const selectRemoving = `SELECT id FROM volumes WHERE state = 'removing' AND state <> 'ready'`

// processMark identifies the rows of a process and a volume in counting and attachments.
type processMark struct{ volume, process string }

// recoverMarks deletes the marks and attachments of dead processes, with their temporary files.
// The usage of the volumes that they may have changed is stale then.
func (b *Backend) recoverMarks(ctx context.Context, live *liveness) (int, error) {
	marks, err := catalog.Select(ctx, b.db, func(scan catalog.Scanner) (m processMark, err error) {
		return m, scan(&m.volume, &m.process)
	}, `SELECT volume, process FROM counting UNION SELECT volume, process FROM attachments`)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, m := range marks {
		if validateIDs(m.volume, m.process) != nil || live.isAlive(m.process) {
			continue
		}
		err := b.removeTempsOf(m.volume, m.process)
		if err == nil {
			err = b.db.Write(ctx, catalog.Durable, func(tx *catalog.Tx) error { return b.deleteMarks(tx, m) })
		}
		if err == nil {
			n++
		}
	}
	return n, nil
}

// deleteMarks deletes the rows of a dead process and a volume. When its last use ended is
// unknown: the volume counts as used until now.
func (b *Backend) deleteMarks(tx *catalog.Tx, m processMark) error {
	n, err := tx.Exec(`DELETE FROM counting WHERE volume = ? AND process = ?`, m.volume, m.process)
	if err != nil {
		return err
	}
	if n > 0 {
		_, err = tx.Exec(`UPDATE volumes SET stale = 1, counted = counted - 1 WHERE id = ?`, m.volume)
		if err != nil {
			return err
		}
	}
	// A writable HostPath attachment made the figure stale when it began.
	_, err = tx.Exec(`DELETE FROM attachments WHERE volume = ? AND process = ?`, m.volume, m.process)
	if err != nil {
		return err
	}
	return b.recordUse(tx, m.volume)
}
