//go:build unix

package local

import (
	"context"
	"database/sql"
	"errors"
	"maps"

	"github.com/google/uuid"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/local/internal/disk"
	"github.com/volehq/vole/internal/catalog"
)

// Create implements driver.Backend. The row passes these states: creating (or draft), which is
// durable before anything exists on disk; ready, once the directory exists, or the draft is
// published; removing, which frees the name; then the row is deleted. A row in any state but
// ready names the process that works on it, so that recovery knows when to take over.
func (b *Backend) Create(ctx context.Context, name string, spec driver.Spec) (driver.Info, error) {
	if err := b.checkWritable(); err != nil {
		return driver.Info{}, err
	}
	if spec.Kind == driver.KindDisk {
		size, err := disk.RoundSize(spec.Capacity)
		if err != nil {
			return driver.Info{}, err
		}
		spec.Capacity = size
	}
	id, err := uuid.NewV7()
	if err != nil {
		return driver.Info{}, err
	}
	now := b.clock().UTC()
	info := driver.Info{
		ID: id.String(), Name: name, Kind: spec.Kind, State: driver.StateCreating,
		Quota: spec.Quota, Capacity: spec.Capacity,
		Labels: maps.Clone(spec.Labels), Created: now, Updated: now, LastUsed: now,
	}
	if info.Labels == nil {
		info.Labels = driver.Labels{}
	}
	if spec.Draft {
		b.registerDraft(info.ID)
	}
	err = b.claimName(ctx, func() error { return b.insertCreating(ctx, info, spec.Draft) })
	if err == nil {
		err = b.completeCreate(ctx, info, spec.Draft)
	}
	if err != nil {
		b.forgetDraft(info.ID)
		return driver.Info{}, err
	}
	if !spec.Draft {
		info.State = driver.StateReady
	}
	return b.withLocation(info), nil
}

// insertCreating commits a volume, or draft, that this process creates.
func (b *Backend) insertCreating(ctx context.Context, info driver.Info, draft bool) error {
	state, made := string(info.State), info.Kind == driver.KindDisk
	if draft { // whose data is made before anyone looks
		state, made = stateDraft, true
	}
	proc, err := b.processID()
	if err != nil {
		return translateError(err)
	}
	labels := encodeLabels(info.Labels)
	return b.db.Write(ctx, catalog.Durable, func(tx *catalog.Tx) error {
		if err := refuseVolumeID(tx, info.Name); err != nil {
			return err
		}
		_, err := tx.Exec(`INSERT INTO volumes (id, name, kind, state, quota, capacity, labels, created, updated, owner, made, entries, names, xattrs)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0)`,
			info.ID, info.Name, string(info.Kind), state, int64(info.Quota), int64(info.Capacity),
			labels, info.Created.UnixNano(), info.Updated.UnixNano(), proc, made)
		return err
	})
}

// claimName runs a write that takes a name. If the name belongs to a volume whose creator may
// have died, it recovers the home and tries once more.
func (b *Backend) claimName(ctx context.Context, write func() error) error {
	err := write()
	if !catalog.IsUnique(err) {
		return err
	}
	if n, rerr := b.recoverHome(ctx); rerr == nil && n > 0 {
		err = write()
	}
	if catalog.IsUnique(err) {
		return driver.Errorf(driver.ErrExists, "a volume of that name exists")
	}
	return err
}

// completeCreate makes the directory of a volume that is committed as creating, and the image of
// a disk, and commits the volume as ready unless it is a draft. On failure it undoes everything.
// Only the first commit must be durable: after a power cut recovery finds the directory and
// finishes the creation, or undoes the draft.
func (b *Backend) completeCreate(ctx context.Context, info driver.Info, draft bool) error {
	id := info.ID
	err := b.makeVolumeDir(id)
	switch {
	case err != nil:
	case info.Kind == driver.KindDisk:
		err = b.disks.Volume(id).Create(info.Name, info.Capacity)
	case draft:
		err = b.makeDataDir(id)
	}
	if err == nil && !draft {
		err = b.db.Exec(context.WithoutCancel(ctx), catalog.Lazy, `UPDATE volumes SET state = 'ready', owner = '' WHERE id = ?`, id)
	}
	if err == nil {
		return nil
	}
	// If that fails too, recovery does it once this process has ended.
	return errors.Join(translateError(err), b.undoCreate(context.WithoutCancel(ctx), id))
}

