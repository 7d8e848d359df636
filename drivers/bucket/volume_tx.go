package bucket

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/sqldb"
)

// volumeTx is a transaction on the files of one volume, under the lock of the volume's row:
// transactions on one volume take turns, on all hosts. What it reads runs at once (RunQueries);
// what it changes is queued (QueueExec), and sent with the commit in one round trip. So a read
// does not see what the same transaction has queued.
type volumeTx struct {
	sqldb.Tx
	b           *Backend
	vol         []byte
	row         volumeRow       // the volume's row as it was when it was locked
	now         int64           // the time of all changes, in nanoseconds since 1970
	walker      pathWalker      // resolves paths as the transaction sees them
	maintenance bool            // it is no use of the volume, and ignores fences
	sizeDelta   int64           // by how much the files of the volume grow, in bytes
	metaDelta   driver.Metadata // by how much their names, targets and attributes do

	sessionID   []byte          // of this process; nil: it was not needed so far
	pending     *pendingDeletes // inodes that the transaction deletes
	newOrphans  []int64         // inodes that lose their last name while they are open here
	touchedDirs []touchedDir    // directories whose times and link counts change
	abortErr    error           // found while queueing: the transaction must not commit
}

// errNeedSession restarts a transaction that turns out to need this process's session, since
// a session cannot be made within a transaction.
var errNeedSession = errors.New("a session is needed")

// runTxIfWritable runs fn in a transaction on the volume, if the FS is open and may write. fn may
// run several times. paths are those that it resolves: they are looked up in the round trip
// that takes the lock.
func (fsys *volumeFS) runTxIfWritable(ctx context.Context, paths []string, fn func(tx *volumeTx) error) error {
	if err := fsys.checkWritable(ctx); err != nil {
		return err
	}
	return fsys.b.runVolumeTx(ctx, fsys, paths, fn)
}

// runVolumeTx is runTxIfWritable of an FS that may be closed: handles outlive their FS. It runs
// fn again with a session if fn needs one. After the commit, files that have lost their last name
// while they were open here are left to their last handle.
func (b *Backend) runVolumeTx(ctx context.Context, fsys *volumeFS, paths []string, fn func(tx *volumeTx) error) error {
	var session []byte
	pending := pendingDeletes{b: b, vol: fsys.vol}
	defer pending.unblockOpeners()
	for {
		var orphans []int64
		err := b.ns.db.RunTx(ctx, sqldb.TxOptions{Key: fsys.vol, Lazy: fsys.opts.Batch}, func(t sqldb.Tx) error {
			tx := &volumeTx{Tx: t, b: b, vol: fsys.vol, now: time.Now().UnixNano(), sessionID: session, pending: &pending}
			err := tx.lockAndAuthorize(fsys, paths)
			if err == nil {
				err = fn(tx)
			}
			if err != nil {
				return err
			}
			fsys.quotaHint.Store(tx.row.quota)
			orphans = tx.newOrphans
			return tx.prepareCommit()
		})
		switch {
		case errors.Is(err, errNeedSession):
			if session, err = b.session.ensureSession(ctx); err != nil {
				return err
			}
			continue
		case b.ns.db.IsForeignKeyViolation(err):
			b.ns.reserves.invalidate(b.org)
			// The foreign key of a chunk: the sweeper has taken its blob.
			return driver.Errorf(driver.ErrCorrupt, "the written bytes were garbage collected before they were committed: the write took longer than the grace time; write again, or set a longer grace time")
		case err != nil:
			return err
		}
		return b.reapOrphansOnceClosed(ctx, fsys, orphans)
	}
}

