package bucket

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/sqldb"
)

// volumeRow is one row of volumes.
type volumeRow struct {
	id                 []byte
	name, state        string
	labels             string // JSON, see marshalLabels
	quota, used        int64  // in bytes; used is the sum of the sizes of files
	created, updated   int64  // in nanoseconds since 1970
	lastUsed           int64
	nextIno            int64  // number of the next inode
	entries, metaBytes int64  // see driver.Metadata
	generation         int64  // raised by each change
	session            []byte // of a draft
	writer             []byte // the fence: id of the exclusive writer's attachment
}

// volumeCols are the columns of a row of volumes called v, in the order of scanDest.
const volumeCols = `v.id, v.name, v.state, v.labels, v.quota, v.created, v.updated, v.used, v.entries, v.metadata, v.next_ino, v.generation, v.last_used, v.session, v.writer`

// scanDest returns where the columns of volumeCols go.
func (row *volumeRow) scanDest() []any {
	return []any{&row.id, &row.name, &row.state, &row.labels, &row.quota, &row.created, &row.updated, &row.used, &row.entries, &row.metaBytes, &row.nextIno, &row.generation, &row.lastUsed, &row.session, &row.writer}
}

// toInfo describes the volume as drivers do. ErrCorrupt: its labels are not JSON.
func (row *volumeRow) toInfo() (driver.Info, error) {
	labels := driver.Labels{}
	if row.labels != "" {
		if err := json.Unmarshal([]byte(row.labels), &labels); err != nil {
			return driver.Info{}, driver.Errorf(driver.ErrCorrupt, "the labels of volume %s: %v", rows.FormatID(row.id), err)
		}
	}
	info := driver.Info{
		ID: rows.FormatID(row.id), Name: row.name, Kind: driver.KindDir, State: driver.State(row.state), Quota: driver.Size(row.quota), Labels: labels,
		Created: time.Unix(0, row.created).UTC(), Updated: time.Unix(0, row.updated).UTC(), Used: driver.Size(row.used), Generation: row.generation,
		LastUsed: time.Unix(0, max(row.lastUsed, row.updated)).UTC(),
	}
	return info.At("bucket", ""), nil
}

// usedNow sets the time of a volume's last use, as a part of an UPDATE of its row that is made
// anyway. Each use makes it larger, whatever the resolution of the clock.
const usedNow = `last_used = CASE WHEN last_used < {now} AND updated < {now} THEN {now} WHEN last_used < updated THEN updated + 1 ELSE last_used + 1 END`

// marshalLabels encodes labels for the row; none are "".
func marshalLabels(l driver.Labels) string {
	if len(l) == 0 {
		return ""
	}
	s, _ := json.Marshal(l) // a map of strings
	return string(s)
}

// volumeExistsQuery asks whether a volume exists.
func volumeExistsQuery(found *bool, org, id []byte) sqldb.Query {
	return sqldb.SelectOne(found, []any{new(int)}, `SELECT 1 FROM volumes WHERE org = $1 AND id = $2 AND state <> 'removing'`, org, id)
}

// requireVolumeQuery fails with ErrNotFound unless a volume exists.
func (b *Backend) requireVolumeQuery(id []byte) sqldb.Query {
	return sqldb.SelectRow(driver.ErrNotFound, []any{new(int)}, `SELECT 1 FROM volumes WHERE org = $1 AND id = $2 AND state <> 'removing'`, b.org, id)
}

// lockVolumeQuery selects a volume's row and locks it. ErrNotFound: there is none.
func (b *Backend) lockVolumeQuery(row *volumeRow, id []byte) sqldb.Query {
	return sqldb.SelectRow(driver.ErrNotFound, row.scanDest(), `SELECT `+volumeCols+` FROM volumes v WHERE v.org = $1 AND v.id = $2 AND v.state <> 'removing' {lock}`, b.org, id)
}