// undoCreate removes a volume that cannot be created.
func (b *Backend) undoCreate(ctx context.Context, id string) error {
	err := b.db.Exec(ctx, catalog.Durable, `UPDATE volumes SET state = 'removing' WHERE id = ?`, id)
	if err != nil {
		return err
	}
	return b.finishRemoval(ctx, id)
}

// Get implements driver.Backend.
func (b *Backend) Get(ctx context.Context, ref driver.Ref) (driver.Info, error) {
	if err := b.checkOpen(); err != nil {
		return driver.Info{}, err
	}
	r, err := b.getVolume(ctx, ref)
	if err != nil {
		return driver.Info{}, err
	}
	return b.currentInfo(r), nil
}

// getVolume returns the row of a volume.
func (b *Backend) getVolume(ctx context.Context, ref driver.Ref) (volumeRow, error) {
	query, arg := lookupQuery(ref)
	stmt, err := b.db.Stmt(ctx, query)
	if err != nil {
		return volumeRow{}, err
	}
	r, err := scanOneVolume(stmt.QueryRowContext(ctx, arg))
	if err == nil {
		err = b.refuseForeignDraft(&r)
	}
	return r, catalog.Translate(err)
}

const maxPage = 1000

// List implements driver.Backend. The cursor is the id of the last volume of the page
// before.
func (b *Backend) List(ctx context.Context, filter driver.Filter) (driver.Page, error) {
	if err := b.checkOpen(); err != nil {
		return driver.Page{}, err
	}
	return b.listVolumes(ctx, filter, false)
}

// listVolumes is List. With sound, it leaves out rows that no version of Vole writes; they make
// List fail, and Check reports them.
func (b *Backend) listVolumes(ctx context.Context, filter driver.Filter, sound bool) (driver.Page, error) {
	after := filter.Cursor
	if after == "" {
		after = "~" // beyond every id
	} else if uuid.Validate(after) != nil {
		return driver.Page{}, driver.Errorf(driver.ErrInvalid, "cursor %q does not come from a listing of these volumes", after)
	}
	limit := filter.Limit
	if limit <= 0 || limit > maxPage {
		limit = maxPage
	}
	// One row more than the page shows whether there is another. Labels are matched
	// here, so with a selector the end of the rows is not known to SQL.
	rowLimit := limit + 1
	if !filter.Selector.IsZero() {
		rowLimit = -1
	}
	stmt, err := b.db.Stmt(ctx, selectPage)
	if err != nil {
		return driver.Page{}, err
	}
	rows, err := stmt.QueryContext(ctx, after, string(filter.Kind), rowLimit)
	if err != nil {
		return driver.Page{}, catalog.Translate(err)
	}
	defer rows.Close()
	page, err := b.collectPage(rows, filter.Selector, limit, sound)
	return page, catalog.Translate(err)
}

// collectPage reads up to limit matching volumes and sets Next if there are more.
func (b *Backend) collectPage(rows *sql.Rows, sel driver.Selector, limit int, sound bool) (driver.Page, error) {
	var page driver.Page
	for rows.Next() {
		r, err := scanVolumeRow(rows)
		if sound && errors.Is(err, errBadRow) {
			continue
		}
		if err != nil {
			return driver.Page{}, err
		}
		if !sel.Matches(r.Labels) {
			continue
		}
		if len(page.Volumes) == limit {
			page.Next = page.Volumes[limit-1].ID
			break
		}
		page.Volumes = append(page.Volumes, b.currentInfo(r))
	}
	return page, rows.Err()
}

