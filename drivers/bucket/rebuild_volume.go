package bucket

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/audit"
	"github.com/volehq/vole/drivers/bucket/internal/manifest"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/sqldb"
)

// rebuildVolume restores a volume from the newest of its manifests that is valid.
func (r *rebuild) rebuildVolume(ctx context.Context, volume volumeID, generations []int64) error {
	slices.SortFunc(generations, func(a, b int64) int { return cmp.Compare(b, a) })
	// The new generation is above all in the store. Impossible ones are ignored: reading
	// their manifests fails.
	next := int64(1)
	if i := slices.IndexFunc(generations, func(g int64) bool { return g <= manifest.MaxGeneration }); i >= 0 {
		next = generations[i] + 1
	}
	for i, g := range generations {
		err := r.loadManifest(ctx, volume, g, next)
		if err == nil {
			if i > 0 {
				r.res.Damaged++
			}
			r.res.Volumes++
			return nil
		}
		if !errors.Is(err, driver.ErrCorrupt) && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := r.report(driver.Finding{Code: foundOlder, Volume: rows.FormatID(volume.vol), Detail: err.Error()}); err != nil {
			return err
		}
		r.discardedAny = true
		if err := r.deleteVolumeRows(ctx, volume); err != nil {
			return err
		}
	}
	r.res.Lost++
	return r.report(driver.Finding{Code: foundLost, Volume: rows.FormatID(volume.vol), Detail: "none of its manifests can be used; its objects are left to the sweeper"})
}

// loadManifest inserts the rows of one manifest, after reading it to its end once. The volume
// is still invisible.
func (r *rebuild) loadManifest(ctx context.Context, volume volumeID, generation, next int64) error {
	head, err := r.ns.readManifest(ctx, volume.org, volume.vol, generation, func(*manifest.Record) error { return nil })
	if err != nil {
		return err
	}
	if err := r.insertVolume(ctx, volume, &head, next); err != nil {
		return err
	}
	loader := &manifestLoader{r: r, ctx: ctx, org: volume.org, vol: volume.vol}
	if _, err := r.ns.readManifest(ctx, volume.org, volume.vol, generation, loader.addRecord); err != nil {
		return err
	}
	if err := loader.flushRecords(); err != nil {
		return err
	}
	if err := r.checkConsistency(ctx, volume); err != nil {
		return fmt.Errorf("manifest %s: %w", manifest.Key(volume.org, volume.vol, generation), err)
	}
	var used, entries, bytes int64
	err = r.ns.db.RunTx(ctx, sqldb.TxOptions{Lazy: true}, func(tx sqldb.Tx) error {
		if err := tx.RunQueries(sqldb.Statement(rows.CountXattrs, volume.vol), sqldb.SelectAggregate([]any{&used}, rows.MeasureVolume, volume.vol), sqldb.SelectAggregate([]any{&entries, &bytes}, rows.CountMetadata, volume.vol)); err != nil {
			return err
		}
		tx.QueueExec(`UPDATE volumes SET used = $3, entries = $4, metadata = $5 WHERE org = $1 AND id = $2`, volume.org, volume.vol, used, entries, bytes)
		return nil
	})
	r.res.Files += loader.files
	if err != nil {
		return err
	}
	r.res.Used += used
	return r.repairVolume(ctx, volume)
}

// repairVolume repairs what no single record shows: link counts, cycles of directories,
// directories with two names, and all else that Check finds.
func (r *rebuild) repairVolume(ctx context.Context, volume volumeID) error {
	c, err := r.ns.newAudit(ctx, driver.CheckOptions{Fix: true}, func(f driver.Finding) error {
		if f.Code == audit.OverQuota {
			return nil // as it was
		}
		return r.report(f)
	})
	if err != nil {
		return err
	}
	return c.CheckVolume(volume.org, volume.vol)
}