// Create implements driver.Backend.
func (b *Backend) Create(ctx context.Context, name string, spec driver.Spec) (driver.Info, error) {
	defer b.ns.metrics.observeSince("volume_create", time.Now())
	if err := b.checkWritable(ctx); err != nil {
		return driver.Info{}, err
	}
	if spec.Kind != driver.KindDir {
		return driver.Info{}, driver.Errorf(driver.ErrUnsupported, "an organisation has dir volumes only; create disk volumes in a local home")
	}
	row := volumeRow{id: newID(), name: name, state: string(driver.StateReady), quota: int64(spec.Quota), labels: marshalLabels(spec.Labels), nextIno: 2}
	row.created = time.Now().UnixNano()
	row.updated = row.created
	if spec.Draft {
		row.state = string(driver.StateCreating)
		var err error
		if row.session, err = b.session.ensureSession(ctx); err != nil {
			return driver.Info{}, err
		}
	}
	var from []byte
	if spec.From != "" {
		if from = parseID(spec.From); from == nil {
			return driver.Info{}, driver.ErrNotFound
		}
		if err := b.flushVolume(ctx, from); err != nil {
			return driver.Info{}, err
		}
	}
	err := b.ns.db.RunTx(ctx, sqldb.TxOptions{Key: row.id}, func(tx sqldb.Tx) error { return b.insertVolume(tx, &row, from) })
	if b.ns.db.IsUniqueViolation(err) {
		return driver.Info{}, errNameTaken
	}
	if err != nil {
		return driver.Info{}, err
	}
	return row.toInfo()
}

var errNameTaken = driver.Errorf(driver.ErrExists, "a volume of that name already exists")

