package bucket

import (
	"context"
	"errors"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/sqldb"
)

// runFreeingTx is RunTx for what frees space: on a full disk it may use the ballast.
func (ns *Namespace) runFreeingTx(ctx context.Context, vol []byte, fn func(tx sqldb.Tx) error) error {
	return ns.db.Freeing(func() error { return ns.db.RunTx(ctx, sqldb.TxOptions{Key: vol}, fn) })
}

// runFreeingTx is runTxIfWritable for what frees space.
func (fsys *volumeFS) runFreeingTx(ctx context.Context, path string, fn func(tx *volumeTx) error) error {
	return fsys.b.ns.db.Freeing(func() error { return fsys.runTxIfWritable(ctx, []string{path}, fn) })
}

// Remove implements driver.FS.
func (fsys *volumeFS) Remove(ctx context.Context, path string) error {
	defer fsys.b.ns.metrics.observeSince("fs_remove", time.Now())
	return fsys.runFreeingTx(ctx, path, func(tx *volumeTx) error {
		target, err := tx.mustResolve(path, resolveMode{})
		if err != nil {
			return err
		}
		if target.node.isDir() {
			if err := tx.checkEmptyDir(target.node.ino); err != nil {
				return err
			}
		}
		tx.unlinkResolved(&target)
		return nil
	})
}

// RemoveAll implements driver.FS. A directory loses its name in one short transaction and
// becomes an orphan. The tree beneath it is then removed in as many transactions as it takes,
// in the background if ctx ends before, and by maintenance if this process dies.
func (fsys *volumeFS) RemoveAll(ctx context.Context, path string) error {
	defer fsys.b.ns.metrics.observeSince("fs_remove_all", time.Now())
	tree := false
	err := fsys.runFreeingTx(ctx, path, func(tx *volumeTx) error {
		tree = false
		target, err := tx.walker.resolve(path, resolveMode{})
		if errors.Is(err, driver.ErrNotExist) {
			return nil
		}
		if err != nil || target.node == nil {
			return err
		}
		if !target.node.isDir() {
			tx.unlinkResolved(&target)
			return nil
		}
		if tx.sessionID == nil {
			return errNeedSession
		}
		tree = true
		tx.removeDirent(target.parent.ino, target.name)
		tx.noteTouchedDir(target.parent.ino, -1)
		// The orphan belongs to this session: while this process lives, only it may remove the
		// tree, because it alone knows which of its files it has open.
		tx.QueueExec(`INSERT INTO orphans (vol, ino, session) VALUES ($1, $2, $3)`, tx.vol, target.node.ino, tx.sessionID)
		return nil
	})
	if err != nil || !tree {
		return err
	}
	if err := fsys.b.reapTrees(ctx, fsys); err != nil {
		fsys.b.ns.log.WarnContext(ctx, "removing a tree continues in the background", "volume", rows.FormatID(fsys.vol), "error", err)
		fsys.b.goBackground(func() { fsys.b.reapTreesUntilDone(fsys.vol) })
	}
	return nil
}

