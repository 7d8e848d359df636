package bucket

import (
	"context"
	"errors"
	"sync"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/sqldb"
)

// inodeKey names an inode of a volume.
type inodeKey struct {
	vol string
	ino int64
}

// openInode is what all handles of this process on one file share: the bytes that are written
// and not committed yet, and the known extents of the committed ones. So each handle sees at
// once what another has written. Other processes see it after Sync or Close.
//
// Lock order: commitMu, then Backend.mu, then mu.
type openInode struct {
	fs       *volumeFS // of the first open; for its Backend, not for rights
	key      inodeKey
	refCount int // of handles, and of flushes under way; guarded by Backend.mu
	// orphan: the file has lost its last name, and the last release deletes its inode.
	// Guarded by Backend.mu.
	orphan bool

	// commitMu is held while this process changes the file in the database, so that commits
	// to one file take turns.
	commitMu sync.Mutex

	mu          sync.Mutex // guards what follows
	size        int64      // the committed size, as this process last saw it, in bytes
	writerCount int        // of handles that may write

	// Write-back, see writeback.go.
	dirty        dirtyRanges // written, and in no flush yet
	dirtyBytes   int64       // written since the last flush, at least the bytes of dirty
	dirtyMemory  int64       // of the organisation's budget, reserved for dirty
	dirtyFS      *volumeFS   // that wrote dirty, under whose rights it is committed
	dirtyMtime   int64       // of the last write, in nanoseconds since 1970
	flushing     dirtyRanges // being committed; reads lay dirty over them
	lostErr      error       // of the last loss
	failedWriter *volumeFS   // whose bytes the last loss was
	lossCount    int64       // how often bytes were lost; each handle reports a loss once, see handle.reportedLosses

	// Reading, see read.go.
	epoch        int64        // raised by each commit of this process to the file
	window       extentWindow // cached extents; valid if it is of this epoch
	closed       bool         // released for the last time: caches no window
	loadsStarted int64        // numbers the loads of a window
	lastLoadKept int64        // the latest load whose result was kept; older ones are stale
}

// pendingDeletes are the inodes that one transaction deletes. To open one of them blocks until
// the transaction has committed or rolled back: until then it is not known whether the file
// still exists.
type pendingDeletes struct {
	b    *Backend
	vol  []byte
	keys []inodeKey
	done chan struct{} // closed by unblockOpeners; nil: no key yet
}

// claimUnlessOpen adds an inode. It returns false if this process has the file open: then the
// transaction must keep the inode, as an orphan.
func (p *pendingDeletes) claimUnlessOpen(ino int64) bool {
	key := inodeKey{string(p.vol), ino}
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	if p.b.openInodes[key] != nil {
		return false
	}
	if p.done == nil {
		p.done = make(chan struct{})
	}
	if p.b.deleting[key] == nil {
		p.b.deleting[key] = p.done
		p.keys = append(p.keys, key)
	}
	return true
}

// unblockOpeners lets the inodes be opened again, once the transaction has ended.
func (p *pendingDeletes) unblockOpeners() {
	if p.done == nil {
		return
	}
	p.b.mu.Lock()
	for _, k := range p.keys {
		delete(p.b.deleting, k)
	}
	p.b.mu.Unlock()
	close(p.done)
}