// insertVolume inserts the row of a volume, as a draft. Two manifests may have the same name,
// if one volume took over the name of another between their exports: the volume that was
// updated later keeps it.
func (r *rebuild) insertVolume(ctx context.Context, volume volumeID, head *manifest.Head, next int64) error {
	labels := driver.Labels{}
	if head.Labels != "" {
		if err := json.Unmarshal([]byte(head.Labels), &labels); err != nil {
			return err
		}
	}
	name := head.Name
	var exists, taken bool
	var other []byte
	var updated int64
	err := r.ns.db.RunQueries(ctx, sqldb.SelectOne(&exists, []any{new(int)}, `SELECT 1 FROM volumes WHERE id = $1`, volume.vol),
		sqldb.SelectOne(&taken, []any{&other, &updated}, `SELECT id, updated FROM volumes WHERE org = $1 AND name = $2`, volume.org, name))
	switch {
	case err != nil:
		return err
	case exists:
		return driver.Errorf(driver.ErrCorrupt, "volume %s already exists in another organisation", rows.FormatID(volume.vol))
	case taken && updated > head.Updated:
		other, name, taken = volume.vol, nameWithID(name, volume.vol), false
		err = r.reportRenamed(head.Name, name, other)
	case taken:
		err = r.reportRenamed(name, nameWithID(name, other), other)
	}
	if err != nil {
		return err
	}
	return r.ns.db.RunTx(ctx, sqldb.TxOptions{Lazy: true}, func(tx sqldb.Tx) error {
		if taken {
			tx.QueueExec(`UPDATE volumes SET name = $3 WHERE org = $1 AND id = $2`, volume.org, other, nameWithID(name, other))
		}
		tx.QueueExec(`INSERT INTO volumes (org, id, name, state, quota, labels, created, updated, next_ino, generation, exported, last_used)
			VALUES ($1, $2, $3, 'creating', $4, $5, $6, $7, $8, $9, $10, {now}) ON CONFLICT (org, id) DO NOTHING`,
			volume.org, volume.vol, name, head.Quota, marshalLabels(labels), head.Created, head.Updated, head.NextIno, next, head.Generation)
		return nil
	})
}

// nameWithID returns a name for a volume whose own is taken. It contains the id, so it is
// unique.
func nameWithID(name string, id []byte) string {
	return name[:min(len(name), driver.MaxNameLen-37)] + "." + rows.FormatID(id)
}

// reportRenamed reports a volume that lost its name.
func (r *rebuild) reportRenamed(from, to string, id []byte) error {
	return r.report(driver.Finding{Code: foundRenamed, Volume: rows.FormatID(id),
		Detail: fmt.Sprintf("another volume has taken over the name %s; this one is now called %s", from, to)})
}

// checkConsistency returns ErrCorrupt for records that contradict one another in a way that a
// repair would lose data, or that make files unusable.
func (r *rebuild) checkConsistency(ctx context.Context, volume volumeID) error {
	for _, c := range []struct{ sql, bad string }{
		{`SELECT c.ino FROM chunks c JOIN blobs b ON b.org = c.org AND b.id = c.blob WHERE c.vol = $1 AND c.blob_pos + c.len > b.size LIMIT 1`,
			"a range of inode %d ends after its blob does"},
		{`SELECT c.ino FROM chunks c LEFT JOIN inodes i ON i.vol = c.vol AND i.ino = c.ino
			WHERE c.vol = $1 AND (i.mode IS NULL OR i.mode NOT BETWEEN 32768 AND 36863 OR c.pos + c.len > i.size) LIMIT 1`,
			"inode %d has a chunk behind its end, or is no file"},
		{`SELECT x.ino FROM xattrs x LEFT JOIN inodes i ON i.vol = x.vol AND i.ino = x.ino WHERE x.vol = $1 AND i.mode IS NULL LIMIT 1`,
			"inode %d has attributes, but is missing"},
		{`SELECT e.parent FROM dirents e LEFT JOIN inodes i ON i.vol = e.vol AND i.ino = e.parent
			WHERE e.vol = $1 AND (i.mode IS NULL OR i.mode NOT BETWEEN 16384 AND 20479) LIMIT 1`,
			"inode %d has entries, but is not a directory"},
		{`SELECT e.ino FROM dirents e LEFT JOIN inodes i ON i.vol = e.vol AND i.ino = e.ino WHERE e.vol = $1 AND i.mode IS NULL LIMIT 1`,
			"inode %d has a name, but is missing"},
	} {
		var found bool
		var ino int64
		if err := r.ns.db.RunQueries(ctx, sqldb.SelectOne(&found, []any{&ino}, c.sql, volume.vol)); err != nil {
			return err
		}
		if found {
			return driver.Errorf(driver.ErrCorrupt, c.bad, ino)
		}
	}
	return nil
}

// manifestLoader inserts records in transactions of bounded size.
type manifestLoader struct {
	r        *rebuild
	ctx      context.Context // of the one call that loads
	org, vol []byte
	queued   []*manifest.Record
	bytes    int
	files    int64
}

// loadBytes bounds the bytes of inline blobs and attributes in one transaction.
const loadBytes = 4 << 20

