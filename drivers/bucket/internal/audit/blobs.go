package audit

import (
	"fmt"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/blob"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/sqldb"
)

// repairAndReport reports a finding that belongs to no volume's rules, after running fix, if
// repairs are wanted. fix returns how many rows it changed. None: the finding has gone by
// itself, and is not reported.
func (c *Audit) repairAndReport(f driver.Finding, fix func(tx sqldb.Tx) (int64, error)) error {
	if c.fix && fix != nil {
		var n int64
		err := c.db.RunTx(c.ctx, sqldb.TxOptions{}, func(tx sqldb.Tx) (err error) {
			n, err = fix(tx)
			return err
		})
		switch {
		case c.ctx.Err() != nil:
			return c.ctx.Err()
		case err != nil:
			f.Detail += fmt.Sprintf("; the repair failed: %v", err)
		case n == 0:
			return nil
		default:
			f.Fixed = true
		}
	}
	return c.report(f)
}

// execCounting runs a statement and returns how many rows it changed.
func execCounting(tx sqldb.Tx, sql string, args ...any) (n int64, err error) {
	err = tx.RunQueries(sqldb.Counted(&n, sql, args...))
	return n, err
}

// checkAttachments looks for attachments of volumes that do not exist.
func (c *Audit) checkAttachments(org []byte) error {
	const stray = ` FROM attachments WHERE org = $1 AND NOT EXISTS (SELECT 1 FROM volumes v WHERE v.org = attachments.org AND v.id = attachments.vol)`
	return c.forEachID(org, `SELECT id`+stray+` AND id > $2 ORDER BY id LIMIT $3`, func(id []byte) error {
		return c.repairAndReport(driver.Finding{Code: "stray-attachment", Detail: fmt.Sprintf("attachment %s belongs to a volume that does not exist; it is removed", rows.FormatID(id))},
			func(tx sqldb.Tx) (int64, error) { return execCounting(tx, `DELETE`+stray+` AND id = $2`, org, id) })
	})
}

// noChunkRefers is a condition on rows of blobs: no chunk refers to it.
const noChunkRefers = `NOT EXISTS (SELECT 1 FROM chunks c WHERE c.org = blobs.org AND c.blob = blobs.id)`

// checkBlobRows checks the rows of blobs. A blob that is used and marked freed is no finding:
// the sweeper clears the mark.
func (c *Audit) checkBlobRows(org []byte) error {
	err := c.forEachID(org, `SELECT id FROM blobs WHERE org = $1 AND id > $2 AND freed IS NULL AND `+noChunkRefers+` ORDER BY id LIMIT $3`, func(id []byte) error {
		return c.repairAndReport(driver.Finding{Code: "leaked-blob", Path: blob.Key(org, id), Detail: "no file uses the blob, and it is not marked freed; it is left to the sweeper"},
			func(tx sqldb.Tx) (int64, error) {
				return execCounting(tx, `UPDATE blobs SET freed = {now} WHERE org = $1 AND id = $2 AND freed IS NULL AND `+noChunkRefers, org, id)
			})
	})
	if err != nil {
		return err
	}
	// Blobs that were never used are never read, and have no checksums yet.
	for _, r := range []struct{ code, detail, cond string }{
		{"wrong-inline-size", "the bytes in the blob's row are more or fewer than its size", `data IS NOT NULL AND length(data) <> size`},
		{"wrong-checksums", "the blob does not have one checksum for each 64 KiB; it cannot be read",
			`data IS NULL AND (sums IS NULL OR length(sums) <> (size + 65535) / 65536 * 4)`},
	} {
		err := c.forEachID(org, `SELECT id FROM blobs WHERE org = $1 AND id > $2 AND `+r.cond+` AND NOT (`+noChunkRefers+`) ORDER BY id LIMIT $3`,
			func(id []byte) error { return c.reportDamagedBlob(r.code, r.detail, org, id) })
		if err != nil {
			return err
		}
	}
	return nil
}