// reapTreesUntilDone removes the orphaned trees of this session in a volume, with retries,
// until none is left or the Backend is closed. Maintenance takes over then.
func (b *Backend) reapTreesUntilDone(vol []byte) {
	fsys := b.maintenanceFS(vol)
	for b.reapTrees(b.lifetime, fsys) != nil {
		select {
		case <-b.lifetime.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

const (
	// reapDirs and reapEntries bound the directories and entries that one transaction removes.
	reapDirs    = 64
	reapEntries = 500
	// reapSteps is how many transactions one volume gets before it is another volume's turn.
	reapSteps = 100
)

// reapTrees removes the orphaned trees and files of a volume that no other session holds.
func (b *Backend) reapTrees(ctx context.Context, fsys *volumeFS) error {
	for more := true; more; {
		var err error
		if more, err = b.reapTreeSteps(ctx, fsys, reapSteps); err != nil {
			return err
		}
	}
	return nil
}

// reapTreeSteps runs up to steps transactions of reapTrees, and reports whether more is left.
func (b *Backend) reapTreeSteps(ctx context.Context, fsys *volumeFS, steps int) (more bool, err error) {
	more = true
	for range steps {
		err := b.runVolumeTx(ctx, fsys, nil, func(tx *volumeTx) (err error) {
			tx.sessionID = b.session.currentID()
			more, err = tx.reapTreeBatch()
			return err
		})
		if errors.Is(err, driver.ErrNotFound) {
			return false, nil
		}
		if err != nil || !more {
			return more, err
		}
	}
	return more, nil
}

// selectReapRoots selects the inodes to remove in a volume ($1): orphans that no session
// holds, and the directories of session $3. The files of that session are open in it.
const selectReapRoots = `SELECT ` + inodeCols + ` FROM orphans r JOIN inodes i ON i.vol = r.vol AND i.ino = r.ino
	WHERE r.vol = $1 AND (r.session IS NULL OR r.session = $3 AND i.mode BETWEEN 16384 AND 20479) ORDER BY r.ino LIMIT CAST($2 AS INTEGER)`

// treeReaper is one transaction that removes trees, depth first.
type treeReaper struct {
	tx           *volumeTx
	pending      []namelessInode // a stack of inodes that have no name now
	entryBudget  int             // how many entries may still be removed
	removedCount int             // of inodes and names so far
	namesRemoved map[int64]int64 // by inode: reads do not see the link counts that are queued
}

// namelessInode is an inode without a name.
type namelessInode struct {
	inode
	hasOrphanRow bool // else it lost its name in this transaction
}

// reapTreeBatch removes entries of directories that have no name, and of their subdirectories.
// A subdirectory that it does not reach becomes an orphan itself. So neither the depth of a
// tree matters nor where a transaction ends.
func (tx *volumeTx) reapTreeBatch() (more bool, err error) {
	var roots []inode
	if err := tx.RunQueries(sqldb.SelectAll(&roots, (*inode).scanDest, selectReapRoots, tx.vol, reapDirs, sqldb.NullIfNil(tx.sessionID))); err != nil {
		return false, err
	}
	reaper := &treeReaper{tx: tx, entryBudget: reapEntries, namesRemoved: map[int64]int64{}}
	for _, n := range roots {
		reaper.pending = append(reaper.pending, namelessInode{n, true})
	}
	for i := 0; i < reapDirs && len(reaper.pending) > 0 && reaper.entryBudget > 0; i++ {
		if err := reaper.reapNext(); err != nil {
			return false, err
		}
	}
	for _, top := range reaper.pending {
		if !top.hasOrphanRow {
			tx.QueueExec(`INSERT INTO orphans (vol, ino, session) VALUES ($1, $2, $3)`, tx.vol, top.ino, sqldb.NullIfNil(tx.sessionID))
		}
	}
	return len(reaper.pending) > 0 || len(roots) == reapDirs && reaper.removedCount > 0, nil
}

// reapNext removes the topmost pending inode, or as many of its entries as the budget allows.
func (reaper *treeReaper) reapNext() error {
	tx, top := reaper.tx, reaper.pending[len(reaper.pending)-1]
	reaper.pending = reaper.pending[:len(reaper.pending)-1]
	if top.isRegular() { // an orphan whose session has ended
		if !tx.pending.claimUnlessOpen(top.ino) {
			return nil // its last handle removes it
		}
		tx.sizeDelta -= top.size
	}
	full := false
	if top.isDir() {
		var list []namedInode
		err := tx.RunQueries(sqldb.SelectAll(&list, (*namedInode).scanDest, `SELECT `+inodeCols+`, e.name FROM dirents e JOIN inodes i ON i.vol = e.vol AND i.ino = e.ino
			WHERE e.vol = $1 AND e.parent = $2 ORDER BY e.name LIMIT CAST($3 AS INTEGER)`, tx.vol, top.ino, reaper.entryBudget+1))
		if err != nil {
			return err
		}
		if full = len(list) > reaper.entryBudget; full {
			list = list[:reaper.entryBudget]
			reaper.pending = append(reaper.pending, top)
		}
		reaper.entryBudget -= len(list)
		reaper.removedCount += len(list)
		for i := range list {
			reaper.reapDirent(top.ino, &list[i])
		}
	}
	if full {
		return nil
	}
	if top.hasOrphanRow {
		tx.QueueExec(`DELETE FROM orphans WHERE vol = $1 AND ino = $2`, tx.vol, top.ino)
	}
	reaper.removedCount++
	tx.deleteInode(&top.inode)
	return nil
}

// reapDirent removes an entry of a directory. A subdirectory is pushed; the inode of a file
// goes with its last name.
func (reaper *treeReaper) reapDirent(dir int64, e *namedInode) {
	reaper.tx.removeDirent(dir, string(e.name))
	if e.isDir() {
		reaper.pending = append(reaper.pending, namelessInode{inode: e.inode})
		return
	}
	e.nlink -= reaper.namesRemoved[e.ino]
	reaper.namesRemoved[e.ino]++
	reaper.tx.unlinkInode(&e.inode)
}
