package bucket

import (
	"context"
	"errors"
	"time"

	"github.com/volehq/vole/driver"
)

// runFreeingTx is write for what gives room back: on a full disk it uses what is kept for it.
func (ns *Namespace) runFreeingTx(ctx context.Context, vol []byte, fn func(t sqlTx) error) error {
	return ns.ballast.Freeing(func() error { return ns.db.runTx(ctx, vol, false, fn) })
}

// runFreeingTx is change for what gives room back.
func (f *volumeFS) runFreeingTx(ctx context.Context, path string, fn func(c *volumeTx) error) error {
	return f.b.ns.ballast.Freeing(func() error { return f.runVolumeTx(ctx, []string{path}, fn) })
}

// Remove implements driver.FS.
func (f *volumeFS) Remove(ctx context.Context, path string) error {
	return f.runFreeingTx(ctx, path, func(c *volumeTx) error {
		p, err := c.mustResolve(path, resolveMode{})
		if err != nil {
			return err
		}
		if p.node.isDir() {
			if err := c.checkEmptyDir(p.node.ino); err != nil {
				return err
			}
		}
		c.unlinkResolved(&p)
		return nil
	})
}

// RemoveAll implements driver.FS. A directory loses its name in one short transaction;
// what was beneath it goes in as many as it takes, and in the background when this
// process dies or ctx ends before.
func (f *volumeFS) RemoveAll(ctx context.Context, path string) error {
	tree := false
	err := f.runFreeingTx(ctx, path, func(c *volumeTx) error {
		tree = false
		p, err := c.walker.resolve(path, resolveMode{})
		if errors.Is(err, driver.ErrNotExist) {
			return nil
		}
		if err != nil || p.node == nil {
			return err
		}
		if !p.node.isDir() {
			c.unlinkResolved(&p)
			return nil
		}
		if c.sessionID == nil {
			return errNeedSession
		}
		tree = true
		c.removeDirent(p.parent.ino, p.name)
		c.touchDirectory(p.parent.ino, -1)
		// While this process lives the tree is its own to remove: it alone knows what in it
		// is open here.
		c.queueExec(`INSERT INTO orphans (vol, ino, session) VALUES ($1, $2, $3)`, c.vol, p.node.ino, c.sessionID)
		return nil
	})
	if err != nil || !tree {
		return err
	}
	if err := f.b.reapTrees(ctx, f); err != nil {
		f.b.ns.log.WarnContext(ctx, "removing a tree goes on in the background", "volume", formatID(f.vol), "error", err)
		f.b.goBackground(func() { f.b.reapTreesUntilDone(f.vol) })
	}
	return nil
}

