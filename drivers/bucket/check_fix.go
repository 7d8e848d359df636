package bucket

import (
	"fmt"
	"time"

	"github.com/volehq/vole/driver"
)

// fixer repairs one volume in a transaction, under the lock of its row. Statements run
// at once: a later one may need to see what an earlier one did.
type fixer struct {
	sqlTx
	org, vol     []byte
	row          volumeRow
	lostFoundIno int64 // the inode of lost+found; 0: not looked up yet
}

// repairSuspects repairs what breaks a rule, and takes into the volume's counts what that changed
// of its metadata. Whether they were right before is the affair of rules of their own.
func (f *fixer) repairSuspects(r *rule, list []suspect) error {
	before, err := f.countMetadata()
	if err != nil {
		return err
	}
	for i := range list {
		if err := r.fix(f, &list[i]); err != nil {
			return err
		}
	}
	after, err := f.countMetadata()
	if err != nil || after == before {
		return err
	}
	grown := after.Minus(before)
	return f.execOnVolume(`UPDATE volumes SET entries = entries + $3, metadata = metadata + $4 WHERE id = $1 AND org = $2`, f.org, grown.Entries, grown.Bytes)
}

func (f *fixer) countMetadata() (m driver.Metadata, err error) {
	var found bool
	err = f.runQueries(selectOne(&found, []any{&m.Entries, &m.Bytes}, countMetadata, f.vol))
	return m, err
}

func (f *fixer) execOnVolume(sql string, args ...any) error {
	return f.runQueries(statement(sql, append([]any{f.vol}, args...)...))
}

// insertInodeNow makes an inode of this moment.
func (f *fixer) insertInodeNow(n inode) error {
	now := time.Now().UnixNano()
	return f.execOnVolume(`INSERT INTO inodes (vol, ino, mode, uid, gid, nlink, size, alloc, atime, mtime, ctime, rdev)
		VALUES ($1, $2, $3, 0, 0, $4, $5, $6, $7, $7, $7, 0)`, n.ino, n.mode, n.nlink, n.size, n.alloc, now)
}

// makeRootDirectory makes the root directory.
func (f *fixer) makeRootDirectory(*suspect) error {
	if err := f.insertInodeNow(inode{ino: rootIno, mode: typeDir | 0o755, nlink: 2}); err != nil {
		return err
	}
	return f.recountLinks(rootIno)
}

// recreateInode makes an inode for chunks. What was its mode, only they knew who wrote it.
func (f *fixer) recreateInode(s *suspect) error {
	if err := f.insertInodeNow(inode{ino: s.ino, mode: typeFile | 0o600, size: s.want, alloc: s.have}); err != nil {
		return err
	}
	return f.recountLinks(s.ino)
}

// recountLinks gives an inode its right link count.
func (f *fixer) recountLinks(ino int64) error {
	return f.execOnVolume(`UPDATE inodes SET nlink = CASE WHEN mode BETWEEN 16384 AND 20479
			THEN 2 + (SELECT count(*) FROM dirents e JOIN inodes d ON d.vol = e.vol AND d.ino = e.ino AND d.mode BETWEEN 16384 AND 20479
				WHERE e.vol = $1 AND e.parent = $2)
			ELSE (SELECT count(*) FROM dirents e JOIN inodes p ON p.vol = e.vol AND p.ino = e.parent AND p.mode BETWEEN 16384 AND 20479
				WHERE e.vol = $1 AND e.ino = $2) END
		WHERE vol = $1 AND ino = $2`, ino)
}

func (f *fixer) raiseNextInode(s *suspect) error {
	f.row.nextIno = s.want + 1
	return f.execOnVolume(`UPDATE volumes SET next_ino = $3 WHERE id = $1 AND org = $2`, f.org, f.row.nextIno)
}