// lockAndAuthorize locks the volume's row, looks paths up, and checks that fsys may change the
// volume: it exists, the attachment of fsys is alive, and no other attachment is the exclusive
// writer.
func (tx *volumeTx) lockAndAuthorize(fsys *volumeFS, paths []string) error {
	tx.walker = pathWalker{db: tx.b.ns.db, run: tx.RunQueries, vol: tx.vol, prefetched: map[string][]inode{}}
	tx.maintenance = fsys.maintenance
	var alive bool
	list := []sqldb.Query{tx.b.lockVolumeQuery(&tx.row, tx.vol)}
	if fsys.attachment != nil {
		list = append(list, sqldb.SelectOne(&alive, []any{new(int)}, `SELECT 1 FROM attachments a JOIN sessions s ON s.id = a.session
			WHERE a.id = $1 AND s.expires > {now}`, fsys.attachment))
	}
	chains := make([][]inode, len(paths))
	for i, p := range paths {
		if ask, ok := lookupPathQuery(tx.b.ns.db, tx.b.org, tx.vol, p, &chains[i]); ok {
			list = append(list, ask)
		}
	}
	if err := tx.RunQueries(list...); err != nil {
		return err
	}
	for i, p := range paths {
		if len(chains[i]) > 0 {
			tx.walker.prefetched[p] = chains[i]
		}
	}
	switch {
	case fsys.attachment != nil && !alive:
		return errAttachmentEnded
	case tx.row.writer != nil && !fsys.maintenance && string(tx.row.writer) != string(fsys.attachment):
		return tx.refuseOrClearFence()
	}
	return nil
}

// refuseOrClearFence is called if the volume has an exclusive writer other than this FS. It returns
// ErrInUse naming the writer, or clears the fence if that writer's session has ended.
func (tx *volumeTx) refuseOrClearFence() error {
	var list []attachment
	if err := tx.RunQueries(tx.b.liveAttachmentsQuery(&list, tx.vol)); err != nil {
		return err
	}
	for _, a := range list {
		if string(a.id) == string(tx.row.writer) {
			return a.inUseError()
		}
	}
	tx.QueueExec(`UPDATE volumes SET writer = NULL WHERE org = $1 AND id = $2`, tx.b.org, tx.vol)
	return nil
}

// checkQuota fails if the volume would hold more bytes or metadata than it may.
func (tx *volumeTx) checkQuota() error {
	if tx.sizeDelta > 0 && tx.row.quota == 0 && tx.sizeDelta > math.MaxInt64-tx.row.used {
		return driver.Errorf(driver.ErrQuota, "the files of a volume can hold at most %d bytes", int64(math.MaxInt64))
	}
	if tx.sizeDelta > 0 && tx.row.quota > 0 && tx.sizeDelta > tx.row.quota-tx.row.used {
		return driver.Errorf(driver.ErrQuota, "%d more bytes exceed the volume's quota of %v; %v are free",
			tx.sizeDelta, driver.Size(tx.row.quota), driver.Size(max(0, tx.row.quota-tx.row.used)))
	}
	return driver.MetadataBounds(driver.Size(tx.row.quota)).Admit(tx.row.storedMetadata(), tx.metaDelta)
}

// prepareCommit is the last step before the commit: it checks the quota, and queues the
// updates of the directories that changed and of the volume's row. Everything else was queued
// before.
func (tx *volumeTx) prepareCommit() error {
	if tx.abortErr != nil {
		return tx.abortErr
	}
	if err := tx.checkQuota(); err != nil {
		return err
	}
	for _, d := range tx.touchedDirs {
		tx.QueueExec(`UPDATE inodes SET mtime = $3, ctime = $3, nlink = nlink + $4 WHERE vol = $1 AND ino = $2`, tx.vol, d.ino, tx.now, d.subdirs)
	}
	used := ", " + usedNow
	if tx.maintenance {
		used = ""
	}
	tx.QueueExec(`UPDATE volumes SET used = used + $3, entries = entries + $4, metadata = metadata + $5, next_ino = $6, generation = generation + 1`+used+`
		WHERE org = $1 AND id = $2`, tx.b.org, tx.vol, tx.sizeDelta, tx.metaDelta.Entries, tx.metaDelta.Bytes, tx.row.nextIno)
	return nil
}

