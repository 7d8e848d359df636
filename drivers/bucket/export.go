package bucket

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/blob"
	"github.com/volehq/vole/drivers/bucket/internal/manifest"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/sqldb"
)

// ExportOptions says what to export.
type ExportOptions struct {
	// Org is the name of the one organisation whose volumes are exported. Default: all.
	Org string
	// All also exports volumes that have not changed since their last export, so that a lost
	// or damaged manifest is replaced.
	All bool
	// Done, if set, is called for each manifest that was written. If it returns an error, the
	// export ends.
	Done func(Manifest) error
}

// Manifest describes a manifest that was written.
type Manifest struct {
	Org        string `json:"org"` // name of the organisation
	Volume     string `json:"volume_id"`
	Name       string `json:"volume"`
	Generation int64  `json:"generation"`
	Size       int64  `json:"size"` // of the object, in bytes
}

// ExportResult says what an export did.
type ExportResult struct {
	Exported  int   `json:"exported"`  // volumes whose manifest was written
	Unchanged int   `json:"unchanged"` // volumes that had one of their present generation
	Removed   int   `json:"removed"`   // manifests that are no longer needed
	Size      int64 `json:"size"`      // of the manifests written, in bytes
}

// Export writes a manifest of each volume that has changed since its last one. Rebuild makes
// the database again from them. A manifest has what was committed when it was begun: files
// that are being written are in it as of their last sync. A volume that fails does not keep
// others from being exported. ErrNoSuch: there is no such organisation. ErrInUse: another
// process exports. ErrCorrupt, once for each of up to ten volumes: its rows are damaged, and
// all others were exported.
func (ns *Namespace) Export(ctx context.Context, opts ExportOptions) (ExportResult, error) {
	var res ExportResult
	err := ns.runExclusiveJob(ctx, "export", func(ctx context.Context) error {
		if err := ns.checkNotRebuilding(ctx); err != nil {
			return err
		}
		begin, orgs, err := ns.orgsToExport(ctx, opts.Org)
		if err != nil {
			return err
		}
		var failed exportFailures
		for _, o := range orgs {
			export := &orgExport{ns: ns, opts: opts, org: o, res: &res}
			export.exportVolumes(ctx)
			if export.failures.joinedErr() == nil {
				export.failures.addFailure(ns.recordExport(ctx, orgExportJob(o.id), o.id, begin))
			}
			failed.mergeFailures(&export.failures)
			if export.stopped || ctx.Err() != nil {
				return failed.joinedErr()
			}
		}
		if failed.others == 0 && opts.Org == "" {
			// A retry would find the same damage, which has been reported.
			failed.addFailure(ns.recordExport(ctx, exportedAll, nil, begin))
		}
		if failed.joinedErr() == nil && opts.Org == "" {
			ns.metrics.exported.Set(float64(begin) / 1e9)
		}
		return failed.joinedErr()
	})
	return res, err
}

// orgsToExport returns the organisation of a name, or all, and the database's time: everything
// that was committed before it will be in the export.
func (ns *Namespace) orgsToExport(ctx context.Context, name string) (begin int64, list []orgRow, err error) {
	err = ns.db.RunQueries(ctx, sqldb.SelectAggregate([]any{&begin}, `SELECT {now}`),
		sqldb.SelectAll(&list, (*orgRow).scanDest, `SELECT id, name, created FROM orgs WHERE name = $1 OR $1 = '' AND name NOT LIKE '`+removedOrg+`%' ORDER BY id`, name))
	if err == nil && name != "" && len(list) == 0 {
		err = driver.Errorf(driver.ErrNoSuch, "there is no organisation %q", name)
	}
	return begin, list, err
}

// orgRow is one row of orgs.
type orgRow struct {
	id      []byte
	name    string
	created int64
}

func (o *orgRow) scanDest() []any { return []any{&o.id, &o.name, &o.created} }

// orgExport exports one organisation.
type orgExport struct {
	ns       *Namespace
	opts     ExportOptions
	org      orgRow
	res      *ExportResult
	failures exportFailures
	stopped  bool // Done has returned an error
}

// exportVolumes goes through the organisation's volumes and through the store's listing of its
// manifests, both in the order of ids, so that neither is held in memory.
func (export *orgExport) exportVolumes(ctx context.Context) {
	if err := export.putOrgObject(ctx); err != nil {
		export.failures.addFailure(err)
		return
	}
	list := export.ns.listManifests(ctx, export.org.id)
	defer list.stop()
	for after := []byte{}; ; {
		page, err := export.listVolumePage(ctx, after)
		if err != nil {
			export.failures.addFailure(err)
			return
		}
		for _, v := range page {
			after = v.id
			export.pruneRemovedVolumes(ctx, list, v.id)
			gens, listed := list.takeGenerations(v.id)
			if err := export.exportIfChanged(ctx, v, gens, listed); err != nil {
				export.failures.addFailure(fmt.Errorf("export of volume %s of organisation %s: %w", rows.FormatID(v.id), export.org.name, err))
			}
			if ctx.Err() != nil || export.stopped || export.failures.others >= exportErrors {
				return
			}
		}
		if len(page) < exportPage {
			break
		}
	}
	export.pruneRemovedVolumes(ctx, list, nil)
	export.failures.addFailure(list.err)
}

