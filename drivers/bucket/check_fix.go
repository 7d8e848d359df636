package bucket

import (
	"fmt"
	"time"

	"github.com/volehq/vole/driver"
)

// fixer repairs one volume in a transaction, under the lock of its row. Statements run
// at once: a later one may need to see what an earlier one did.
type fixer struct {
	tx
	org, vol []byte
	v        volume
	lost     int64 // the inode of lost+found; 0: not looked up yet
}

// repair repairs what breaks a rule, and takes into the volume's counts what that changed
// of its metadata. Whether they were right before is the affair of rules of their own.
func (f *fixer) repair(r *rule, list []suspect) error {
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
	return f.exec(`UPDATE volumes SET entries = entries + $3, metadata = metadata + $4 WHERE id = $1 AND org = $2`, f.org, grown.Entries, grown.Bytes)
}

func (f *fixer) countMetadata() (m driver.Metadata, err error) {
	var found bool
	err = f.run(one(&found, []any{&m.Entries, &m.Bytes}, countMetadata, f.vol))
	return m, err
}

func (f *fixer) exec(sql string, args ...any) error {
	return f.run(q(sql, append([]any{f.vol}, args...)...))
}

// insert makes an inode of this moment.
func (f *fixer) insert(n inode) error {
	now := time.Now().UnixNano()
	return f.exec(`INSERT INTO inodes (vol, ino, mode, uid, gid, nlink, size, alloc, atime, mtime, ctime, rdev)
		VALUES ($1, $2, $3, 0, 0, $4, $5, $6, $7, $7, $7, 0)`, n.ino, n.mode, n.nlink, n.size, n.alloc, now)
}

// root makes the root directory.
func (f *fixer) root(*suspect) error {
	if err := f.insert(inode{ino: rootIno, mode: typeDir | 0o755, nlink: 2}); err != nil {
		return err
	}
	return f.recount(rootIno)
}

// restore makes an inode for chunks. What was its mode, only they knew who wrote it.
func (f *fixer) restore(s *suspect) error {
	if err := f.insert(inode{ino: s.ino, mode: typeFile | 0o600, size: s.want, alloc: s.have}); err != nil {
		return err
	}
	return f.recount(s.ino)
}

// recount gives an inode its right link count.
func (f *fixer) recount(ino int64) error {
	return f.exec(`UPDATE inodes SET nlink = CASE WHEN mode BETWEEN 16384 AND 20479
			THEN 2 + (SELECT count(*) FROM dirents e JOIN inodes d ON d.vol = e.vol AND d.ino = e.ino AND d.mode BETWEEN 16384 AND 20479
				WHERE e.vol = $1 AND e.parent = $2)
			ELSE (SELECT count(*) FROM dirents e JOIN inodes p ON p.vol = e.vol AND p.ino = e.parent AND p.mode BETWEEN 16384 AND 20479
				WHERE e.vol = $1 AND e.ino = $2) END
		WHERE vol = $1 AND ino = $2`, ino)
}

func (f *fixer) nextIno(s *suspect) error {
	f.v.nextIno = s.want + 1
	return f.exec(`UPDATE volumes SET next_ino = $3 WHERE id = $1 AND org = $2`, f.org, f.v.nextIno)
}

// removeEntry removes a name of inode s.have.
func (f *fixer) removeEntry(s *suspect) error {
	if err := f.exec(`DELETE FROM dirents WHERE vol = $1 AND parent = $2 AND name = $3`, s.ino, s.name); err != nil {
		return err
	}
	if err := f.recount(s.ino); err != nil {
		return err
	}
	return f.exec(`UPDATE inodes SET nlink = nlink - 1 WHERE vol = $1 AND ino = $2 AND nlink > 0 AND mode NOT BETWEEN 16384 AND 20479
		AND nlink > (SELECT count(*) FROM dirents e WHERE e.vol = $1 AND e.ino = $2)`, s.have)
}

// adopt takes an inode that has names off the list of those that have none.
func (f *fixer) adopt(s *suspect) error {
	if err := f.removeOrphan(s); err != nil {
		return err
	}
	return f.recount(s.ino)
}

func (f *fixer) removeOrphan(s *suspect) error {
	return f.exec(`DELETE FROM orphans WHERE vol = $1 AND ino = $2`, s.ino)
}

func (f *fixer) removeXattrs(s *suspect) error {
	return f.exec(`DELETE FROM xattrs WHERE vol = $1 AND ino = $2`, s.ino)
}

// cut takes a directory out of a cycle.
func (f *fixer) cut(s *suspect) error {
	var parents []int64
	err := f.run(all(&parents, func(n *int64) []any { return []any{n} }, `SELECT parent FROM dirents WHERE vol = $1 AND ino = $2`, f.vol, s.ino))
	if err == nil {
		err = f.exec(`DELETE FROM dirents WHERE vol = $1 AND ino = $2`, s.ino)
	}
	for _, p := range parents {
		if err == nil {
			err = f.recount(p)
		}
	}
	if err != nil {
		return err
	}
	return f.link(s)
}