// checkUnreferencedBytes compares the counted unreferenced bytes with the rows that they
// count, in one statement, which sees one state of both.
func (c *Audit) checkUnreferencedBytes(org []byte) error {
	var counted, stored int64
	err := c.db.RunQueries(c.ctx, sqldb.SelectAggregate([]any{&counted, &stored}, `SELECT CAST(`+countedBytes+` AS BIGINT), CAST(`+freedBytes+` AS BIGINT)`, org))
	if err != nil || counted == stored {
		return err
	}
	return c.repairAndReport(driver.Finding{Code: "wrong-unreferenced", Path: blob.OrgPrefix(org),
		Detail: fmt.Sprintf("%d bytes are counted as stored while no file refers to them, but there are %d", counted, stored)}, func(tx sqldb.Tx) (int64, error) {
		err := tx.RunQueries(rows.LockOrgQuery(org), sqldb.Statement(`INSERT INTO unreferenced (org, bytes) SELECT CAST($1 AS {bytes}), 0
			WHERE NOT EXISTS (SELECT 1 FROM unreferenced WHERE org = $1)`, org))
		if err != nil {
			return 0, err
		}
		return execCounting(tx, `UPDATE unreferenced SET bytes = bytes + `+freedBytes+` - `+countedBytes+`
			WHERE id = (SELECT min(id) FROM unreferenced WHERE org = $1) AND `+freedBytes+` <> `+countedBytes, org)
	})
}

// The unreferenced bytes of an organisation ($1), as counted and as summed from rows.
const (
	countedBytes = `(SELECT coalesce(sum(bytes), 0) FROM unreferenced WHERE org = $1)`
	freedBytes   = `((SELECT coalesce(sum(size), 0) FROM blobs WHERE org = $1 AND freed IS NOT NULL)
		+ (SELECT coalesce(sum(size), 0) FROM doomed WHERE org = $1))`
)

// maxBlobUsers is how many files are reported for one damaged blob.
const maxBlobUsers = 20

// blobUser is a file that uses a blob, and the first offset at which it does.
type blobUser struct {
	vol []byte
	ino int64
	pos int64
}

// reportDamagedBlob reports a blob whose bytes are lost, for each file that uses it.
func (c *Audit) reportDamagedBlob(code, detail string, org, id []byte) error {
	var list []blobUser
	err := c.db.RunQueries(c.ctx, sqldb.SelectAll(&list, func(u *blobUser) []any { return []any{&u.vol, &u.ino, &u.pos} },
		`SELECT k.vol, k.ino, min(k.pos) FROM chunks k JOIN volumes v ON v.org = k.org AND v.id = k.vol AND v.state <> 'removing'
		WHERE k.org = $1 AND k.blob = $2 GROUP BY k.vol, k.ino ORDER BY k.vol, k.ino LIMIT $3`, org, id, maxBlobUsers+1))
	if err != nil {
		return err
	}
	for i, u := range list {
		if i == maxBlobUsers {
			return c.report(driver.Finding{Code: code, Path: blob.Key(org, id), Detail: detail + "; more files have it"})
		}
		err := c.report(driver.Finding{Code: code, Volume: rows.FormatID(u.vol), Path: c.pathOfInode(u.vol, u.ino),
			Detail: fmt.Sprintf("blob %s, from byte %d of the file on: %s", rows.FormatID(id), u.pos, detail)})
		if err != nil {
			return err
		}
	}
	return nil
}

// checkVolumelessRows looks in all tables for rows of volumes that do not exist.
func (c *Audit) checkVolumelessRows() error {
	for _, table := range []string{"inodes", "chunks", "dirents", "xattrs", "orphans", "ops"} {
		old := ""
		if table == "ops" { // may come after its volume was deleted; the sweeper deletes old ones
			old = ` AND vol IN (SELECT vol FROM ops WHERE at < {now} - 7200000000000)`
		}
		// From one volume to the next by the index, instead of reading all rows.
		err := c.forEachID(nil, `WITH RECURSIVE d (vol) AS (
				SELECT (SELECT vol FROM `+table+` WHERE vol > $2 AND CAST($1 AS {bytes}) IS NULL ORDER BY vol LIMIT 1)
				UNION ALL SELECT (SELECT vol FROM `+table+` x WHERE x.vol > d.vol ORDER BY x.vol LIMIT 1) FROM d WHERE d.vol IS NOT NULL)
			SELECT vol FROM d WHERE vol IS NOT NULL AND NOT EXISTS (SELECT 1 FROM volumes v WHERE v.id = d.vol)`+old+` LIMIT $3`,
			func(vol []byte) error { return c.repairVolumelessRows(table, vol) })
		if err != nil {
			return err
		}
	}
	return nil
}