// exportIfChanged exports a volume unless its last manifest is of its present generation and
// exists, and prunes its manifests. generations are those in the store, ascending; listed:
// they are known.
func (export *orgExport) exportIfChanged(ctx context.Context, v exportRow, gens []int64, listed bool) error {
	top := int64(-1)
	for _, g := range gens {
		if g <= manifest.MaxGeneration {
			top = g
		}
	}
	due := v.exported != v.generation || export.opts.All || listed && !slices.Contains(gens, v.exported)
	if top > v.generation {
		if err := export.raiseGeneration(ctx, v.id, top); err != nil {
			return err
		}
		due = true
	}
	newest := v.exported
	if due {
		var err error
		if newest, err = export.exportVolume(ctx, v.id, top); err != nil || newest < 0 { // below 0: the volume was removed
			return err
		}
	} else {
		export.res.Unchanged++
	}
	return export.pruneOldGenerations(ctx, v, gens, newest)
}

// exportPage is how many volumes one query returns.
const exportPage = 500

// exportRow is what tells whether a volume has changed since its last export.
type exportRow struct {
	id                   []byte
	generation, exported int64
}

// listVolumePage returns the next volumes after an id.
func (export *orgExport) listVolumePage(ctx context.Context, after []byte) ([]exportRow, error) {
	var list []exportRow
	err := export.ns.db.RunQueries(ctx, sqldb.SelectAll(&list, func(r *exportRow) []any { return []any{&r.id, &r.generation, &r.exported} },
		`SELECT id, generation, exported FROM volumes WHERE org = $1 AND id > $2 AND state = 'ready' ORDER BY id LIMIT $3`, export.org.id, after, exportPage))
	return list, err
}

// putOrgObject puts the object that keeps the organisation's name.
func (export *orgExport) putOrgObject(ctx context.Context) error {
	key, data, err := manifest.Org{Org: export.org.id, Name: export.org.name, Created: export.org.created}.Encode()
	if err != nil {
		return err
	}
	return export.ns.blobs.Put(ctx, key, data, crc32.Checksum(data, blob.Castagnoli))
}

// raiseGeneration lifts the generation of a volume above that of a manifest. A manifest newer
// than its row is from before the database was restored from an older copy: if it stayed the
// newest, a rebuild would bring that state back.
func (export *orgExport) raiseGeneration(ctx context.Context, id []byte, above int64) error {
	export.ns.log.Warn("a volume has manifests newer than its row: the database was restored from an older copy; exporting the volume with a higher generation",
		"volume", rows.FormatID(id), "generation", above)
	return sqldb.Exec(ctx, export.ns.db, sqldb.TxOptions{},
		sqldb.Statement(`UPDATE volumes SET generation = $3 WHERE org = $1 AND id = $2 AND generation < $3`, export.org.id, id, above+1))
}

// exportVolume writes the manifest of one volume and records it in the volume's row. It
// returns its generation, or -1 if the volume was removed. top is the highest generation in
// the store.
func (export *orgExport) exportVolume(ctx context.Context, id []byte, top int64) (int64, error) {
	head, sum, size, err := export.writeManifest(ctx, id)
	for try := 0; errors.Is(err, driver.ErrExists) && try < exportTries; try++ {
		stored, serr := export.ns.readManifestSum(ctx, export.org.id, id, head.Generation)
		switch {
		case serr == nil && stored == sum:
			// An export wrote it and died before recording that. The bytes of the objects may
			// still differ, with the version of the compression.
			size, err = 0, nil
			continue
		case serr == nil:
			err = export.raiseGeneration(ctx, id, max(top, head.Generation))
		case errors.Is(serr, driver.ErrCorrupt):
			err = export.ns.blobs.Delete(ctx, manifest.Key(export.org.id, id, head.Generation))
		default:
			err = serr
		}
		if err == nil {
			head, sum, size, err = export.writeManifest(ctx, id)
		}
	}
	if err != nil || head == nil { // nil: the volume was removed
		return -1, err
	}
	err = sqldb.Exec(ctx, export.ns.db, sqldb.TxOptions{},
		sqldb.Statement(`UPDATE volumes SET exported = $3 WHERE org = $1 AND id = $2 AND exported < $3`, export.org.id, id, head.Generation))
	if err != nil {
		return -1, err
	}
	if size == 0 {
		export.res.Unchanged++
		return head.Generation, nil
	}
	export.res.Exported++
	export.res.Size += size
	export.ns.metrics.exports.Inc()
	if export.opts.Done == nil {
		return head.Generation, nil
	}
	err = export.opts.Done(Manifest{Org: export.org.name, Volume: rows.FormatID(id), Name: head.Name, Generation: head.Generation, Size: size})
	export.stopped = err != nil
	return head.Generation, err
}