// removeBadDirent removes a name of inode s.have.
func (f *fixer) removeBadDirent(s *suspect) error {
	if err := f.execOnVolume(`DELETE FROM dirents WHERE vol = $1 AND parent = $2 AND name = $3`, s.ino, s.name); err != nil {
		return err
	}
	if err := f.recountLinks(s.ino); err != nil {
		return err
	}
	return f.execOnVolume(`UPDATE inodes SET nlink = nlink - 1 WHERE vol = $1 AND ino = $2 AND nlink > 0 AND mode NOT BETWEEN 16384 AND 20479
		AND nlink > (SELECT count(*) FROM dirents e WHERE e.vol = $1 AND e.ino = $2)`, s.have)
}

// adoptNamedOrphan takes an inode that has names off the list of those that have none.
func (f *fixer) adoptNamedOrphan(s *suspect) error {
	if err := f.removeOrphanRow(s); err != nil {
		return err
	}
	return f.recountLinks(s.ino)
}

func (f *fixer) removeOrphanRow(s *suspect) error {
	return f.execOnVolume(`DELETE FROM orphans WHERE vol = $1 AND ino = $2`, s.ino)
}

func (f *fixer) removeStrayXattrs(s *suspect) error {
	return f.execOnVolume(`DELETE FROM xattrs WHERE vol = $1 AND ino = $2`, s.ino)
}

// breakCycle takes a directory out of a cycle.
func (f *fixer) breakCycle(s *suspect) error {
	var parents []int64
	err := f.runQueries(selectAll(&parents, func(n *int64) []any { return []any{n} }, `SELECT parent FROM dirents WHERE vol = $1 AND ino = $2`, f.vol, s.ino))
	if err == nil {
		err = f.execOnVolume(`DELETE FROM dirents WHERE vol = $1 AND ino = $2`, s.ino)
	}
	for _, p := range parents {
		if err == nil {
			err = f.recountLinks(p)
		}
	}
	if err != nil {
		return err
	}
	return f.linkIntoLostFound(s)
}

// linkIntoLostFound gives an inode a name in lost+found.
func (f *fixer) linkIntoLostFound(s *suspect) error {
	if err := f.ensureLostFound(); err != nil {
		return err
	}
	name := fmt.Sprintf("#%d", s.ino)
	if err := f.addUniqueDirent(f.lostFoundIno, name, s.ino); err != nil {
		return err
	}
	if err := f.recountLinks(f.lostFoundIno); err != nil {
		return err
	}
	return f.recountLinks(s.ino)
}

// addUniqueDirent adds an entry, under another name when that one is taken.
func (f *fixer) addUniqueDirent(dir int64, name string, ino int64) error {
	for try := 0; ; try++ {
		n := name
		if try > 0 {
			n = fmt.Sprintf("%s.%d", name, try)
		}
		var taken bool
		if err := f.runQueries(selectOne(&taken, []any{new(int)}, `SELECT 1 FROM dirents WHERE vol = $1 AND parent = $2 AND name = $3`, f.vol, dir, []byte(n))); err != nil {
			return err
		}
		if !taken {
			return f.execOnVolume(`INSERT INTO dirents (vol, parent, name, ino) VALUES ($1, $2, $3, $4)`, dir, []byte(n), ino)
		}
	}
}

// ensureLostFound looks the directory lost+found up, or makes it.
func (f *fixer) ensureLostFound() error {
	if f.lostFoundIno != 0 {
		return nil
	}
	var found bool
	err := f.runQueries(selectOne(&found, []any{&f.lostFoundIno}, `SELECT i.ino FROM dirents e JOIN inodes i ON i.vol = e.vol AND i.ino = e.ino
		WHERE e.vol = $1 AND e.parent = 1 AND e.name >= $2 AND e.name < $3 AND i.mode BETWEEN 16384 AND 20479 ORDER BY e.name LIMIT 1`,
		f.vol, []byte("lost+found"), []byte("lost+found/")))
	if err != nil || found {
		return err
	}
	f.lostFoundIno = f.row.nextIno
	if err := f.insertInodeNow(inode{ino: f.lostFoundIno, mode: typeDir | 0o700, nlink: 2}); err != nil {
		return err
	}
	if err := f.addUniqueDirent(rootIno, "lost+found", f.lostFoundIno); err != nil {
		return err
	}
	f.row.nextIno++
	if err := f.execOnVolume(`UPDATE volumes SET next_ino = $3 WHERE id = $1 AND org = $2`, f.org, f.row.nextIno); err != nil {
		return err
	}
	return f.recountLinks(rootIno)
}

