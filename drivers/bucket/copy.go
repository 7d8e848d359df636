package bucket

import (
	"context"
	"slices"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/sqldb"
)

// Copy implements driver.FS. No bytes are moved: the chunks of the copy refer to the same
// blobs.
func (fsys *volumeFS) Copy(ctx context.Context, from, to string, opts driver.CopyOptions) error {
	defer fsys.b.ns.metrics.observeSince("fs_copy", time.Now())
	if err := fsys.checkWritable(ctx); err != nil {
		return err
	}
	// The copy has only what is committed.
	if err := fsys.b.flushVolume(ctx, fsys.vol); err != nil {
		return err
	}
	return fsys.runTxIfWritable(ctx, []string{from, to}, func(tx *volumeTx) error {
		src, err := tx.mustResolve(from, resolveMode{})
		if err != nil {
			return err
		}
		dst, err := tx.walker.resolve(to, resolveMode{allowMissingParents: true})
		if err != nil {
			return err
		}
		if src.node.isDir() {
			return tx.copyTree(&src, &dst)
		}
		if dst.node != nil {
			switch {
			case opts.NoReplace:
				return driver.ErrExists
			case dst.node.ino == src.node.ino:
				return nil
			case src.node.isSymlink() && tx.linkLeadsTo(from, dst.node.ino):
				return nil // a link is copied onto the file that it leads to
			case dst.node.isDir():
				return driver.ErrIsDir
			}
		}
		tx.copyFile(src.node, &dst)
		return nil
	})
}

// linkLeadsTo reports whether a symbolic link leads to an inode.
func (tx *volumeTx) linkLeadsTo(link string, ino int64) bool {
	target, err := tx.walker.resolve(link, resolveMode{followLast: true})
	return err == nil && target.node != nil && target.node.ino == ino
}

// copyFile copies a file, link or special file, with its times, attributes and chunks, to dst,
// where it replaces an existing one.
func (tx *volumeTx) copyFile(src *inode, dst *resolved) {
	n := *src
	n.nlink = 1
	if n.isRegular() {
		tx.sizeDelta += n.size
	}
	tx.replaceInode(dst, &n)
	// replaceInode has set the times to now.
	tx.QueueExec(`UPDATE inodes SET atime = $3, mtime = $4 WHERE vol = $1 AND ino = $2`, tx.vol, n.ino, src.atime, src.mtime)
	tx.QueueExec(`INSERT INTO xattrs (vol, ino, name, value) SELECT vol, CAST($3 AS BIGINT), name, value FROM xattrs WHERE vol = $1 AND ino = $2`,
		tx.vol, src.ino, n.ino)
	tx.QueueExec(`INSERT INTO chunks (vol, ino, pos, len, org, blob, blob_pos)
		SELECT vol, CAST($3 AS BIGINT), pos, len, org, blob, blob_pos FROM chunks WHERE vol = $1 AND ino = $2`, tx.vol, src.ino, n.ino)
}

// copyTree copies all rows of a tree in one transaction, by a few statements on sets. A
// temporary table, tree, maps the inode numbers of the source to those of the copy.
func (tx *volumeTx) copyTree(src, dst *resolved) error {
	if dst.node != nil {
		return driver.ErrExists
	}
	if slices.Contains(dst.ancestors, src.node.ino) {
		return driver.Errorf(driver.ErrInvalid, "a directory cannot be copied into itself")
	}
	var n, size, root int64
	var names, own driver.Metadata
	var found bool
	// Not in one batch: all its statements would be planned before the table is filled.
	for _, ask := range []sqldb.Query{
		sqldb.Statement(createTree), sqldb.Statement(`DELETE FROM tree`),
		sqldb.Statement(`INSERT INTO tree (ino, nino)
			WITH RECURSIVE s (ino) AS (SELECT CAST($2 AS BIGINT) UNION SELECT e.ino FROM s {each dirents e: e.vol = $1 AND e.parent = s.ino})
			SELECT ino, CAST($3 AS BIGINT) + row_number() OVER (ORDER BY ino) - 1 FROM s`, tx.vol, src.node.ino, tx.row.nextIno),
		sqldb.Statement(`{analyze}`),
		sqldb.SelectAggregate([]any{&n, &size, &own.Bytes}, `SELECT count(*), CAST(coalesce(sum(CASE WHEN i.mode BETWEEN 32768 AND 36863 THEN i.size ELSE 0 END), 0) AS BIGINT),
			CAST(coalesce(sum(coalesce(length(i.target), 0) + i.xattr_bytes), 0) AS BIGINT)
			FROM tree t {each inodes i: i.vol = $1 AND i.ino = t.ino}`, tx.vol),
		sqldb.SelectAggregate([]any{&names.Entries, &names.Bytes}, `SELECT count(*), CAST(coalesce(sum(length(e.name)), 0) AS BIGINT)
			FROM tree p {each dirents e: e.vol = $1 AND e.parent = p.ino} {each tree t: t.ino = e.ino}`, tx.vol),
		sqldb.SelectOne(&found, []any{&root}, `SELECT nino FROM tree WHERE ino = $1`, src.node.ino),
	} {
		if err := tx.RunQueries(ask); err != nil {
			return err
		}
	}
	tx.row.nextIno += n
	tx.sizeDelta += size
	tx.metaDelta = tx.metaDelta.Plus(names).Plus(own)
	tx.copyTreeRows()
	dir := tx.makeMissingParents(dst, 0o755)
	tx.addDirent(dir, dst.name, root, 1)
	return nil
}