// writeManifest writes the manifest of a volume as it is now, from one snapshot. head is nil
// if there is no such volume. sum is that of the trailer.
func (export *orgExport) writeManifest(ctx context.Context, id []byte) (head *manifest.Head, sum string, size int64, err error) {
	var upload *manifestUpload
	err = export.ns.db.RunOnSnapshot(ctx, func(run sqldb.Runner) error {
		var row volumeRow
		var found bool
		if err := run(sqldb.SelectOne(&found, row.scanDest(), `SELECT `+volumeCols+` FROM volumes v WHERE v.org = $1 AND v.id = $2 AND v.state = 'ready'`, export.org.id, id)); err != nil || !found {
			return err
		}
		head = &manifest.Head{
			Org: export.org.id, OrgName: export.org.name, Volume: id, Name: row.name,
			Quota: row.quota, Labels: row.labels, Created: row.created, Updated: row.updated, NextIno: row.nextIno, Generation: row.generation,
		}
		upload = export.ns.startManifestUpload(ctx, manifest.Key(export.org.id, id, row.generation))
		var err error
		sum, err = manifest.Write(upload, head, func(add func(*manifest.Record) error) error {
			for _, ask := range manifestQueries(add, head) {
				if err := run(ask); err != nil {
					return err
				}
			}
			return nil
		})
		return err
	})
	if upload == nil {
		return head, "", 0, err
	}
	size, err = upload.finishUpload(err)
	return head, sum, size, err
}

// manifestQueries select the rows of a volume, and hand them to add in the order of a
// manifest.
func manifestQueries(add func(*manifest.Record) error, head *manifest.Head) []sqldb.Query {
	vol := []byte(head.Volume)
	return []sqldb.Query{
		sqldb.EachRow(func(scan sqldb.Scanner) error {
			var b manifest.Blob
			err := scan((*[]byte)(&b.ID), &b.Size, &b.Sums, &b.Data, &b.Created)
			return errors.Join(err, add(&manifest.Record{Blob: &b}))
		}, `SELECT b.id, b.size, b.sums, b.data, b.created FROM blobs b
			WHERE b.org = $1 AND b.id IN (SELECT c.blob FROM chunks c WHERE c.vol = $2) ORDER BY b.id`, []byte(head.Org), vol),
		sqldb.EachRow(func(scan sqldb.Scanner) error {
			var n inode
			err := scan(n.scanDest()...)
			return errors.Join(err, add(&manifest.Record{Inode: &manifest.Inode{
				Ino: n.ino, Mode: n.mode, UID: n.uid, GID: n.gid, Nlink: n.nlink, Size: n.size, Alloc: n.alloc,
				Atime: n.atime, Mtime: n.mtime, Ctime: n.ctime, Rdev: n.rdev, Target: n.target,
			}}))
		}, `SELECT `+inodeCols+` FROM inodes i WHERE i.vol = $1 ORDER BY i.ino`, vol),
		sqldb.EachRow(func(scan sqldb.Scanner) error {
			var r manifest.Entry
			err := scan(&r.Parent, &r.Name, &r.Ino)
			return errors.Join(err, add(&manifest.Record{Entry: &r}))
		}, `SELECT parent, name, ino FROM dirents WHERE vol = $1 ORDER BY parent, name`, vol),
		sqldb.EachRow(func(scan sqldb.Scanner) error {
			var r manifest.Xattr
			err := scan(&r.Ino, &r.Name, &r.Value)
			return errors.Join(err, add(&manifest.Record{Xattr: &r}))
		}, `SELECT ino, name, value FROM xattrs WHERE vol = $1 ORDER BY ino, name`, vol),
		sqldb.EachRow(func(scan sqldb.Scanner) error {
			var r manifest.Chunk
			err := scan(&r.Ino, &r.Pos, &r.Len, (*[]byte)(&r.Blob), &r.BlobPos)
			return errors.Join(err, add(&manifest.Record{Chunk: &r}))
		}, `SELECT ino, pos, len, blob, blob_pos FROM chunks WHERE vol = $1 ORDER BY ino, pos`, vol),
		sqldb.EachRow(func(scan sqldb.Scanner) error {
			var r manifest.Orphan
			err := scan(&r.Ino)
			return errors.Join(err, add(&manifest.Record{Orphan: &r}))
		}, `SELECT ino FROM orphans WHERE vol = $1 ORDER BY ino`, vol),
	}
}