// mustResolve resolves a path, and returns ErrNotExist if nothing is there.
func (tx *volumeTx) mustResolve(path string, mode resolveMode) (resolved, error) {
	target, err := tx.walker.resolve(path, mode)
	if err == nil && target.node == nil {
		err = driver.ErrNotExist
	}
	return target, err
}

// allocateInodeNumber returns the number of a new inode. Numbers are never reused.
func (tx *volumeTx) allocateInodeNumber() int64 {
	tx.row.nextIno++
	return tx.row.nextIno - 1
}

// queueInodeInsert queues the insertion of an inode's row.
func queueInodeInsert(tx sqldb.Tx, vol []byte, n *inode) {
	tx.QueueExec(`INSERT INTO inodes (vol, ino, mode, uid, gid, nlink, size, alloc, atime, mtime, ctime, rdev, target, xattr_bytes)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`,
		vol, n.ino, n.mode, n.uid, n.gid, n.nlink, n.size, n.alloc, n.atime, n.mtime, n.ctime, n.rdev, sqldb.NullIfNil(n.target), n.xattrs)
}

// insertInode queues the insertion of n, and counts its metadata.
func (tx *volumeTx) insertInode(n *inode) {
	queueInodeInsert(tx, tx.vol, n)
	tx.metaDelta = tx.metaDelta.Plus(n.ownMetadata())
}

// createInode creates n, with a new number and the times of now, under a name that is free.
func (tx *volumeTx) createInode(dir *inode, name string, n *inode) {
	n.ino = tx.allocateInodeNumber()
	n.atime, n.mtime, n.ctime = tx.now, tx.now, tx.now
	tx.insertInode(n)
	sub := int64(0)
	if n.isDir() {
		sub = 1
	}
	tx.addDirent(dir, name, n.ino, sub)
}

// addDirent adds a directory entry for an inode; subdirs is 1 if that is a directory, else 0.
func (tx *volumeTx) addDirent(dir *inode, name string, ino, subdirs int64) {
	if driver.ValidateEntryName(name) != nil {
		tx.abortErr = driver.Errorf(driver.ErrInvalid, "%q is not a valid file name", name)
	}
	tx.QueueExec(`INSERT INTO dirents (vol, parent, name, ino) VALUES ($1, $2, $3, $4)`, tx.vol, dir.ino, []byte(name), ino)
	tx.addNameMetadata(name)
	tx.noteTouchedDir(dir.ino, subdirs)
}

// noteTouchedDir notes that entries of a directory change, and by how much the number of
// subdirectories does, which its link count includes.
func (tx *volumeTx) noteTouchedDir(ino, subdirs int64) {
	for i := range tx.touchedDirs {
		if tx.touchedDirs[i].ino == ino {
			tx.touchedDirs[i].subdirs += subdirs
			return
		}
	}
	tx.touchedDirs = append(tx.touchedDirs, touchedDir{ino, subdirs})
}

// touchedDir is a directory whose entries a transaction changes.
type touchedDir struct{ ino, subdirs int64 }

// makeMissingParents creates the directories that are missing on the way to target, and
// returns the directory of its last name.
func (tx *volumeTx) makeMissingParents(target *resolved, perm int64) *inode {
	dir := &target.parent
	for _, name := range target.missingDirs {
		n := &inode{mode: typeDir | perm, nlink: 2}
		tx.createInode(dir, name, n)
		dir = n
	}
	return dir
}

// checkReplaceable returns an error unless rename(2) lets src replace dst.
func (tx *volumeTx) checkReplaceable(src, dst *inode) error {
	switch {
	case src.isDir() && !dst.isDir():
		return driver.ErrNotDir
	case !src.isDir() && dst.isDir():
		return driver.ErrIsDir
	case dst.isDir():
		return tx.checkEmptyDir(dst.ino)
	}
	return nil
}