// insertVolume adds a volume: an empty one, or a clone of another.
func (b *Backend) insertVolume(tx sqldb.Tx, row *volumeRow, from []byte) error {
	if err := b.checkNameFree(tx, row.name, nil); err != nil {
		return err
	}
	if from != nil {
		var src volumeRow
		if err := tx.RunQueries(b.lockVolumeQuery(&src, from)); err != nil {
			return err
		}
		if src.state != string(driver.StateReady) {
			return driver.ErrNotFound
		}
		if row.quota > 0 && src.used > row.quota {
			return driver.Errorf(driver.ErrQuota, "the volume to clone holds %d bytes, more than the quota of %d", src.used, row.quota)
		}
		if err := src.checkMetadataBounds(driver.Size(row.quota)); err != nil {
			return err
		}
		row.used, row.nextIno, row.entries, row.metaBytes = src.used, src.nextIno, src.entries, src.metaBytes
	}
	tx.QueueExec(`INSERT INTO volumes (org, id, name, state, quota, labels, created, updated, used, entries, metadata, next_ino, session)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
		b.org, row.id, row.name, row.state, row.quota, row.labels, row.created, row.updated, row.used, row.entries, row.metaBytes, row.nextIno, sqldb.NullIfNil(row.session))
	if from != nil {
		cloneVolumeRows(tx, from, row.id)
		return nil
	}
	root := inode{ino: rootIno, mode: typeDir | 0o755, nlink: 2, atime: row.created, mtime: row.created, ctime: row.created}
	queueInodeInsert(tx, row.id, &root)
	return nil
}

// checkNameFree returns ErrExists if another volume than self has the name, or has it as its
// id.
func (b *Backend) checkNameFree(tx sqldb.Tx, name string, self []byte) error {
	var taken, isID, here bool
	var id []byte
	list := []sqldb.Query{b.orgExistsQuery(&here), sqldb.SelectOne(&taken, []any{&id}, `SELECT id FROM volumes WHERE org = $1 AND name = $2 AND state <> 'removing'`, b.org, name)}
	if other := parseID(name); other != nil {
		list = append(list, volumeExistsQuery(&isID, b.org, other))
	}
	if err := tx.RunQueries(list...); err != nil {
		return err
	}
	if !here {
		return errOrgRemoved
	}
	if isID {
		return driver.Errorf(driver.ErrExists, "the name is the id of a volume; choose another")
	}
	if taken && !slices.Equal(id, self) {
		return errNameTaken
	}
	return nil
}

// Get implements driver.Backend.
func (b *Backend) Get(ctx context.Context, ref driver.Ref) (driver.Info, error) {
	defer b.ns.metrics.observeSince("volume_get", time.Now())
	if err := b.checkOpen(ctx); err != nil {
		return driver.Info{}, err
	}
	if ref.ID != "" {
		if err := b.flushVolumeBestEffort(ctx, parseID(ref.ID)); err != nil {
			return driver.Info{}, err
		}
	}
	row, err := b.getVolume(ctx, ref)
	if err != nil {
		return driver.Info{}, err
	}
	if ref.ID == "" && b.hasUncommittedInodes(row.id) {
		return b.Get(ctx, driver.ByID(rows.FormatID(row.id)))
	}
	return row.toInfo()
}

// getVolume reads the row of a volume that users may see: a draft only by its id.
func (b *Backend) getVolume(ctx context.Context, ref driver.Ref) (volumeRow, error) {
	var row volumeRow
	ask := sqldb.SelectRow(driver.ErrNotFound, row.scanDest(), `SELECT `+volumeCols+` FROM volumes v WHERE v.org = $1 AND v.name = $2 AND v.state = 'ready'`, b.org, ref.Name)
	if ref.ID != "" {
		ask = sqldb.SelectRow(driver.ErrNotFound, row.scanDest(), `SELECT `+volumeCols+` FROM volumes v WHERE v.org = $1 AND v.id = $2 AND v.state <> 'removing'`, b.org, parseID(ref.ID))
	}
	err := b.ns.db.RunQueries(ctx, ask)
	return row, err
}

// maxPage is the most volumes of one page of List.
const maxPage = 1000

// List implements driver.Backend. The cursor is the id of the last volume of the page before.
func (b *Backend) List(ctx context.Context, filter driver.Filter) (driver.Page, error) {
	defer b.ns.metrics.observeSince("volume_list", time.Now())
	if err := b.checkOpen(ctx); err != nil {
		return driver.Page{}, err
	}
	after := uuid.Max[:]
	if filter.Cursor != "" {
		if after = parseID(filter.Cursor); after == nil {
			return driver.Page{}, driver.Errorf(driver.ErrInvalid, "cursor %q does not come from a listing of these volumes", filter.Cursor)
		}
	}
	if err := b.flushVolumeBestEffort(ctx, nil); err != nil {
		return driver.Page{}, err
	}
	limit := filter.Limit
	if limit <= 0 || limit > maxPage {
		limit = maxPage
	}
	var page driver.Page
	if filter.Kind != "" && filter.Kind != driver.KindDir {
		return page, nil
	}
	for {
		var list []volumeRow
		err := b.ns.db.RunQueries(ctx, sqldb.SelectAll(&list, (*volumeRow).scanDest, `SELECT `+volumeCols+` FROM volumes v
			WHERE v.org = $1 AND v.id < $2 AND v.state = 'ready' ORDER BY v.id DESC LIMIT CAST($3 AS INTEGER)`, b.org, after, maxPage+1))
		if err != nil {
			return page, err
		}
		for i := range list {
			info, err := list[i].toInfo()
			if err != nil {
				return page, err
			}
			if !filter.Selector.Matches(info.Labels) {
				continue
			}
			if len(page.Volumes) == limit {
				page.Next = page.Volumes[limit-1].ID
				return page, nil
			}
			page.Volumes = append(page.Volumes, info)
		}
		if len(list) <= maxPage {
			return page, nil
		}
		after = list[len(list)-1].id
	}
}

// Update implements driver.Backend.
func (b *Backend) Update(ctx context.Context, id string, change driver.Update) (driver.Info, error) {
	defer b.ns.metrics.observeSince("volume_update", time.Now())
	if err := b.checkWritable(ctx); err != nil {
		return driver.Info{}, err
	}
	if change.Capacity != 0 {
		return driver.Info{}, driver.Errorf(driver.ErrInvalid, "a dir volume has no capacity; set its quota")
	}
	vol := parseID(id)
	if err := b.flushVolumeBestEffort(ctx, vol); err != nil {
		return driver.Info{}, err
	}
	var info driver.Info
	err := b.ns.db.RunTx(ctx, sqldb.TxOptions{Key: vol}, func(tx sqldb.Tx) error {
		var row volumeRow
		err := tx.RunQueries(b.lockVolumeQuery(&row, vol))
		if err == nil {
			info, err = b.applyUpdate(tx, &row, change)
		}
		return err
	})
	if b.ns.db.IsUniqueViolation(err) {
		err = errNameTaken
	}
	return info, err
}

// applyUpdate checks a change of a locked volume and queues it. It returns the volume as it
// will be.
func (b *Backend) applyUpdate(tx sqldb.Tx, row *volumeRow, change driver.Update) (driver.Info, error) {
	info, err := row.toInfo()
	if err != nil {
		return info, err
	}
	if change.Name != "" {
		if err := b.checkNameFree(tx, change.Name, row.id); err != nil {
			return info, err
		}
		info.Name = change.Name
	}
	if change.Quota != 0 || change.ClearQuota {
		info.Quota = change.Quota
	}
	if change.Quota != 0 && info.Used > change.Quota {
		return info, driver.Errorf(driver.ErrQuota, "the volume holds %v, more than a quota of %v; remove files first", info.Used, change.Quota)
	}
	if change.Quota != 0 {
		if err := row.checkMetadataBounds(change.Quota); err != nil {
			return info, err
		}
	}
	for _, k := range change.RemoveLabels {
		delete(info.Labels, k)
	}
	for k, l := range change.SetLabels {
		info.Labels[k] = l
	}
	if err := info.Labels.Validate(); err != nil {
		return info, err
	}
	if change.Publish {
		info.State, row.session = driver.StateReady, nil
	}
	now := time.Now().UnixNano()
	if now <= row.updated {
		now = row.updated + 1
	}
	info.Updated = time.Unix(0, now).UTC()
	info.LastUsed = time.Unix(0, max(row.lastUsed+1, now)).UTC()
	tx.QueueExec(`UPDATE volumes SET name = $3, quota = $4, labels = $5, state = $6, session = $7, updated = $8, last_used = $9, generation = generation + 1
		WHERE org = $1 AND id = $2`, b.org, row.id, info.Name, int64(info.Quota), marshalLabels(info.Labels), string(info.State), sqldb.NullIfNil(row.session), now, info.LastUsed.UnixNano())
	return info, nil
}

// Remove implements driver.Backend. The volume's rows are deleted in the background, by other
// processes if this one dies.
func (b *Backend) Remove(ctx context.Context, ref driver.Ref) (driver.Info, error) {
	return b.removeVolume(ctx, ref, nil)
}

// RemoveUnused implements driver.Backend. Uses take the lock of the volume's row, as the
// removal does, so a use is either seen or finds the volume gone.
func (b *Backend) RemoveUnused(ctx context.Context, id string, since time.Time) (driver.Info, error) {
	if err := b.flushVolumeBestEffort(ctx, parseID(id)); err != nil {
		return driver.Info{}, err
	}
	return b.removeVolume(ctx, driver.ByID(id), func(tx sqldb.Tx, row *volumeRow) error {
		// An attachment whose lease has run out was a use until then.
		var expired int64
		err := tx.RunQueries(sqldb.SelectAggregate([]any{&expired}, `SELECT CAST(coalesce(max(s.expires), 0) AS BIGINT) FROM attachments a JOIN sessions s ON s.id = a.session
			WHERE a.org = $1 AND a.vol = $2`, b.org, row.id))
		if err != nil {
			return err
		}
		if last := time.Unix(0, max(row.lastUsed, row.updated, expired)); last.After(since) {
			return driver.Errorf(driver.ErrInUse, "the volume was used at %s", last.UTC().Format(time.RFC3339))
		}
		return nil
	})
}

// removeVolume removes a volume, unless it is attached or mayRemove, called with its locked
// row, returns an error. mayRemove may be nil.
func (b *Backend) removeVolume(ctx context.Context, ref driver.Ref, mayRemove func(tx sqldb.Tx, row *volumeRow) error) (driver.Info, error) {
	defer b.ns.metrics.observeSince("volume_remove", time.Now())
	if err := b.checkWritable(ctx); err != nil {
		return driver.Info{}, err
	}
	found, err := b.getVolume(ctx, ref)
	if err != nil {
		return driver.Info{}, err
	}
	var info driver.Info
	err = b.ns.runFreeingTx(ctx, found.id, func(tx sqldb.Tx) error {
		var row volumeRow
		var holders []attachment
		err := tx.RunQueries(b.lockVolumeQuery(&row, found.id), b.liveAttachmentsQuery(&holders, found.id))
		if err != nil {
			return err
		}
		// Since the name was looked up, it mayRemove have passed to another volume.
		if ref.ID == "" && (row.name != ref.Name || row.state != string(driver.StateReady)) {
			return driver.ErrNotFound
		}
		if len(holders) > 0 {
			return holders[0].inUseError()
		}
		if mayRemove != nil {
			if err := mayRemove(tx, &row); err != nil {
				return err
			}
		}
		if info, err = row.toInfo(); err != nil {
			return err
		}
		tx.QueueExec(`UPDATE volumes SET state = 'removing', session = NULL, generation = generation + 1 WHERE org = $1 AND id = $2`, b.org, row.id)
		return nil
	})
	if err != nil {
		return driver.Info{}, err
	}
	b.discardVolumeDirtyAsLost(found.id)
	b.ns.wakeMaintenance()
	return info, nil
}
