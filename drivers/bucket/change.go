package bucket

import (
	"context"
	"errors"
	"math"
	"strings"
	"time"

	"github.com/volehq/vole/driver"
)

// volumeTx is a transaction on the files of one volume, under the lock of its row.
type volumeTx struct {
	sqlTx
	b           *Backend
	vol         []byte
	row         volumeRow
	now         int64 // the time that files get
	walker      pathWalker
	maintenance bool            // by maintenance
	sizeDelta   int64           // by how much the volume grows, in bytes
	metaDelta   driver.Metadata // by how much its metadata does

	sessionID   []byte          // of this process; nil: none is needed yet
	pending     *pendingDeletes // inodes whose rows go with the transaction
	newOrphans  []int64         // inodes that lose their last name while they are open here
	touchedDirs []touchedDir
	abortErr    error // what keeps the transaction from being committed
}

// errNeedSession makes a change begin anew, with a session.
var errNeedSession = errors.New("a session is needed")

// runVolumeTx runs fn in a transaction. paths are those that fn is going to resolve: they
// are asked for together with the lock.
func (f *volumeFS) runVolumeTx(ctx context.Context, paths []string, fn func(c *volumeTx) error) error {
	if err := f.checkWritable(ctx); err != nil {
		return err
	}
	return f.b.runVolumeTx(ctx, f, paths, fn)
}

// runVolumeTx is that of an FS, which may be closed. It is what handles use.
func (b *Backend) runVolumeTx(ctx context.Context, f *volumeFS, paths []string, fn func(c *volumeTx) error) error {
	var session []byte
	marks := pendingDeletes{b: b, vol: f.vol}
	defer marks.unblockOpeners()
	for {
		var orphans []int64
		err := b.ns.db.runTx(ctx, f.vol, f.opts.Batch, func(t sqlTx) error {
			c := &volumeTx{sqlTx: t, b: b, vol: f.vol, now: time.Now().UnixNano(), sessionID: session, pending: &marks}
			err := c.lockAndAuthorize(f, paths)
			if err == nil {
				err = fn(c)
			}
			if err != nil {
				return err
			}
			f.quotaHint.Store(c.row.quota)
			orphans = c.newOrphans
			return c.prepareCommit()
		})
		switch {
		case errors.Is(err, errNeedSession):
			if session, err = b.session.ensureSession(ctx); err != nil {
				return err
			}
			continue
		case b.ns.db.isForeignKeyViolation(err):
			b.ns.reserves.invalidate(b.org)
			return driver.Errorf(driver.ErrCorrupt, "bytes that were written have been swept away meanwhile: the write took longer than the grace time")
		case err != nil:
			return err
		}
		return b.reapOrphansOnceClosed(ctx, f, orphans)
	}
}

// lockAndAuthorize locks the volume and checks that this FS may change it.
func (c *volumeTx) lockAndAuthorize(f *volumeFS, paths []string) error {
	c.walker = pathWalker{vol: c.vol, run: c.runQueries, lookupPath: c.b.ns.db.lookupPath, prefetched: map[string][]inode{}}
	c.maintenance = f.maintenance
	var found, alive bool
	list := []query{c.b.lockVolumeQuery(&found, &c.row, c.vol)}
	if f.attachment != nil {
		list = append(list, selectOne(&alive, []any{new(int)}, `SELECT 1 FROM attachments a JOIN sessions s ON s.id = a.session
			WHERE a.id = $1 AND s.expires > {now}`, f.attachment))
	}
	chains := make([][]inode, len(paths))
	for i, p := range paths {
		if ask, ok := c.b.ns.db.lookupPathQuery(c.b.org, c.vol, p, &chains[i]); ok {
			list = append(list, ask)
		}
	}
	if err := c.runQueries(list...); err != nil {
		return err
	}
	for i, p := range paths {
		if len(chains[i]) > 0 {
			c.walker.prefetched[p] = chains[i]
		}
	}
	switch {
	case !found:
		return driver.ErrNotFound
	case f.attachment != nil && !alive:
		return errAttachmentEnded
	case c.row.writer != nil && !f.maintenance && string(c.row.writer) != string(f.attachment):
		return c.checkFence()
	}
	return nil
}