// reapTreesUntilDone removes the trees of this process in a volume until none is left. They
// stay its own: what in them is open here, only it knows. When the Backend is closed,
// others take over.
func (b *Backend) reapTreesUntilDone(vol []byte) {
	f := b.maintenanceFS(vol)
	for b.reapTrees(b.lifetime, f) != nil {
		select {
		case <-b.lifetime.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

const (
	// reapDirs and reapEntries bound one transaction that removes trees.
	reapDirs    = 64
	reapEntries = 500
	// reapSteps is how many transactions remove trees or rows of one volume before it is
	// another's turn.
	reapSteps = 100
)

// reapTrees removes what no name leads to, and no other session holds, in one volume.
func (b *Backend) reapTrees(ctx context.Context, f *volumeFS) error {
	for more := true; more; {
		var err error
		if more, err = b.reapTreeSteps(ctx, f, reapSteps); err != nil {
			return err
		}
	}
	return nil
}

// reapTreeSteps does some steps of reapTrees.
func (b *Backend) reapTreeSteps(ctx context.Context, f *volumeFS, steps int) (more bool, err error) {
	more = true
	for range steps {
		err := b.runVolumeTx(ctx, f, nil, func(c *volumeTx) (err error) {
			c.sessionID = b.session.currentID()
			more, err = c.reapTreeBatch()
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

// reapedEntry is a directory entry of what is removed.
type reapedEntry struct {
	inode
	name []byte
}

func (e *reapedEntry) scanDest() []any { return append(e.inode.scanDest(), &e.name) }

// selectReapRoots has the roots of what is to be removed: what no session holds, and the
// directories of this process's own.
const selectReapRoots = `SELECT ` + inodeCols + ` FROM orphans r JOIN inodes i ON i.vol = r.vol AND i.ino = r.ino
	WHERE r.vol = $1 AND (r.session IS NULL OR r.session = $3 AND i.mode BETWEEN 16384 AND 20479) ORDER BY r.ino LIMIT CAST($2 AS INTEGER)`

// treeReaper is one transaction that removes trees.
type treeReaper struct {
	tx           *volumeTx
	pending      []namelessInode // what is without a name now; the last one goes first
	entryBudget  int             // entries that may still go
	removedCount int             // inodes and names that went
	namesRemoved map[int64]int64 // how many names of an inode went
}

// namelessInode is an inode that has no name.
type namelessInode struct {
	inode
	hasOrphanRow bool // it has a row in orphans
}

// reapTreeBatch removes entries of directories that have no name, and of their subdirectories. One
// that it does not come to has no name itself from then on, so that it does not matter how
// deep a tree is, nor where this ends.
func (c *volumeTx) reapTreeBatch() (more bool, err error) {
	var roots []inode
	if err := c.runQueries(selectAll(&roots, (*inode).scanDest, selectReapRoots, c.vol, reapDirs, nullIfNil(c.sessionID))); err != nil {
		return false, err
	}
	r := &treeReaper{tx: c, entryBudget: reapEntries, namesRemoved: map[int64]int64{}}
	for _, n := range roots {
		r.pending = append(r.pending, namelessInode{n, true})
	}
	for i := 0; i < reapDirs && len(r.pending) > 0 && r.entryBudget > 0; i++ {
		if err := r.reapNext(); err != nil {
			return false, err
		}
	}
	for _, d := range r.pending {
		if !d.hasOrphanRow {
			c.queueExec(`INSERT INTO orphans (vol, ino, session) VALUES ($1, $2, $3)`, c.vol, d.ino, nullIfNil(c.sessionID))
		}
	}
	return len(r.pending) > 0 || len(roots) == reapDirs && r.removedCount > 0, nil
}

// reapNext removes the last one of what is to be removed, or as many of its entries as may go.
func (r *treeReaper) reapNext() error {
	c, d := r.tx, r.pending[len(r.pending)-1]
	r.pending = r.pending[:len(r.pending)-1]
	if d.isRegular() { // its session has ended
		if !c.pending.claimUnlessOpen(d.ino) {
			return nil // its last handle removes it
		}
		c.sizeDelta -= d.size
	}
	full := false
	if d.isDir() {
		var list []reapedEntry
		err := c.runQueries(selectAll(&list, (*reapedEntry).scanDest, `SELECT `+inodeCols+`, e.name FROM dirents e JOIN inodes i ON i.vol = e.vol AND i.ino = e.ino
			WHERE e.vol = $1 AND e.parent = $2 ORDER BY e.name LIMIT CAST($3 AS INTEGER)`, c.vol, d.ino, r.entryBudget+1))
		if err != nil {
			return err
		}
		if full = len(list) > r.entryBudget; full {
			list = list[:r.entryBudget]
			r.pending = append(r.pending, d)
		}
		r.entryBudget -= len(list)
		r.removedCount += len(list)
		for i := range list {
			r.reapDirent(d.ino, &list[i])
		}
	}
	if full {
		return nil
	}
	if d.hasOrphanRow {
		c.queueExec(`DELETE FROM orphans WHERE vol = $1 AND ino = $2`, c.vol, d.ino)
	}
	r.removedCount++
	c.deleteInode(&d.inode)
	return nil
}

// reapDirent removes a name from a directory.
func (r *treeReaper) reapDirent(dir int64, e *reapedEntry) {
	r.tx.removeDirent(dir, string(e.name))
	if e.isDir() {
		r.pending = append(r.pending, namelessInode{inode: e.inode})
		return
	}
	e.nlink -= r.namesRemoved[e.ino]
	r.namesRemoved[e.ino]++
	r.tx.unlinkInode(&e.inode)
}