// acquireInode takes a reference on an inode, which keeps this process from deleting it. The
// inode may have been deleted before: the caller must read its row afterwards.
func (b *Backend) acquireInode(ctx context.Context, fsys *volumeFS, ino int64) (*openInode, error) {
	key := inodeKey{string(fsys.vol), ino}
	for {
		b.mu.Lock()
		if b.isClosed() {
			b.mu.Unlock()
			return nil, driver.ErrClosed
		}
		deleteEnded := b.deleting[key]
		if deleteEnded == nil {
			o := b.openInodes[key]
			if o == nil {
				o = &openInode{fs: fsys, key: key}
				b.openInodes[key] = o
			}
			o.refCount++
			b.mu.Unlock()
			return o, nil
		}
		b.mu.Unlock()
		select {
		case <-deleteEnded:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// releaseAndReapInode drops a reference. The last one deletes the inode of a file without a name.
func (b *Backend) releaseAndReapInode(ctx context.Context, o *openInode) error {
	b.mu.Lock()
	o.refCount--
	last := o.refCount == 0
	orphan := o.orphan
	if last {
		delete(b.openInodes, o.key)
	}
	b.mu.Unlock()
	if last {
		o.mu.Lock()
		o.closed = true
		o.evictWindow()
		o.mu.Unlock()
	}
	if !last || !orphan {
		return nil
	}
	return b.reapOrphanUnlessOpen(ctx, o.fs, o.key.ino)
}

// reapOrphansOnceClosed deletes the inodes of files that lost their last name while they were
// open here: the last handle does so, or this call if all have been closed since.
func (b *Backend) reapOrphansOnceClosed(ctx context.Context, fsys *volumeFS, inos []int64) error {
	var errs []error
	for _, ino := range inos {
		if !b.reapAtLastRelease(fsys.vol, ino) {
			errs = append(errs, b.reapOrphanUnlessOpen(ctx, fsys, ino))
		}
	}
	return errors.Join(errs...)
}

// reapAtLastRelease has the last release of an open inode delete it. It returns false if the
// file is not open.
func (b *Backend) reapAtLastRelease(vol []byte, ino int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.openInodes[inodeKey{string(vol), ino}]
	if o != nil {
		o.orphan = true
	}
	return o != nil
}

// reapOrphanUnlessOpen deletes the inode of a file that has no name. If the file has been opened
// again, through a handle that was still closing, the last release does it.
func (b *Backend) reapOrphanUnlessOpen(ctx context.Context, fsys *volumeFS, ino int64) error {
	// Not under the rights of fsys, which may have ended: the removal itself was committed.
	maintenance := b.maintenanceFS(fsys.vol)
	for {
		open := false
		err := b.runVolumeTx(ctx, maintenance, nil, func(tx *volumeTx) error {
			var row inode
			if err := tx.RunQueries(tx.inodeQuery(&row, ino)); err != nil || row.nlink > 0 {
				return err
			}
			if open = !tx.pending.claimUnlessOpen(ino); open {
				return nil
			}
			tx.sizeDelta -= row.size
			tx.deleteInode(&row)
			tx.QueueExec(`DELETE FROM orphans WHERE vol = $1 AND ino = $2`, tx.vol, ino)
			return nil
		})
		if errors.Is(err, driver.ErrNotFound) || errors.Is(err, driver.ErrNotExist) {
			return nil // the volume was removed, or the file on another host
		}
		if err != nil || !open || b.reapAtLastRelease(fsys.vol, ino) {
			return err
		}
	}
}

// readInode reads the inode's row, with what this process has written and not committed laid
// over it. If a flush ended in between, its bytes may be in neither, and the row is read again.
func (o *openInode) readInode(ctx context.Context) (inode, error) {
	vol := []byte(o.key.vol)
	for {
		var row inode
		var found bool
		o.mu.Lock()
		epoch := o.epoch
		o.mu.Unlock()
		err := o.fs.b.ns.db.RunQueries(ctx, sqldb.SelectOne(&found, row.scanDest(), `SELECT `+inodeCols+` FROM inodes i JOIN volumes v ON v.id = i.vol
		WHERE v.org = $1 AND i.vol = $2 AND i.ino = $3 AND v.state <> 'removing'`, o.fs.b.org, vol, o.key.ino))
		if err != nil {
			return row, err
		}
		if !found {
			return row, o.fs.b.missingInodeError(ctx, vol)
		}
		o.mu.Lock()
		unchanged := o.epoch == epoch
		o.applyDirty(&row)
		o.mu.Unlock()
		if unchanged {
			return row, nil
		}
	}
}

// missingInodeError returns ErrNotFound if the volume was removed, otherwise ErrNotExist: the
// file was.
func (b *Backend) missingInodeError(ctx context.Context, vol []byte) error {
	if _, err := b.getVolume(ctx, driver.ByID(rows.FormatID(vol))); err != nil {
		return err
	}
	return driver.Errorf(driver.ErrNotExist, "the file was removed")
}