// repairVolumelessRows reports rows of a volume that does not exist. If they are files, the
// volume gets a row in the organisation of their bytes; otherwise they are deleted.
func (c *Audit) repairVolumelessRows(table string, vol []byte) error {
	f := driver.Finding{Code: "rows-without-volume", Volume: rows.FormatID(vol), Detail: "the table " + table + " has rows of a volume that is missing"}
	org, files, err := c.findOwnerOrg(vol)
	switch {
	case err != nil:
		return err
	case !files:
		f.Detail += "; they are removed"
		return c.repairAndReport(f, func(tx sqldb.Tx) (int64, error) { return deleteVolumelessRows(tx, vol) })
	case org == nil:
		f.Detail += ", and nothing says of which organisation; they stay"
		return c.repairAndReport(f, nil)
	}
	f.Detail += "; it gets a row, as volume lost-" + rows.FormatID(vol)
	return c.repairAndReport(f, func(tx sqldb.Tx) (int64, error) {
		return execCounting(tx, `INSERT INTO volumes (org, id, name, state, created, updated, used, entries, metadata, next_ino)
			SELECT CAST($1 AS {bytes}), CAST($2 AS {bytes}), $3, 'ready', {now}, {now},
				(SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM inodes WHERE vol = $2 AND mode BETWEEN 32768 AND 36863),
				(SELECT count(*) FROM dirents WHERE vol = $2),
				(SELECT CAST(coalesce(sum(length(name)), 0) AS BIGINT) FROM dirents WHERE vol = $2)
					+ (SELECT CAST(coalesce(sum(coalesce(length(target), 0) + xattr_bytes), 0) AS BIGINT) FROM inodes WHERE vol = $2),
				(SELECT CAST(coalesce(max(ino), 1) AS BIGINT) + 1 FROM inodes WHERE vol = $2)
			WHERE NOT EXISTS (SELECT 1 FROM volumes WHERE id = $2)`, org, vol, "lost-"+rows.FormatID(vol))
	})
}

// findOwnerOrg reports whether a volume without a row has files, and returns its organisation:
// that of its chunks, or the only one. nil: unknown.
func (c *Audit) findOwnerOrg(vol []byte) (org []byte, files bool, err error) {
	var orgs [][]byte
	var chunk, inode bool
	err = c.db.RunQueries(c.ctx,
		sqldb.SelectOne(&inode, []any{new(int)}, `SELECT 1 FROM inodes WHERE vol = $1 LIMIT 1`, vol),
		sqldb.SelectOne(&chunk, []any{&org}, `SELECT org FROM chunks WHERE vol = $1 AND org IN (SELECT id FROM orgs) LIMIT 1`, vol),
		sqldb.SelectAll(&orgs, idDest, `SELECT id FROM orgs LIMIT 2`))
	if !chunk {
		if org = nil; len(orgs) == 1 {
			org = orgs[0]
		}
	}
	return org, inode || chunk, err
}

// deleteVolumelessRows deletes the rows of a volume that does not exist and has no inodes.
func deleteVolumelessRows(tx sqldb.Tx, vol []byte) (int64, error) {
	total := int64(0)
	for _, table := range []string{"dirents", "xattrs", "orphans", "ops"} {
		n, err := execCounting(tx, `DELETE FROM `+table+` WHERE vol = $1 AND NOT EXISTS (SELECT 1 FROM volumes WHERE id = $1)
			AND NOT EXISTS (SELECT 1 FROM inodes i WHERE i.vol = $1)`, vol)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// checkOrglessBlobs looks for blobs of organisations that do not exist. Those that no chunk
// refers to are left to the sweeper.
func (c *Audit) checkOrglessBlobs() error {
	return c.forEachID(nil, `SELECT DISTINCT org FROM blobs WHERE org NOT IN (SELECT id FROM orgs) AND org > $2 AND CAST($1 AS {bytes}) IS NULL AND freed IS NULL ORDER BY org LIMIT $3`,
		func(org []byte) error {
			return c.repairAndReport(driver.Finding{Code: "blobs-of-no-organisation", Path: blob.OrgPrefix(org),
				Detail: "the organisation of these blobs is missing; what no file uses is left to the sweeper"},
				func(tx sqldb.Tx) (int64, error) {
					return execCounting(tx, `UPDATE blobs SET freed = {now} WHERE org = $1 AND freed IS NULL AND `+noChunkRefers+`
						AND NOT EXISTS (SELECT 1 FROM orgs WHERE id = $1)`, org)
				})
		})
}
