package bucket

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"maps"
	"math"
	"slices"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/blob"
	"github.com/volehq/vole/drivers/bucket/internal/manifest"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/sqldb"
)

// RebuildResult says what a rebuild restored.
type RebuildResult struct {
	Orgs    int   `json:"organisations"`
	Volumes int   `json:"volumes"`
	Files   int64 `json:"files"`   // regular files
	Used    int64 `json:"used"`    // by all volumes, in bytes
	Damaged int   `json:"damaged"` // volumes that lost bytes, or whose newest manifest could not be used
	Lost    int   `json:"lost"`    // volumes of which there is no manifest that can be used
	Freed   int64 `json:"freed"`   // objects that no manifest refers to, left to the sweeper
}

// Codes of findings of a rebuild.
const (
	foundOlder     = "older-manifest"    // the newest one cannot be used
	foundLost      = "lost-volume"       // no manifest can be used
	foundLostBytes = "lost-bytes"        // the object of a range of a file is not there
	foundRenamed   = "renamed-volume"    // its name is that of a newer one
	foundNoOrg     = "organisation-name" // nothing tells it, or the object that does is damaged
	foundUnknown   = "unknown-object"    // its key is not one of a namespace
)

const (
	// rebuildRows is how many rows one transaction of a rebuild writes.
	rebuildRows = 500

	// During a rebuild blobs.freed is one of these, far in the future for sweepers: the object
	// exists and no manifest has named it yet, or a manifest has and the object is missing.
	freedUnclaimed = math.MaxInt64
	freedMissing   = math.MaxInt64 - 1
)

// Rebuild makes the database of opts again from the manifests in its blob store. The namespace
// is then as it was last exported, without attachments and drafts. report is called for what
// cannot be restored: files with lost bytes keep all others, and reading lost ones fails; a
// volume whose newest manifest is damaged is restored from the one before.
//
// No other process may have the database or the blob store open. ErrExists: there are
// organisations in the database. ErrNoSuch: there are no manifests in the blob store. What a
// failed rebuild has written is invisible, and the next one deletes it.
func Rebuild(ctx context.Context, opts Options, report func(driver.Finding) error) (RebuildResult, error) {
	opts.Maintain, opts.Export = -1, 0
	if opts.ReadOnly {
		return RebuildResult{}, errReadOnly
	}
	ns, err := Open(ctx, opts)
	if err != nil {
		return RebuildResult{}, err
	}
	r := &rebuild{ns: ns, report: report, orgs: map[string]*rebuiltOrg{}}
	err = ns.runExclusiveJob(ctx, "rebuild", r.rebuildNamespace)
	return r.res, errors.Join(err, ns.Close())
}

// rebuild is one run of Rebuild.
type rebuild struct {
	ns           *Namespace
	report       func(driver.Finding) error
	res          RebuildResult
	orgs         map[string]*rebuiltOrg // found in the store, by id
	discardedAny bool                   // a manifest was partly loaded and then discarded
}

// rebuiltOrg is an organisation of which the blob store has objects.
type rebuiltOrg struct {
	id      []byte
	objects []blob.Info        // that keep its name
	vols    map[string][]int64 // generations of manifests, by volume id
}

// rebuildNamespace scans the store, loads the volumes as invisible drafts, and makes all of
// them visible in one last transaction.
func (r *rebuild) rebuildNamespace(ctx context.Context) error {
	if err := r.startRebuild(ctx); err != nil {
		return err
	}
	if err := r.scanBlobStore(ctx); err != nil {
		return err
	}
	maps.DeleteFunc(r.orgs, func(_ string, org *rebuiltOrg) bool { return len(org.vols)+len(org.objects) == 0 })
	if len(r.orgs) == 0 {
		return errors.Join(driver.Errorf(driver.ErrNoSuch, "there are no manifests in the blob store"), r.clearPartialRebuild(ctx))
	}
	for _, id := range slices.Sorted(maps.Keys(r.orgs)) {
		if err := r.rebuildOrg(ctx, r.orgs[id]); err != nil {
			return err
		}
	}
	if err := r.settleBlobs(ctx); err != nil {
		return err
	}
	return sqldb.Exec(ctx, r.ns.db, sqldb.TxOptions{},
		sqldb.Statement(`UPDATE volumes SET state = 'ready' WHERE state = 'creating'`),
		sqldb.Statement(`DELETE FROM jobs WHERE name = $1`, rebuilding))
}

// rebuilding is the name of a row of jobs that exists from the first change of a rebuild to
// the last. It distinguishes what a rebuild has left from a namespace in use.
const rebuilding = "rebuilding"