// Update implements driver.Backend.
func (b *Backend) Update(ctx context.Context, id string, change driver.Update) (driver.Info, error) {
	if err := b.checkWritable(); err != nil {
		return driver.Info{}, err
	}
	r, err := b.getVolume(ctx, driver.ByID(id))
	if err != nil {
		return driver.Info{}, err
	}
	if err := refuseWrongKind(r.Kind, change); err != nil {
		return driver.Info{}, err
	}
	if change.Publish {
		if err := b.shareDraft(ctx, id); err != nil {
			return driver.Info{}, err
		}
	}
	if change.Capacity != 0 {
		// Before the catalog says so: an image that is larger than that does no harm.
		if change.Capacity, err = b.disks.Volume(id).Grow(ctx, r.Capacity, change.Capacity); err != nil {
			return driver.Info{}, err
		}
	}
	apply := func() error {
		return b.db.Write(ctx, catalog.Durable, func(tx *catalog.Tx) error {
			var err error
			if r, err = scanOneVolume(tx.QueryRow(selectByID, id)); err != nil {
				return err
			}
			return b.updateRow(tx, &r.Info, change)
		})
	}
	switch {
	case change.Quota != 0 || change.ClearQuota:
		err = b.changeQuota(ctx, id, change, func() error { return b.claimName(ctx, apply) })
	case change.Capacity != 0: // the image may have taken the space that the catalog needs
		err = b.ballast.Freeing(func() error { return b.claimName(ctx, apply) })
	default:
		err = b.claimName(ctx, apply)
	}
	if err != nil {
		return driver.Info{}, err
	}
	if change.Publish {
		b.forgetDraft(id)
	}
	return b.currentInfo(r), nil
}

// refuseWrongKind returns ErrInvalid for a change that does not apply to volumes of this kind.
func refuseWrongKind(kind driver.Kind, change driver.Update) error {
	switch {
	case kind != driver.KindDisk && change.Capacity != 0:
		return driver.Errorf(driver.ErrInvalid, "a dir volume has no capacity; set its quota")
	case kind == driver.KindDisk && (change.Quota != 0 || change.ClearQuota):
		return driver.Errorf(driver.ErrInvalid, "a disk volume has no quota; set its capacity")
	}
	return nil
}

// updateRow applies a change to the row of a volume and to info.
func (b *Backend) updateRow(tx *catalog.Tx, info *driver.Info, change driver.Update) error {
	if change.Name != "" {
		if err := refuseVolumeID(tx, change.Name); err != nil {
			return err
		}
		info.Name = change.Name
	}
	if change.Quota != 0 || change.ClearQuota {
		info.Quota = change.Quota
	}
	if change.Quota != 0 {
		past, err := b.liveBypassingWriters(tx, info.ID)
		if err != nil {
			return err
		}
		if len(past) > 0 {
			return errBypassesQuota(past[0].AttachmentInfo)
		}
	}
	info.Capacity = max(info.Capacity, change.Capacity)
	for _, k := range change.RemoveLabels {
		delete(info.Labels, k)
	}
	maps.Copy(info.Labels, change.SetLabels)
	if len(info.Labels) > driver.MaxLabels {
		return driver.Errorf(driver.ErrInvalid, "the volume would have %d labels; it may have %d", len(info.Labels), driver.MaxLabels)
	}
	info.Updated = b.clock().UTC()
	if !info.Updated.After(info.LastUsed) {
		info.Updated = info.LastUsed.Add(1)
	}
	info.LastUsed = info.Updated
	_, err := tx.Exec(`UPDATE volumes SET name = ?, quota = ?, capacity = ?, labels = ?, updated = ? WHERE id = ?`,
		info.Name, int64(info.Quota), int64(info.Capacity), encodeLabels(info.Labels), info.Updated.UnixNano(), info.ID)
	if err != nil || !change.Publish {
		return err
	}
	info.State = driver.StateReady
	_, err = tx.Exec(`UPDATE volumes SET state = 'ready', made = 1, owner = '' WHERE id = ?`, info.ID)
	return err
}

// errBypassesQuota returns ErrInUse for a quota on a volume to which an attachment writes past
// the FS.
func errBypassesQuota(by driver.AttachmentInfo) error {
	return driver.Errorf(driver.ErrInUse, "%q (process %d on %s) has the volume attached by a path of the host, where a quota cannot be enforced; stop it first",
		by.Holder, by.PID, by.Host)
}