// addRecord queues a record, and flushes the queue when it is full. Invalid names are replaced
// and reported.
func (loader *manifestLoader) addRecord(rec *manifest.Record) error {
	switch {
	case rec.Head != nil, rec.End != nil:
		return nil
	case rec.Blob != nil:
		loader.bytes += len(rec.Blob.Data)
	case rec.Xattr != nil:
		loader.bytes += len(rec.Xattr.Value)
	case rec.Inode != nil && rec.Inode.Mode&typeMask == typeFile:
		loader.files++
	case rec.Entry != nil && driver.ValidateEntryName(string(rec.Entry.Name)) != nil:
		old := string(rec.Entry.Name)
		rec.Entry.Name = []byte(audit.SanitizeName(old))
		err := loader.r.report(driver.Finding{Code: audit.BadName, Volume: rows.FormatID(loader.vol),
			Detail: fmt.Sprintf("%.64q, a name of inode %d in directory %d, is invalid; it is now called %.64q", old, rec.Entry.Ino, rec.Entry.Parent, rec.Entry.Name)})
		if err != nil {
			return err
		}
	}
	loader.queued = append(loader.queued, rec)
	if len(loader.queued) < rebuildRows && loader.bytes < loadBytes {
		return nil
	}
	return loader.flushRecords()
}

// flushRecords inserts the queued records in one transaction.
func (loader *manifestLoader) flushRecords() error {
	err := loader.r.ns.db.RunTx(loader.ctx, sqldb.TxOptions{Lazy: true}, func(tx sqldb.Tx) error {
		for _, rec := range loader.queued {
			loader.insertRecord(tx, rec)
		}
		return nil
	})
	if loader.r.ns.db.IsForeignKeyViolation(err) {
		err = driver.Errorf(driver.ErrCorrupt, "a chunk refers to a blob that the manifest does not contain")
	}
	loader.queued, loader.bytes = loader.queued[:0], 0
	return err
}

// insertRecord queues the insertion of a record. It is idempotent, as the transaction may run
// twice.
func (loader *manifestLoader) insertRecord(tx sqldb.Tx, rec *manifest.Record) {
	const once = ` ON CONFLICT DO NOTHING`
	switch {
	case rec.Blob != nil:
		loader.claimBlob(tx, rec.Blob)
	case rec.Inode != nil:
		n := rec.Inode
		tx.QueueExec(`INSERT INTO inodes (vol, ino, mode, uid, gid, nlink, size, alloc, atime, mtime, ctime, rdev, target)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`+once,
			loader.vol, n.Ino, n.Mode, n.UID, n.GID, n.Nlink, n.Size, n.Alloc, n.Atime, n.Mtime, n.Ctime, n.Rdev, sqldb.NullIfNil(n.Target))
	case rec.Entry != nil:
		tx.QueueExec(`INSERT INTO dirents (vol, parent, name, ino) VALUES ($1, $2, $3, $4)`+once, loader.vol, rec.Entry.Parent, rec.Entry.Name, rec.Entry.Ino)
	case rec.Xattr != nil:
		x := rec.Xattr
		tx.QueueExec(`INSERT INTO xattrs (vol, ino, name, value) VALUES ($1, $2, $3, $4)`+once, loader.vol, x.Ino, x.Name, append([]byte{}, x.Value...))
	case rec.Chunk != nil:
		c := rec.Chunk
		tx.QueueExec(`INSERT INTO chunks (vol, ino, pos, len, org, blob, blob_pos) VALUES ($1, $2, $3, $4, $5, $6, $7)`+once,
			loader.vol, c.Ino, c.Pos, c.Len, loader.org, []byte(c.Blob), c.BlobPos)
	case rec.Orphan != nil:
		// The session that had it open is gone, so that maintenance removes it.
		tx.QueueExec(`INSERT INTO orphans (vol, ino, session) VALUES ($1, $2, NULL)`+once, loader.vol, rec.Orphan.Ino)
	}
}

// claimBlob marks a blob as used by a volume if its object was found with the right size, or
// as missing. Several volumes may claim the same blob.
func (loader *manifestLoader) claimBlob(tx sqldb.Tx, b *manifest.Blob) {
	freed := any(int64(freedMissing))
	if b.Data != nil {
		freed = nil
	}
	tx.QueueExec(`INSERT INTO blobs (org, id, size, sums, data, created, freed) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (org, id) DO UPDATE SET size = excluded.size, sums = excluded.sums, data = excluded.data, created = excluded.created,
		freed = CASE WHEN excluded.freed IS NULL OR blobs.size = excluded.size AND (blobs.freed IS NULL OR blobs.freed <> excluded.freed)
			THEN NULL ELSE excluded.freed END`,
		loader.org, []byte(b.ID), b.Size, sqldb.NullIfNil(b.Sums), sqldb.NullIfNil(b.Data), b.Created, freed)
}