// checkFence is for who is not the exclusive writer of the volume.
func (c *volumeTx) checkFence() error {
	var list []attachment
	if err := c.runQueries(c.b.liveAttachmentsQuery(&list, c.vol)); err != nil {
		return err
	}
	for _, a := range list {
		if string(a.id) == string(c.row.writer) {
			return a.inUseError()
		}
	}
	c.queueExec(`UPDATE volumes SET writer = NULL WHERE org = $1 AND id = $2`, c.b.org, c.vol) // it died
	return nil
}

// prepareCommit checks the quota and writes the volume's row.
func (c *volumeTx) prepareCommit() error {
	if c.abortErr != nil {
		return c.abortErr
	}
	if c.sizeDelta > 0 && c.row.quota == 0 && c.sizeDelta > math.MaxInt64-c.row.used {
		return driver.Errorf(driver.ErrQuota, "the files of a volume may have %d bytes together", int64(math.MaxInt64))
	}
	if c.sizeDelta > 0 && c.row.quota > 0 && c.sizeDelta > c.row.quota-c.row.used {
		return driver.Errorf(driver.ErrQuota, "%d bytes more, and the volume would hold more than its quota of %v; %v are free",
			c.sizeDelta, driver.Size(c.row.quota), driver.Size(max(0, c.row.quota-c.row.used)))
	}
	if err := driver.MetadataBounds(driver.Size(c.row.quota)).Admit(c.row.storedMetadata(), c.metaDelta); err != nil {
		return err
	}
	for _, d := range c.touchedDirs {
		c.queueExec(`UPDATE inodes SET mtime = $3, ctime = $3, nlink = nlink + $4 WHERE vol = $1 AND ino = $2`, c.vol, d.ino, c.now, d.subdirs)
	}
	used := ", " + usedNow
	if c.maintenance {
		used = "" // maintenance is no use
	}
	c.queueExec(`UPDATE volumes SET used = used + $3, entries = entries + $4, metadata = metadata + $5, next_ino = $6, generation = generation + 1`+used+`
		WHERE org = $1 AND id = $2`, c.b.org, c.vol, c.sizeDelta, c.metaDelta.Entries, c.metaDelta.Bytes, c.row.nextIno)
	return nil
}

// mustResolve resolves a path where something must be.
func (c *volumeTx) mustResolve(path string, h resolveMode) (resolved, error) {
	p, err := c.walker.resolve(path, h)
	if err == nil && p.node == nil {
		err = driver.ErrNotExist
	}
	return p, err
}

// allocateInodeNumber returns the number of a new inode. Numbers are never used again.
func (c *volumeTx) allocateInodeNumber() int64 {
	c.row.nextIno++
	return c.row.nextIno - 1
}

func queueInodeInsert(t sqlTx, vol []byte, n *inode) {
	t.queueExec(`INSERT INTO inodes (vol, ino, mode, uid, gid, nlink, size, alloc, atime, mtime, ctime, rdev, target, xattr_bytes)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`,
		vol, n.ino, n.mode, n.uid, n.gid, n.nlink, n.size, n.alloc, n.atime, n.mtime, n.ctime, n.rdev, nullIfNil(n.target), n.xattrs)
}

// insertInode makes the row of n.
func (c *volumeTx) insertInode(n *inode) {
	queueInodeInsert(c, c.vol, n)
	c.metaDelta = c.metaDelta.Plus(n.ownMetadata())
}

// createInode makes n, as a new inode of this moment, under a name that is free.
func (c *volumeTx) createInode(dir *inode, name string, n *inode) {
	n.ino = c.allocateInodeNumber()
	n.atime, n.mtime, n.ctime = c.now, c.now, c.now
	c.insertInode(n)
	sub := int64(0)
	if n.isDir() {
		sub = 1
	}
	c.addDirent(dir, name, n.ino, sub)
}

// addDirent adds a directory entry; subdirs is 1 when it is for a directory.
func (c *volumeTx) addDirent(dir *inode, name string, ino, subdirs int64) {
	if name == "" || name == "." || name == ".." || len(name) > driver.MaxElemLen || strings.ContainsAny(name, "/\x00") {
		c.abortErr = driver.Errorf(driver.ErrInvalid, "%q is no name of a file", name)
	}
	c.queueExec(`INSERT INTO dirents (vol, parent, name, ino) VALUES ($1, $2, $3, $4)`, c.vol, dir.ino, []byte(name), ino)
	c.addNameMetadata(name)
	c.touchDirectory(dir.ino, subdirs)
}