// checkNotRebuilding returns ErrInUse if a rebuild is under way or was not completed.
func (ns *Namespace) checkNotRebuilding(ctx context.Context) error {
	var found bool
	err := ns.db.RunQueries(ctx, sqldb.SelectOne(&found, []any{new(int)}, `SELECT 1 FROM jobs WHERE name = $1`, rebuilding))
	if err == nil && found {
		err = driver.Errorf(driver.ErrInUse, "the database is being rebuilt; if that failed, rebuild it again")
	}
	return err
}

// startRebuild checks that the database is empty, except for what an earlier rebuild has left,
// which it deletes.
func (r *rebuild) startRebuild(ctx context.Context) error {
	var orgs, volumes, partial bool
	err := r.ns.db.RunQueries(ctx,
		sqldb.SelectOne(&orgs, []any{new(int)}, `SELECT 1 FROM orgs LIMIT 1`),
		sqldb.SelectOne(&volumes, []any{new(int)}, `SELECT 1 FROM volumes WHERE state = 'ready' OR session IS NOT NULL LIMIT 1`),
		sqldb.SelectOne(&partial, []any{new(int)}, `SELECT 1 FROM jobs WHERE name = $1`, rebuilding))
	switch {
	case err != nil:
		return err
	case orgs && !partial, volumes:
		return driver.Errorf(driver.ErrExists, "the database has organisations; rebuild into an empty one")
	case partial:
		if err := r.clearPartialRebuild(ctx); err != nil {
			return err
		}
	}
	return sqldb.Exec(ctx, r.ns.db, sqldb.TxOptions{},
		sqldb.Statement(`INSERT INTO jobs (name, session, expires) VALUES ($1, NULL, 0) ON CONFLICT DO NOTHING`, rebuilding))
}

// clearPartialRebuild deletes all that a rebuild has written.
func (r *rebuild) clearPartialRebuild(ctx context.Context) error {
	var vols []volumeID
	if err := r.ns.db.RunQueries(ctx, sqldb.SelectAll(&vols, (*volumeID).scanDest, `SELECT org, id FROM volumes`)); err != nil {
		return err
	}
	for _, volume := range vols {
		if err := r.deleteVolumeRows(ctx, volume); err != nil {
			return err
		}
	}
	if err := r.execInBatches(ctx, `DELETE FROM blobs WHERE (org, id) IN (SELECT org, id FROM blobs LIMIT $1)`, nil); err != nil {
		return err
	}
	return sqldb.Exec(ctx, r.ns.db, sqldb.TxOptions{},
		sqldb.Statement(`DELETE FROM orgs`),
		sqldb.Statement(`DELETE FROM jobs WHERE name = $1`, rebuilding))
}

// deleteVolumeRows deletes the rows of a volume, its own last.
func (r *rebuild) deleteVolumeRows(ctx context.Context, volume volumeID) error {
	if _, err := r.ns.deleteFileRows(ctx, volume.vol, -1); err != nil {
		return err
	}
	return sqldb.Exec(ctx, r.ns.db, sqldb.TxOptions{Lazy: true},
		sqldb.Statement(`DELETE FROM volumes WHERE org = $1 AND id = $2`, volume.org, volume.vol))
}

// execInBatches runs a statement that changes up to $1 rows until it changes fewer. If total
// is not nil, the number of rows is added to it.
func (r *rebuild) execInBatches(ctx context.Context, sql string, total *int64, args ...any) error {
	for n := int64(purgeRows); n == purgeRows; {
		var err error
		if n, err = r.ns.execBatch(ctx, sql, args...); err != nil {
			return err
		}
		if total != nil {
			*total += n
		}
	}
	return nil
}

// scanBlobStore lists the blob store. Blobs become rows that nothing refers to; manifests and
// organisations' objects are noted.
func (r *rebuild) scanBlobStore(ctx context.Context) error {
	var found []blob.Info
	for info, err := range r.ns.blobs.List(ctx, "o/") {
		if err != nil {
			return err
		}
		key, ok := manifest.ParseKey(info.Key)
		if !ok {
			if err := r.report(driver.Finding{Code: foundUnknown, Path: info.Key, Detail: "its key is not one of a namespace; it is left alone"}); err != nil {
				return err
			}
			continue
		}
		org := r.orgs[string(key.Org)]
		if org == nil {
			org = &rebuiltOrg{id: key.Org, vols: map[string][]int64{}}
			r.orgs[string(key.Org)] = org
		}
		switch {
		case key.IsManifest:
			org.vols[string(key.ID)] = append(org.vols[string(key.ID)], key.Generation)
		case key.ID == nil:
			org.objects = append(org.objects, info)
		default:
			found = append(found, info)
		}
		if len(found) == rebuildRows {
			if err := r.insertFoundBlobs(ctx, found); err != nil {
				return err
			}
			found = found[:0]
		}
	}
	return r.insertFoundBlobs(ctx, found)
}

