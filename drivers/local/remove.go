//go:build unix

package local

import (
	"context"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/catalog"
	"github.com/volehq/vole/internal/flock"
)

// Remove implements driver.Backend.
func (b *Backend) Remove(ctx context.Context, ref driver.Ref) (info driver.Info, err error) {
	if err := b.checkWritable(); err != nil {
		return driver.Info{}, err
	}
	err = b.ballast.Freeing(func() error {
		unhold, err := b.holdForRemoval(ctx, ref)
		if err != nil {
			return err
		}
		defer unhold()
		if info, err = b.commitRemoving(ctx, ref, nil); err != nil {
			return err
		}
		return b.finishRemoval(context.WithoutCancel(ctx), info.ID)
	})
	return info, err
}

// RemoveUnused implements driver.Backend. It reads the last use while the volume is at rest: for
// a dir volume under the locks of its page, for a disk volume while no process has its files
// open. So a use is either seen, or finds the volume gone.
func (b *Backend) RemoveUnused(ctx context.Context, id string, since time.Time) (info driver.Info, err error) {
	if err := b.checkWritable(); err != nil {
		return driver.Info{}, err
	}
	// Attachments of dead processes are uses that are not recorded yet.
	if _, err := b.recoverHome(ctx); err != nil {
		return driver.Info{}, err
	}
	ref := driver.ByID(id)
	err = b.ballast.Freeing(func() error {
		unhold, err := b.holdForRemoval(ctx, ref)
		if err != nil {
			return err
		}
		defer unhold()
		closed, err := b.holdClosed(ctx, id)
		if err != nil {
			return err
		}
		defer closed.Release()
		err = b.withVolumeAtRest(ctx, id, "removing what is unused", func(p *page) error {
			info, err = b.commitRemoving(ctx, ref, func(now driver.Info) error {
				if at := time.Unix(0, p.load(offLastUse)); at.After(now.LastUsed) {
					now.LastUsed = at
				}
				return refuseUsedSince(now, since)
			})
			if err == nil {
				p.store(offRemoved, 1)
			}
			return err
		})
		if err != nil {
			return err
		}
		return b.finishRemoval(context.WithoutCancel(ctx), id)
	})
	return info, err
}

// refuseUsedSince returns ErrInUse for a volume that was used after since.
func refuseUsedSince(info driver.Info, since time.Time) error {
	if !info.LastUsed.After(since) {
		return nil
	}
	return driver.Errorf(driver.ErrInUse, "the volume was used at %s", info.LastUsed.UTC().Format(time.RFC3339))
}

// holdForRemoval keeps consumers from using the image of a disk volume that is removed, until
// release is called. A dir volume needs no hold.
func (b *Backend) holdForRemoval(ctx context.Context, ref driver.Ref) (release func(), err error) {
	r, err := b.getVolume(ctx, ref)
	if err != nil || r.Kind != driver.KindDisk {
		return func() {}, nil // Remove looks it up again
	}
	return b.disks.Volume(r.ID).HoldForRemoval(ctx)
}

// holdClosed keeps the files of a disk volume from being opened until the hold is released.
// ErrInUse: a process has them open. A dir volume needs no hold.
func (b *Backend) holdClosed(ctx context.Context, id string) (*flock.Lock, error) {
	r, err := b.getVolume(ctx, driver.ByID(id))
	if err != nil || r.Kind != driver.KindDisk {
		return nil, err
	}
	return b.disks.Volume(id).HoldClosed(ctx)
}

// commitRemoving commits the volume as being removed by this process. may can refuse it by the
// volume's row; it may be nil.
func (b *Backend) commitRemoving(ctx context.Context, ref driver.Ref, may func(driver.Info) error) (driver.Info, error) {
	proc, err := b.processID()
	if err != nil {
		return driver.Info{}, translateError(err)
	}
	var info driver.Info
	err = b.db.Write(ctx, catalog.Durable, func(tx *catalog.Tx) error {
		query, arg := lookupQuery(ref)
		r, err := scanOneVolume(tx.QueryRow(query, arg))
		if err != nil {
			return err
		}
		if err := b.refuseForeignDraft(&r); err != nil {
			return err
		}
		info = b.withLocation(r.Info)
		if err := b.refuseAttached(tx, info.ID); err != nil {
			return err
		}
		if may != nil {
			if err := may(info); err != nil {
				return err
			}
		}
		_, err = tx.Exec(`UPDATE volumes SET state = 'removing', owner = ? WHERE id = ?`, proc, info.ID)
		return err
	})
	if err != nil {
		return driver.Info{}, err
	}
	return info, nil
}

// finishRemoval deletes the directory and the row of a volume that is committed as removing.
// Deleting the row need not be durable: recovery would do it again.
func (b *Backend) finishRemoval(ctx context.Context, id string) error {
	b.forgetDraft(id)
	b.markPageRemoved(id)
	if err := b.removeVolumeDir(id); err != nil {
		return translateError(err)
	}
	return b.db.Exec(ctx, catalog.Lazy, `DELETE FROM volumes WHERE id = ? AND state = 'removing'`, id)
}
