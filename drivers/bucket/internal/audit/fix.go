package audit

import (
	"fmt"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/manifest"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/filemode"
	"github.com/volehq/vole/internal/sqldb"
)

// fixer repairs one volume in a transaction, under the lock of its row. Its statements run at
// once and are not queued: each may need to see what earlier ones did. After one that failed none
// runs, so that a repair need not look at err between its steps.
type fixer struct {
	tx           sqldb.Tx
	err          error // of the first statement that failed
	org, vol     []byte
	nextIno      int64 // number of the next inode
	lostFoundIno int64 // inode number of lost+found; 0: not looked up yet
}

// repairSuspects repairs violations of a rule, and updates the volume's counts of metadata by
// what the repair changed. Whether they were right before is checked by other rules.
func (f *fixer) repairSuspects(r *rule, list []suspect) error {
	before := f.countMetadata()
	for i := range list {
		r.fix(f, &list[i])
	}
	if grown := f.countMetadata().Minus(before); grown != (driver.Metadata{}) {
		f.execOnVolume(`UPDATE volumes SET entries = entries + $3, metadata = metadata + $4 WHERE id = $1 AND org = $2`, f.org, grown.Entries, grown.Bytes)
	}
	return f.err
}

// runQuery runs one query, unless an earlier one has failed.
func (f *fixer) runQuery(q sqldb.Query) {
	if f.err == nil {
		f.err = f.tx.RunQueries(q)
	}
}

// countMetadata counts the volume's metadata in its rows.
func (f *fixer) countMetadata() (m driver.Metadata) {
	f.runQuery(sqldb.SelectAggregate([]any{&m.Entries, &m.Bytes}, rows.CountMetadata, f.vol))
	return m
}

// execOnVolume runs a statement with the volume as $1 and args after it.
func (f *fixer) execOnVolume(sql string, args ...any) {
	f.runQuery(sqldb.Statement(sql, append([]any{f.vol}, args...)...))
}

// insertInodeNow inserts an inode with the times of now.
func (f *fixer) insertInodeNow(n manifest.Inode) {
	now := time.Now().UnixNano()
	f.execOnVolume(`INSERT INTO inodes (vol, ino, mode, uid, gid, nlink, size, alloc, atime, mtime, ctime, rdev)
		VALUES ($1, $2, $3, 0, 0, $4, $5, $6, $7, $7, $7, 0)`, n.Ino, n.Mode, n.Nlink, n.Size, n.Alloc, now)
}

// makeRootDirectory inserts the missing root directory.
func (f *fixer) makeRootDirectory(*suspect) {
	f.insertInodeNow(manifest.Inode{Ino: manifest.RootIno, Mode: filemode.Dir | 0o755, Nlink: 2})
	f.recountLinks(manifest.RootIno)
}

// recreateInode inserts a missing inode of orphaned chunks. Its original mode is lost; 0600 is
// used.
func (f *fixer) recreateInode(s *suspect) {
	f.insertInodeNow(manifest.Inode{Ino: s.ino, Mode: filemode.File | 0o600, Size: s.want, Alloc: s.have})
	f.recountLinks(s.ino)
}

// recountLinks sets the link count of an inode from the entries: a directory has two, and one for
// each subdirectory; of a file only names in inodes that are directories count.
func (f *fixer) recountLinks(ino int64) {
	f.execOnVolume(`UPDATE inodes SET nlink = CASE WHEN mode BETWEEN 16384 AND 20479
			THEN 2 + (SELECT count(*) FROM dirents e JOIN inodes d ON d.vol = e.vol AND d.ino = e.ino AND d.mode BETWEEN 16384 AND 20479
				WHERE e.vol = $1 AND e.parent = $2)
			ELSE (SELECT count(*) FROM dirents e JOIN inodes p ON p.vol = e.vol AND p.ino = e.parent AND p.mode BETWEEN 16384 AND 20479
				WHERE e.vol = $1 AND e.ino = $2) END
		WHERE vol = $1 AND ino = $2`, ino)
}

// raiseNextInode sets the number of the next inode above those in use.
func (f *fixer) raiseNextInode(s *suspect) {
	f.nextIno = s.want + 1
	f.execOnVolume(`UPDATE volumes SET next_ino = $3 WHERE id = $1 AND org = $2`, f.org, f.nextIno)
}

// removeBadDirent removes an entry of directory s.ino that names inode s.have.
func (f *fixer) removeBadDirent(s *suspect) {
	f.execOnVolume(`DELETE FROM dirents WHERE vol = $1 AND parent = $2 AND name = $3`, s.ino, s.name)
	f.recountLinks(s.ino)
	f.execOnVolume(`UPDATE inodes SET nlink = nlink - 1 WHERE vol = $1 AND ino = $2 AND nlink > 0 AND mode NOT BETWEEN 16384 AND 20479
		AND nlink > (SELECT count(*) FROM dirents e WHERE e.vol = $1 AND e.ino = $2)`, s.have)
}

// adoptNamedOrphan takes an inode that has a name off the list of orphans, which would be
// deleted.
func (f *fixer) adoptNamedOrphan(s *suspect) {
	f.removeOrphanRow(s)
	f.recountLinks(s.ino)
}

// removeOrphanRow takes an inode off the list of orphans.
func (f *fixer) removeOrphanRow(s *suspect) {
	f.execOnVolume(`DELETE FROM orphans WHERE vol = $1 AND ino = $2`, s.ino)
}

// removeStrayXattrs removes the attributes of an inode.
func (f *fixer) removeStrayXattrs(s *suspect) {
	f.execOnVolume(`DELETE FROM xattrs WHERE vol = $1 AND ino = $2`, s.ino)
}

