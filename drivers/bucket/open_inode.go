package bucket

import (
	"context"
	"errors"
	"sync"

	"github.com/volehq/vole/driver"
)

// inodeKey names an inode of a volume.
type inodeKey struct {
	vol string
	ino int64
}

// openInode is a file that this process has open. All handles of the process share it, so
// that each sees at once what another wrote.
type openInode struct {
	fs       *volumeFS // of the first open
	key      inodeKey
	refCount int // handles; guarded by Backend.mu
	// orphan says that the file has no name any more, and goes with the last handle.
	// Guarded by Backend.mu.
	orphan bool

	commitMu sync.Mutex // held while what was written is committed

	mu           sync.Mutex   // guards what follows; taken after commit
	size         int64        // as this process last saw it committed
	writerCount  int          // handles that may write
	dirty        dirtyRanges  // written, and not being committed yet
	dirtyBytes   int64        // how much was written since the last commit, at least that of fresh
	dirtyMemory  int64        // bytes of the organisation's memory that fresh takes
	dirtyFS      *volumeFS    // by which, and so under whose rights
	flushing     dirtyRanges  // being committed
	dirtyMtime   int64        // of the last write
	lostErr      error        // why something that was written will never be committed
	failedWriter *volumeFS    // by which it was written
	lossCount    int64        // how often that came to pass
	epoch        int64        // raised when the committed chunks change
	window       extentWindow // committed chunks, of this epoch
	closed       bool         // the last handle is closed: no window is kept
	loadsStarted int64        // loads of the window that have begun
	lastLoadKept int64        // the latest of them whose answer is kept
}

// pendingDeletes are the inodes that one change is about to delete. Whoever opens one of them
// meanwhile waits for how that ends.
type pendingDeletes struct {
	b    *Backend
	vol  []byte
	keys []inodeKey
	done chan struct{}
}

// claimUnlessOpen marks an inode, unless it is open.
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

// unblockOpeners is called when it is known whether the change was committed.
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