// checkEmptyDir returns ErrNotEmpty if a directory has entries.
func (tx *volumeTx) checkEmptyDir(dir int64) error {
	var full bool
	err := tx.RunQueries(sqldb.SelectOne(&full, []any{new(int)}, `SELECT 1 FROM dirents WHERE vol = $1 AND parent = $2 LIMIT 1`, tx.vol, dir))
	if err == nil && full {
		err = driver.ErrNotEmpty
	}
	return err
}

// unlinkResolved removes the name that target stands for, of a file or of an empty directory,
// and with the last name the inode.
func (tx *volumeTx) unlinkResolved(target *resolved) {
	tx.removeDirent(target.parent.ino, target.name)
	if target.node.isDir() {
		tx.noteTouchedDir(target.parent.ino, -1)
		tx.deleteInode(target.node)
		return
	}
	tx.noteTouchedDir(target.parent.ino, 0)
	tx.unlinkInode(target.node)
}

// removeDirent deletes a directory entry.
func (tx *volumeTx) removeDirent(dir int64, name string) {
	tx.QueueExec(`DELETE FROM dirents WHERE vol = $1 AND parent = $2 AND name = $3`, tx.vol, dir, []byte(name))
	tx.subtractNameMetadata(name)
}

// unlinkInode takes a name off the link count of a file. With the last name goes the inode,
// unless this process has the file open: then it becomes an orphan of this process's session,
// which the last handle deletes, or maintenance if the session ends first.
func (tx *volumeTx) unlinkInode(n *inode) {
	if n.nlink > 1 {
		tx.QueueExec(`UPDATE inodes SET nlink = nlink - 1, ctime = $3 WHERE vol = $1 AND ino = $2`, tx.vol, n.ino, tx.now)
		return
	}
	if n.isRegular() && !tx.pending.claimUnlessOpen(n.ino) {
		if tx.sessionID == nil {
			tx.abortErr = errNeedSession
			return
		}
		tx.newOrphans = append(tx.newOrphans, n.ino)
		tx.QueueExec(`UPDATE inodes SET nlink = 0, ctime = $3 WHERE vol = $1 AND ino = $2`, tx.vol, n.ino, tx.now)
		tx.QueueExec(`INSERT INTO orphans (vol, ino, session) VALUES ($1, $2, $3)`, tx.vol, n.ino, tx.sessionID)
		return
	}
	if n.isRegular() {
		tx.sizeDelta -= n.size
	}
	tx.deleteInode(n)
}

// deleteInode deletes an inode with its chunks and attributes. The caller takes its size off
// sizeDelta.
func (tx *volumeTx) deleteInode(n *inode) {
	if n.isRegular() && n.alloc > 0 {
		tx.deleteChunksFrom(n.ino, 0)
	}
	if n.xattrs > 0 {
		tx.QueueExec(`DELETE FROM xattrs WHERE vol = $1 AND ino = $2`, tx.vol, n.ino)
	}
	tx.metaDelta = tx.metaDelta.Minus(n.ownMetadata())
	tx.QueueExec(`DELETE FROM inodes WHERE vol = $1 AND ino = $2`, tx.vol, n.ino)
}

// deleteChunksFrom deletes the chunks of a file that begin at pos or later. Triggers of the
// database mark the blobs as freed that lose their last chunk.
func (tx *volumeTx) deleteChunksFrom(ino, pos int64) {
	tx.QueueExec(`DELETE FROM chunks WHERE vol = $1 AND ino = $2 AND pos >= $3`, tx.vol, ino, pos)
}

// inodeQuery selects the row of an inode, or fails with ErrNotExist.
func (tx *volumeTx) inodeQuery(n *inode, ino int64) sqldb.Query {
	missing := driver.Errorf(driver.ErrNotExist, "the file was removed on another host")
	return sqldb.SelectRow(missing, n.scanDest(), `SELECT `+inodeCols+` FROM inodes i WHERE i.vol = $1 AND i.ino = $2`, tx.vol, ino)
}