// insertFoundBlobs inserts rows for the objects of blobs.
func (r *rebuild) insertFoundBlobs(ctx context.Context, list []blob.Info) error {
	return r.ns.db.RunTx(ctx, sqldb.TxOptions{Lazy: true}, func(tx sqldb.Tx) error {
		for _, info := range list {
			key, _ := manifest.ParseKey(info.Key)
			tx.QueueExec(`INSERT INTO blobs (org, id, size, created, freed) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`,
				key.Org, key.ID, info.Size, info.Modified.UnixNano(), int64(freedUnclaimed))
		}
		return nil
	})
}

// rebuildOrg restores one organisation and its volumes.
func (r *rebuild) rebuildOrg(ctx context.Context, org *rebuiltOrg) error {
	row, err := r.recoverOrgRow(ctx, org)
	if err != nil {
		return err
	}
	err = sqldb.Exec(ctx, r.ns.db, sqldb.TxOptions{Lazy: true},
		sqldb.Statement(`INSERT INTO orgs (id, name, created) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING`, row.id, row.name, row.created))
	if err != nil {
		return err
	}
	r.res.Orgs++
	for _, v := range slices.Sorted(maps.Keys(org.vols)) {
		if err := r.rebuildVolume(ctx, volumeID{org.id, []byte(v)}, org.vols[v]); err != nil {
			return err
		}
	}
	return nil
}

// recoverOrgRow finds out the name of an organisation: from the newest of its own objects that
// is valid, or else from a manifest.
func (r *rebuild) recoverOrgRow(ctx context.Context, org *rebuiltOrg) (orgRow, error) {
	row := orgRow{id: org.id}
	slices.SortFunc(org.objects, func(a, b blob.Info) int { return b.Modified.Compare(a.Modified) })
	for _, info := range org.objects {
		obj, err := r.readOrgObject(ctx, org.id, info)
		if err == nil {
			row.name, row.created = obj.Name, obj.Created
			break
		}
		if !errors.Is(err, driver.ErrCorrupt) && !errors.Is(err, fs.ErrNotExist) {
			return row, err
		}
		if err := r.report(driver.Finding{Code: foundNoOrg, Path: info.Key, Detail: err.Error()}); err != nil {
			return row, err
		}
	}
	if row.name == "" {
		row.name = r.orgNameFromManifests(ctx, org)
		if err := r.report(driver.Finding{Code: foundNoOrg, Detail: "the organisation " + rows.FormatID(org.id) + " is now called " + row.name}); err != nil {
			return row, err
		}
	}
	var taken bool
	err := r.ns.db.RunQueries(ctx, sqldb.SelectOne(&taken, []any{new(int)}, `SELECT 1 FROM orgs WHERE name = $1`, row.name))
	if err == nil && taken {
		row.name = rows.FormatID(org.id)
		err = r.report(driver.Finding{Code: foundNoOrg, Detail: "two organisations have the same name; one is now called " + row.name})
	}
	return row, err
}

// readOrgObject reads and checks an organisation's own object.
func (r *rebuild) readOrgObject(ctx context.Context, org []byte, info blob.Info) (manifest.Org, error) {
	if info.Size > manifest.MaxOrg {
		return manifest.Org{}, driver.Errorf(driver.ErrCorrupt, "%d bytes are too many", info.Size)
	}
	data := make([]byte, info.Size)
	if err := r.ns.blobs.ReadAt(ctx, info.Key, data, 0); err != nil {
		return manifest.Org{}, err
	}
	return manifest.ParseOrg(org, info.Key, data)
}

// orgNameFromManifests returns the name in a manifest, or the id if no manifest has it.
func (r *rebuild) orgNameFromManifests(ctx context.Context, org *rebuiltOrg) string {
	for v, list := range org.vols {
		head, _ := r.ns.readManifest(ctx, org.id, []byte(v), slices.Max(list), func(*manifest.Record) error { return io.EOF })
		if bytes.Equal(head.Org, org.id) && driver.ValidateName(head.OrgName) == nil {
			return head.OrgName
		}
	}
	return hex.EncodeToString(org.id)
}