// acquireInode opens an inode. The caller checks after it that the inode is there: from
// here on it does not go while it is open.
func (b *Backend) acquireInode(ctx context.Context, f *volumeFS, ino int64) (*openInode, error) {
	key := inodeKey{string(f.vol), ino}
	for {
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			return nil, driver.ErrClosed
		}
		gone := b.deleting[key]
		if gone == nil {
			n := b.openInodes[key]
			if n == nil {
				n = &openInode{fs: f, key: key}
				b.openInodes[key] = n
			}
			n.refCount++
			b.mu.Unlock()
			return n, nil
		}
		b.mu.Unlock()
		select {
		case <-gone:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// releaseInode gives a node back; the last one to do so removes a file without a name.
func (b *Backend) releaseInode(ctx context.Context, n *openInode) error {
	b.mu.Lock()
	n.refCount--
	last := n.refCount == 0
	orphan := n.orphan
	if last {
		delete(b.openInodes, n.key)
	}
	b.mu.Unlock()
	if last {
		n.mu.Lock()
		n.closed = true
		n.evictWindow()
		n.mu.Unlock()
	}
	if !last || !orphan {
		return nil
	}
	return b.reapOrphanFile(ctx, n.fs, n.key.ino)
}

// reapOrphansOnceClosed notes that files have lost their last name while they were open. One that
// was closed meanwhile is removed here.
func (b *Backend) reapOrphansOnceClosed(ctx context.Context, f *volumeFS, list []int64) error {
	var errs []error
	for _, ino := range list {
		if !b.reapAtLastRelease(f.vol, ino) {
			errs = append(errs, b.reapOrphanFile(ctx, f, ino))
		}
	}
	return errors.Join(errs...)
}

// reapOrphanFile removes a file that has no name, once it is not open any more.
func (b *Backend) reapOrphanFile(ctx context.Context, f *volumeFS, ino int64) error {
	// Whoever may change files now: this one's removal was committed.
	system := b.maintenanceFS(f.vol)
	for {
		open := false
		err := b.runVolumeTx(ctx, system, nil, func(tx *volumeTx) error {
			var n inode
			var found bool
			if err := tx.runQueries(tx.inodeQuery(&found, &n, ino)); err != nil || !found || n.nlink > 0 {
				return err
			}
			if open = !tx.pending.claimUnlessOpen(ino); open {
				return nil
			}
			tx.sizeDelta -= n.size
			tx.deleteInode(&n)
			tx.queueExec(`DELETE FROM orphans WHERE vol = $1 AND ino = $2`, tx.vol, ino)
			return nil
		})
		if errors.Is(err, driver.ErrNotFound) {
			return nil
		}
		if err != nil || !open || b.reapAtLastRelease(f.vol, ino) {
			return err
		}
	}
}

// reapAtLastRelease has the last handle of a file remove it; false: it is not open.
func (b *Backend) reapAtLastRelease(vol []byte, ino int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.openInodes[inodeKey{string(vol), ino}]
	if n != nil {
		n.orphan = true
	}
	return n != nil
}

func (tx *volumeTx) inodeQuery(found *bool, n *inode, ino int64) query {
	return selectOne(found, n.scanDest(), `SELECT `+inodeCols+` FROM inodes i WHERE i.vol = $1 AND i.ino = $2`, tx.vol, ino)
}

// overlayDirty makes an inode show what this process has written to it and not committed.
// before is what commits said before its row was read: what was committed since may be
// in neither, and then the row is read again.
func (b *Backend) overlayDirty(ctx context.Context, vol []byte, i *inode, before int64) error {
	if !i.isRegular() {
		return nil
	}
	b.mu.Lock()
	n := b.openInodes[inodeKey{string(vol), i.ino}]
	b.mu.Unlock()
	if n == nil {
		return nil
	}
	if b.commitCount.Load() == before {
		n.mu.Lock()
		n.applyDirty(i)
		n.mu.Unlock()
		if b.commitCount.Load() == before {
			return nil
		}
	}
	now, err := n.readInode(ctx)
	if errors.Is(err, driver.ErrNotExist) {
		return nil // removed since: i is as it was
	}
	if err == nil {
		*i = now
	}
	return err
}

// applyDirty is overlay for one node. The caller holds mu.
func (n *openInode) applyDirty(i *inode) {
	if len(n.dirty) == 0 && len(n.flushing) == 0 {
		return
	}
	i.size = max(i.size, n.dirty.end(), n.flushing.end())
	i.mtime = n.dirtyMtime
	i.ctime = max(i.ctime, n.dirtyMtime)
}

// acquireDirtyInodes returns the open files of a volume, or of all when vol is nil, that hold
// what is not committed, each held by one more reference.
func (b *Backend) acquireDirtyInodes(vol []byte) []*openInode {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []*openInode
	for key, n := range b.openInodes {
		if (vol == nil || key.vol == string(vol)) && n.isDirty() {
			n.refCount++
			list = append(list, n)
		}
	}
	return list
}

func (n *openInode) isDirty() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.dirty) > 0 || len(n.flushing) > 0
}

func (b *Backend) hasDirtyInodes(vol []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, n := range b.openInodes {
		if key.vol == string(vol) && n.isDirty() {
			return true
		}
	}
	return false
}

// tryFlushVolume commits what this process has written by handle, so that what is read
// from the database next has it. What cannot be committed is an error of its own
// handle's Sync and Close, not of whoever looks at the volume.
func (b *Backend) tryFlushVolume(ctx context.Context, vol []byte) error {
	if err := b.syncVolume(ctx, vol); err != nil {
		b.ns.log.WarnContext(ctx, "what was written by handle cannot be committed yet", "error", err)
	}
	return ctx.Err()
}

// syncVolume is tryFlushVolume for who must know that all was committed.
func (b *Backend) syncVolume(ctx context.Context, vol []byte) error {
	var errs []error
	for _, n := range b.acquireDirtyInodes(vol) {
		if err := n.flushDirty(ctx); err != nil && !errors.Is(err, driver.ErrNotFound) && !errors.Is(err, driver.ErrNotExist) {
			errs = append(errs, err)
		}
		errs = append(errs, b.releaseInode(ctx, n))
	}
	return errors.Join(errs...)
}

// discardVolumeDirty forgets what was written to a volume that has been removed.
func (b *Backend) discardVolumeDirty(vol []byte) {
	for _, n := range b.acquireDirtyInodes(vol) {
		n.discardDirty(driver.ErrNotFound)
		_ = b.releaseInode(context.Background(), n)
	}
}