// breakCycle takes a directory out of a cycle, and puts it into lost+found.
func (f *fixer) breakCycle(s *suspect) {
	var parents []int64
	f.runQuery(sqldb.SelectAll(&parents, func(n *int64) []any { return []any{n} }, `SELECT parent FROM dirents WHERE vol = $1 AND ino = $2`, f.vol, s.ino))
	f.execOnVolume(`DELETE FROM dirents WHERE vol = $1 AND ino = $2`, s.ino)
	for _, p := range parents {
		f.recountLinks(p)
	}
	f.linkIntoLostFound(s)
}

// linkIntoLostFound gives an inode the name "#" and its number in lost+found.
func (f *fixer) linkIntoLostFound(s *suspect) {
	f.ensureLostFound()
	f.addUniqueDirent(f.lostFoundIno, fmt.Sprintf("#%d", s.ino), s.ino)
	f.recountLinks(f.lostFoundIno)
	f.recountLinks(s.ino)
}

// addUniqueDirent adds an entry, with a number behind its name if that is taken.
func (f *fixer) addUniqueDirent(dir int64, name string, ino int64) {
	for try := 0; ; try++ {
		n := name
		if try > 0 {
			n = fmt.Sprintf("%s.%d", name, try)
		}
		var taken bool
		f.runQuery(sqldb.SelectOne(&taken, []any{new(int)}, `SELECT 1 FROM dirents WHERE vol = $1 AND parent = $2 AND name = $3`, f.vol, dir, []byte(n)))
		if !taken {
			f.execOnVolume(`INSERT INTO dirents (vol, parent, name, ino) VALUES ($1, $2, $3, $4)`, dir, []byte(n), ino)
			return
		}
	}
}

// ensureLostFound finds the directory lost+found in the root, or makes it. If that name is
// taken by a file, it may have a number behind it.
func (f *fixer) ensureLostFound() {
	if f.lostFoundIno != 0 {
		return
	}
	var found bool
	f.runQuery(sqldb.SelectOne(&found, []any{&f.lostFoundIno}, `SELECT i.ino FROM dirents e JOIN inodes i ON i.vol = e.vol AND i.ino = e.ino
		WHERE e.vol = $1 AND e.parent = 1 AND e.name >= $2 AND e.name < $3 AND i.mode BETWEEN 16384 AND 20479 ORDER BY e.name LIMIT 1`,
		f.vol, []byte("lost+found"), []byte("lost+found/")))
	if f.err != nil || found {
		return
	}
	f.lostFoundIno = f.nextIno
	f.insertInodeNow(manifest.Inode{Ino: f.lostFoundIno, Mode: filemode.Dir | 0o700, Nlink: 2})
	f.addUniqueDirent(manifest.RootIno, "lost+found", f.lostFoundIno)
	f.nextIno++
	f.execOnVolume(`UPDATE volumes SET next_ino = $3 WHERE id = $1 AND org = $2`, f.org, f.nextIno)
	f.recountLinks(manifest.RootIno)
}

// setInodeColumn returns a repair that sets a column of an inode to s.want.
func setInodeColumn(column string) func(f *fixer, s *suspect) {
	return func(f *fixer, s *suspect) {
		f.execOnVolume(`UPDATE inodes SET `+column+` = $3 WHERE vol = $1 AND ino = $2`, s.ino, s.want)
	}
}

// setVolumeColumn returns a repair that sets a column of the volume's row to s.want.
func setVolumeColumn(column string) func(f *fixer, s *suspect) {
	return func(f *fixer, s *suspect) {
		f.execOnVolume(`UPDATE volumes SET `+column+` = $3 WHERE id = $1 AND org = $2`, f.org, s.want)
	}
}

// deleteChunksWhere deletes the chunks of an inode for which cond, with arg as $3, holds.
func (f *fixer) deleteChunksWhere(ino int64, cond string, arg int64) {
	f.execOnVolume(`DELETE FROM chunks WHERE vol = $1 AND ino = $2 AND `+cond, ino, arg)
}

// deleteAllChunks deletes the chunks of an inode that is no file.
func (f *fixer) deleteAllChunks(s *suspect) {
	f.deleteChunksWhere(s.ino, `pos >= $3`, -1<<63)
	f.execOnVolume(`UPDATE inodes SET alloc = 0 WHERE vol = $1 AND ino = $2`, s.ino)
}

// deleteEmptyChunks deletes the chunks of a file that have no bytes.
func (f *fixer) deleteEmptyChunks(s *suspect) {
	f.deleteChunksWhere(s.ino, `len <= $3`, 0)
	f.recountAllocatedBytes(s.ino)
}

// trimChunksToSize cuts chunks at the end of the file: no reader sees what lies behind it, but
// it would appear if the file grew.
func (f *fixer) trimChunksToSize(s *suspect) {
	var size int64
	// ErrNotExist is impossible: the volume is locked.
	f.runQuery(sqldb.SelectRow(driver.ErrNotExist, []any{&size}, `SELECT size FROM inodes WHERE vol = $1 AND ino = $2`, f.vol, s.ino))
	f.deleteChunksWhere(s.ino, `pos >= $3`, size)
	f.execOnVolume(`UPDATE chunks SET len = $3 - pos WHERE vol = $1 AND ino = $2 AND pos >= 0 AND pos + len > $3`, s.ino, size)
	f.recountAllocatedBytes(s.ino)
}

// recountAllocatedBytes sets the allocated bytes of a file from its chunks.
func (f *fixer) recountAllocatedBytes(ino int64) {
	f.execOnVolume(`UPDATE inodes SET alloc = (SELECT CAST(coalesce(sum(k.len), 0) AS BIGINT) FROM chunks k WHERE k.vol = $1 AND k.ino = $2)
		WHERE vol = $1 AND ino = $2`, ino)
}