// link gives an inode a name in lost+found.
func (f *fixer) link(s *suspect) error {
	if err := f.lostFound(); err != nil {
		return err
	}
	name := fmt.Sprintf("#%d", s.ino)
	if err := f.name(f.lost, name, s.ino); err != nil {
		return err
	}
	if err := f.recount(f.lost); err != nil {
		return err
	}
	return f.recount(s.ino)
}

// name adds an entry, under another name when that one is taken.
func (f *fixer) name(dir int64, name string, ino int64) error {
	for try := 0; ; try++ {
		n := name
		if try > 0 {
			n = fmt.Sprintf("%s.%d", name, try)
		}
		var taken bool
		if err := f.run(one(&taken, []any{new(int)}, `SELECT 1 FROM dirents WHERE vol = $1 AND parent = $2 AND name = $3`, f.vol, dir, []byte(n))); err != nil {
			return err
		}
		if !taken {
			return f.exec(`INSERT INTO dirents (vol, parent, name, ino) VALUES ($1, $2, $3, $4)`, dir, []byte(n), ino)
		}
	}
}

// lostFound looks the directory lost+found up, or makes it.
func (f *fixer) lostFound() error {
	if f.lost != 0 {
		return nil
	}
	var found bool
	err := f.run(one(&found, []any{&f.lost}, `SELECT i.ino FROM dirents e JOIN inodes i ON i.vol = e.vol AND i.ino = e.ino
		WHERE e.vol = $1 AND e.parent = 1 AND e.name >= $2 AND e.name < $3 AND i.mode BETWEEN 16384 AND 20479 ORDER BY e.name LIMIT 1`,
		f.vol, []byte("lost+found"), []byte("lost+found/")))
	if err != nil || found {
		return err
	}
	f.lost = f.v.nextIno
	if err := f.insert(inode{ino: f.lost, mode: typeDir | 0o700, nlink: 2}); err != nil {
		return err
	}
	if err := f.name(rootIno, "lost+found", f.lost); err != nil {
		return err
	}
	f.v.nextIno++
	if err := f.exec(`UPDATE volumes SET next_ino = $3 WHERE id = $1 AND org = $2`, f.org, f.v.nextIno); err != nil {
		return err
	}
	return f.recount(rootIno)
}

func (f *fixer) nlink(s *suspect) error {
	return f.exec(`UPDATE inodes SET nlink = $3 WHERE vol = $1 AND ino = $2`, s.ino, s.want)
}

func (f *fixer) alloc(s *suspect) error {
	return f.exec(`UPDATE inodes SET alloc = $3 WHERE vol = $1 AND ino = $2`, s.ino, s.want)
}

func (f *fixer) used(s *suspect) error {
	return f.exec(`UPDATE volumes SET used = $3 WHERE id = $1 AND org = $2`, f.org, s.want)
}

func (f *fixer) xattrBytes(s *suspect) error {
	return f.exec(`UPDATE inodes SET xattr_bytes = $3 WHERE vol = $1 AND ino = $2`, s.ino, s.want)
}

func (f *fixer) entries(s *suspect) error {
	return f.exec(`UPDATE volumes SET entries = $3 WHERE id = $1 AND org = $2`, f.org, s.want)
}

func (f *fixer) metadata(s *suspect) error {
	return f.exec(`UPDATE volumes SET metadata = $3 WHERE id = $1 AND org = $2`, f.org, s.want)
}

// dropChunks removes chunks of an inode for which cond holds. $3 is arg.
func (f *fixer) dropChunks(ino int64, cond string, arg int64) error {
	return f.exec(`DELETE FROM chunks WHERE vol = $1 AND ino = $2 AND `+cond, ino, arg)
}

func (f *fixer) removeChunks(s *suspect) error {
	if err := f.dropChunks(s.ino, `pos >= $3`, -1<<63); err != nil {
		return err
	}
	return f.exec(`UPDATE inodes SET alloc = 0 WHERE vol = $1 AND ino = $2`, s.ino)
}

func (f *fixer) removeEmpty(s *suspect) error {
	if err := f.dropChunks(s.ino, `len <= $3`, 0); err != nil {
		return err
	}
	return f.realloc(s.ino)
}

// cutChunks takes away what no reader sees, and what would come back if the file grew.
func (f *fixer) cutChunks(s *suspect) error {
	var n inode
	var found bool
	err := f.run(one(&found, n.dest(), `SELECT `+inodeCols+` FROM inodes i WHERE i.vol = $1 AND i.ino = $2`, f.vol, s.ino))
	if err == nil && !found {
		err = driver.ErrNotExist // cannot be: the volume is locked
	}
	if err == nil {
		err = f.dropChunks(s.ino, `pos >= $3`, n.size)
	}
	if err == nil {
		err = f.exec(`UPDATE chunks SET len = $3 - pos WHERE vol = $1 AND ino = $2 AND pos >= 0 AND pos + len > $3`, s.ino, n.size)
	}
	if err != nil {
		return err
	}
	return f.realloc(s.ino)
}

func (f *fixer) realloc(ino int64) error {
	return f.exec(`UPDATE inodes SET alloc = (SELECT CAST(coalesce(sum(k.len), 0) AS BIGINT) FROM chunks k WHERE k.vol = $1 AND k.ino = $2)
		WHERE vol = $1 AND ino = $2`, ino)
}