func (f *fixer) setLinkCount(s *suspect) error {
	return f.execOnVolume(`UPDATE inodes SET nlink = $3 WHERE vol = $1 AND ino = $2`, s.ino, s.want)
}

func (f *fixer) setAllocatedBytes(s *suspect) error {
	return f.execOnVolume(`UPDATE inodes SET alloc = $3 WHERE vol = $1 AND ino = $2`, s.ino, s.want)
}

func (f *fixer) setVolumeUsage(s *suspect) error {
	return f.execOnVolume(`UPDATE volumes SET used = $3 WHERE id = $1 AND org = $2`, f.org, s.want)
}

func (f *fixer) setXattrBytes(s *suspect) error {
	return f.execOnVolume(`UPDATE inodes SET xattr_bytes = $3 WHERE vol = $1 AND ino = $2`, s.ino, s.want)
}

func (f *fixer) setVolumeEntries(s *suspect) error {
	return f.execOnVolume(`UPDATE volumes SET entries = $3 WHERE id = $1 AND org = $2`, f.org, s.want)
}

func (f *fixer) setVolumeMetadata(s *suspect) error {
	return f.execOnVolume(`UPDATE volumes SET metadata = $3 WHERE id = $1 AND org = $2`, f.org, s.want)
}

// deleteChunksWhere removes chunks of an inode for which cond holds. $3 is arg.
func (f *fixer) deleteChunksWhere(ino int64, cond string, arg int64) error {
	return f.execOnVolume(`DELETE FROM chunks WHERE vol = $1 AND ino = $2 AND `+cond, ino, arg)
}

func (f *fixer) deleteAllChunks(s *suspect) error {
	if err := f.deleteChunksWhere(s.ino, `pos >= $3`, -1<<63); err != nil {
		return err
	}
	return f.execOnVolume(`UPDATE inodes SET alloc = 0 WHERE vol = $1 AND ino = $2`, s.ino)
}

func (f *fixer) deleteEmptyChunks(s *suspect) error {
	if err := f.deleteChunksWhere(s.ino, `len <= $3`, 0); err != nil {
		return err
	}
	return f.recountAllocatedBytes(s.ino)
}

// trimChunksToSize takes away what no reader sees, and what would come back if the file grew.
func (f *fixer) trimChunksToSize(s *suspect) error {
	var n inode
	var found bool
	err := f.runQueries(selectOne(&found, n.scanDest(), `SELECT `+inodeCols+` FROM inodes i WHERE i.vol = $1 AND i.ino = $2`, f.vol, s.ino))
	if err == nil && !found {
		err = driver.ErrNotExist // cannot be: the volume is locked
	}
	if err == nil {
		err = f.deleteChunksWhere(s.ino, `pos >= $3`, n.size)
	}
	if err == nil {
		err = f.execOnVolume(`UPDATE chunks SET len = $3 - pos WHERE vol = $1 AND ino = $2 AND pos >= 0 AND pos + len > $3`, s.ino, n.size)
	}
	if err != nil {
		return err
	}
	return f.recountAllocatedBytes(s.ino)
}

func (f *fixer) recountAllocatedBytes(ino int64) error {
	return f.execOnVolume(`UPDATE inodes SET alloc = (SELECT CAST(coalesce(sum(k.len), 0) AS BIGINT) FROM chunks k WHERE k.vol = $1 AND k.ino = $2)
		WHERE vol = $1 AND ino = $2`, ino)
}