// touchDirectory notes that a directory's entries have changed, and by how much the number of
// directories among them.
func (c *volumeTx) touchDirectory(ino, subdirs int64) {
	for i := range c.touchedDirs {
		if c.touchedDirs[i].ino == ino {
			c.touchedDirs[i].subdirs += subdirs
			return
		}
	}
	c.touchedDirs = append(c.touchedDirs, touchedDir{ino, subdirs})
}

// touchedDir is a directory whose entries have changed.
type touchedDir struct{ ino, subdirs int64 }

// makeMissingParents makes the directories that are missing and returns the last one.
func (c *volumeTx) makeMissingParents(p *resolved, perm int64) *inode {
	dir := &p.parent
	for _, name := range p.missingDirs {
		n := &inode{mode: typeDir | perm, nlink: 2}
		c.createInode(dir, name, n)
		dir = n
	}
	return dir
}

// checkReplaceable says whether rename(2) puts src in the place of dst.
func (c *volumeTx) checkReplaceable(src, dst *inode) error {
	switch {
	case src.isDir() && !dst.isDir():
		return driver.ErrNotDir
	case !src.isDir() && dst.isDir():
		return driver.ErrIsDir
	case dst.isDir():
		return c.checkEmptyDir(dst.ino)
	}
	return nil
}

func (c *volumeTx) checkEmptyDir(dir int64) error {
	var full bool
	err := c.runQueries(selectOne(&full, []any{new(int)}, `SELECT 1 FROM dirents WHERE vol = $1 AND parent = $2 LIMIT 1`, c.vol, dir))
	if err == nil && full {
		err = driver.ErrNotEmpty
	}
	return err
}

// unlinkResolved takes a name away from a file or an empty directory.
func (c *volumeTx) unlinkResolved(p *resolved) {
	c.removeDirent(p.parent.ino, p.name)
	if p.node.isDir() {
		c.touchDirectory(p.parent.ino, -1)
		c.deleteInode(p.node)
		return
	}
	c.touchDirectory(p.parent.ino, 0)
	c.unlinkInode(p.node)
}

// removeDirent deletes a directory entry.
func (c *volumeTx) removeDirent(dir int64, name string) {
	c.queueExec(`DELETE FROM dirents WHERE vol = $1 AND parent = $2 AND name = $3`, c.vol, dir, []byte(name))
	c.subtractNameMetadata(name)
}

// unlinkInode is for an inode that has lost one of its names.
func (c *volumeTx) unlinkInode(n *inode) {
	if n.nlink > 1 {
		c.queueExec(`UPDATE inodes SET nlink = nlink - 1, ctime = $3 WHERE vol = $1 AND ino = $2`, c.vol, n.ino, c.now)
		return
	}
	if n.isRegular() && !c.pending.claimUnlessOpen(n.ino) {
		if c.sessionID == nil {
			c.abortErr = errNeedSession
			return
		}
		c.newOrphans = append(c.newOrphans, n.ino)
		c.queueExec(`UPDATE inodes SET nlink = 0, ctime = $3 WHERE vol = $1 AND ino = $2`, c.vol, n.ino, c.now)
		c.queueExec(`INSERT INTO orphans (vol, ino, session) VALUES ($1, $2, $3)`, c.vol, n.ino, c.sessionID)
		return
	}
	if n.isRegular() {
		c.sizeDelta -= n.size
	}
	c.deleteInode(n)
}

// deleteInode deletes an inode and what belongs to it.
func (c *volumeTx) deleteInode(n *inode) {
	if n.isRegular() && n.alloc > 0 {
		c.deleteChunksFrom(n.ino, 0)
	}
	if n.xattrs > 0 {
		c.queueExec(`DELETE FROM xattrs WHERE vol = $1 AND ino = $2`, c.vol, n.ino)
	}
	c.metaDelta = c.metaDelta.Minus(n.ownMetadata())
	c.queueExec(`DELETE FROM inodes WHERE vol = $1 AND ino = $2`, c.vol, n.ino)
}

// deleteChunksFrom deletes the chunks of a file that begin at pos or after it. Blobs that lose
// their last chunk are marked freed by a trigger.
func (c *volumeTx) deleteChunksFrom(ino, pos int64) {
	c.queueExec(`DELETE FROM chunks WHERE vol = $1 AND ino = $2 AND pos >= $3`, c.vol, ino, pos)
}