// copyTreeRows queues the copies of the rows of the inodes in the table tree. Names that hard
// links have outside the tree are not copied, so link counts are recounted.
func (tx *volumeTx) copyTreeRows() {
	tx.QueueExec(`INSERT INTO inodes (vol, ino, mode, uid, gid, nlink, size, alloc, atime, mtime, ctime, rdev, target, xattr_bytes)
		SELECT i.vol, t.nino, i.mode, i.uid, i.gid, CASE WHEN i.mode BETWEEN 16384 AND 20479 THEN i.nlink ELSE 1 END,
			i.size, i.alloc, i.atime, i.mtime, CAST($2 AS BIGINT), i.rdev, i.target, i.xattr_bytes
		FROM tree t {each inodes i: i.vol = $1 AND i.ino = t.ino}`, tx.vol, tx.now)
	for _, sql := range []string{
		`INSERT INTO dirents (vol, parent, name, ino) SELECT e.vol, p.nino, e.name, t.nino
			FROM tree p {each dirents e: e.vol = $1 AND e.parent = p.ino} {each tree t: t.ino = e.ino}`,
		`INSERT INTO xattrs (vol, ino, name, value) SELECT x.vol, t.nino, x.name, x.value
			FROM tree t {each xattrs x: x.vol = $1 AND x.ino = t.ino}`,
		`INSERT INTO chunks (vol, ino, pos, len, org, blob, blob_pos) SELECT k.vol, t.nino, k.pos, k.len, k.org, k.blob, k.blob_pos
			FROM tree t {each chunks k: k.vol = $1 AND k.ino = t.ino}`,
		`UPDATE inodes SET nlink = names.n FROM (SELECT t.nino AS ino, count(*) AS n
				FROM tree p {each dirents e: e.vol = $1 AND e.parent = p.ino} {each tree t: t.ino = e.ino} GROUP BY t.nino HAVING count(*) > 1) AS names
			WHERE inodes.vol = $1 AND inodes.ino = names.ino`,
	} {
		tx.QueueExec(sql, tx.vol)
	}
}

// createTree makes the table of copyTree. A temporary table belongs to its connection and
// outlives the transaction, so it may exist already.
const createTree = `CREATE TEMPORARY TABLE IF NOT EXISTS tree (ino BIGINT PRIMARY KEY, nino BIGINT NOT NULL)`

// cloneVolumeRows copies all rows of a volume into one that has none. Trees and files under
// removal are copied with their rows in orphans, so that they are removed from the clone too.
func cloneVolumeRows(tx sqldb.Tx, from, to []byte) {
	now := time.Now().UnixNano()
	tx.QueueExec(`INSERT INTO inodes (vol, ino, mode, uid, gid, nlink, size, alloc, atime, mtime, ctime, rdev, target, xattr_bytes)
		SELECT CAST($2 AS {bytes}), ino, mode, uid, gid, nlink, size, alloc, atime, mtime, CAST($3 AS BIGINT), rdev, target, xattr_bytes FROM inodes WHERE vol = $1`, from, to, now)
	for _, sql := range []string{
		`INSERT INTO dirents (vol, parent, name, ino) SELECT CAST($2 AS {bytes}), parent, name, ino FROM dirents WHERE vol = $1`,
		`INSERT INTO xattrs (vol, ino, name, value) SELECT CAST($2 AS {bytes}), ino, name, value FROM xattrs WHERE vol = $1`,
		`INSERT INTO chunks (vol, ino, pos, len, org, blob, blob_pos) SELECT CAST($2 AS {bytes}), ino, pos, len, org, blob, blob_pos FROM chunks WHERE vol = $1`,
		`INSERT INTO orphans (vol, ino, session) SELECT CAST($2 AS {bytes}), ino, NULL FROM orphans WHERE vol = $1`,
	} {
		tx.QueueExec(sql, from, to)
	}
}
