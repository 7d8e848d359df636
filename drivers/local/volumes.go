//go:build unix

package local

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"maps"

	"github.com/google/uuid"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/catalog"
)

// volumeColumns are what scanVolumeRow reads.
const volumeColumns = `id, name, kind, state, quota, capacity, labels, created, updated, used, stale, counted, made, entries, names, xattrs, last_used`

// stateDraft is the state, in the catalog, of a volume that its maker fills before it is
// published: nobody else sees it, and recovery undoes it. The API calls it creating.
const stateDraft = "draft"

const (
	selectByID = `SELECT ` + volumeColumns + ` FROM volumes WHERE id = ? AND state IN ('ready', '` + stateDraft + `')`
	// The last term says nothing new, but shows SQLite that the index on names, which
	// leaves out volumes in removal, has what is looked for.
	selectByName = `SELECT ` + volumeColumns + ` FROM volumes WHERE name = ? AND state = 'ready' AND state <> 'removing'`
	selectPage   = `SELECT ` + volumeColumns + ` FROM volumes
		WHERE id < ? AND state = 'ready' AND (?2 = '' OR kind = ?2) ORDER BY id DESC LIMIT CAST(?3 AS INTEGER)`
)

// lookupQuery is the query for a volume, and its argument.
func lookupQuery(ref driver.Ref) (query, arg string) {
	if ref.ID != "" {
		return selectByID, ref.ID
	}
	return selectByName, ref.Name
}

// volumeRow is a row of volumes.
type volumeRow struct {
	driver.Info
	draft   bool // its state is stateDraft
	counted bool // a process is changing the files, so that the usage is in its counter
	made    bool // the directory of the files has been made, or it is a disk
	damaged bool // its labels cannot be read
	tally   tally
}

// scanVolumeRow reads one row of volumes.
func scanVolumeRow(from interface{ Scan(...any) error }) (r volumeRow, err error) {
	// Into plain types: for all others database/sql takes the long way.
	var kind, state, labels string
	var quota, capacity, created, updated, used, stale, counted, made, lastUsed int64
	err = from.Scan(&r.ID, &r.Name, &kind, &state, &quota, &capacity,
		&labels, &created, &updated, &used, &stale, &counted, &made, &r.tally.entries, &r.tally.names, &r.tally.xattrs, &lastUsed)
	if err != nil {
		return volumeRow{}, err
	}
	if err := validateRow(r.ID, r.Name, kind); err != nil {
		return volumeRow{}, err
	}
	r.Kind, r.State, r.draft = driver.Kind(kind), driver.State(state), state == stateDraft
	if r.draft {
		r.State = driver.StateCreating
	}
	r.Quota, r.Capacity, r.Used = driver.Size(quota), driver.Size(capacity), driver.Size(used)
	r.UsedStale, r.counted, r.made = stale != 0, counted > 0, made != 0
	r.Created, r.Updated = catalog.Time(created), catalog.Time(updated)
	r.LastUsed = r.Updated // a use as well
	r.raiseLastUse(lastUsed)
	r.Labels = driver.Labels{}
	if labels != "" {
		// One damaged row must not hide the others; Check reports it.
		if json.Unmarshal([]byte(labels), &r.Labels) != nil || r.Labels.Validate() != nil {
			r.Labels, r.damaged = driver.Labels{}, true
		}
	}
	return r, nil
}

// raiseLastUse makes a time, in nanoseconds since 1970, that of the last use if it is later.
func (r *volumeRow) raiseLastUse(at int64) {
	if t := catalog.Time(at); t.After(r.LastUsed) {
		r.LastUsed = t
	}
}

// scanOneVolume is scanVolumeRow for a query of one volume. ErrNotFound.
func scanOneVolume(from interface{ Scan(...any) error }) (volumeRow, error) {
	r, err := scanVolumeRow(from)
	if errors.Is(err, sql.ErrNoRows) {
		err = errNoSuchVolume()
	}
	return r, err
}

func errNoSuchVolume() error { return driver.Errorf(driver.ErrNotFound, "no such volume") }

// currentInfo describes the volume with the usage that it has at this moment.
func (b *Backend) currentInfo(r volumeRow) driver.Info {
	return b.withLocation(b.withLiveUsage(r).Info)
}

// withLocation adds where the volume lies.
func (b *Backend) withLocation(info driver.Info) driver.Info {
	name := "data"
	if info.Kind == driver.KindDisk {
		name = diskName
	}
	return info.At("local", b.homePath("volumes", info.ID, name))
}

// withLiveUsage is the row with the usage, and all else that is counted, of this moment.
func (b *Backend) withLiveUsage(r volumeRow) volumeRow {
	if r.counted {
		b.readLiveUsage(&r)
	}
	return r
}

func encodeLabels(l driver.Labels) string {
	if len(l) == 0 {
		return ""
	}
	data, _ := json.Marshal(l) // a map of strings: cannot fail
	return string(data)
}

// Create implements driver.Backend.
func (b *Backend) Create(ctx context.Context, name string, spec driver.Spec) (driver.Info, error) {
	if err := b.checkWritable(); err != nil {
		return driver.Info{}, err
	}
	if spec.Kind == driver.KindDisk {
		size, err := roundDiskSize(spec.Capacity)
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

// insertCreating commits a volume as being created by this process.
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

// refuseVolumeID refuses a name that is the id of a volume: whoever means the one must not
// get the other.
func refuseVolumeID(tx *catalog.Tx, name string) error {
	if uuid.Validate(name) != nil {
		return nil
	}
	var n int
	if err := tx.QueryRow(`SELECT count(*) FROM volumes WHERE id = ?`, name).Scan(&n); err != nil || n == 0 {
		return err
	}
	return driver.Errorf(driver.ErrExists, "that is the id of a volume; choose another name")
}

// claimName runs a write that takes a name. When the name is taken, it may be by a
// volume whose creator died; so it recovers what the dead left, and tries once more.
func (b *Backend) claimName(ctx context.Context, write func() error) error {
	err := write()
	if !catalog.IsUnique(err) {
		return err
	}
	if n, rerr := b.recoverHome(ctx); rerr == nil && n > 0 {
		err = write()
	}
	if catalog.IsUnique(err) {
		return driver.Errorf(driver.ErrExists, "a volume of that name is there already")
	}
	return err
}

// completeCreate makes the directory of a volume that is committed as creating, and the
// image of a disk volume, and commits it as ready, unless it is a draft. When it fails it
// undoes all. Only the first commit needs to be durable: after a power cut recovery
// finds the directory and finishes, or undoes the draft.
func (b *Backend) completeCreate(ctx context.Context, info driver.Info, draft bool) error {
	id := info.ID
	err := b.makeVolumeDir(id)
	switch {
	case err != nil:
	case info.Kind == driver.KindDisk:
		err = b.createImage(info)
	case draft:
		err = b.makeDataDir(id)
	}
	if err == nil && !draft {
		err = b.db.Write(withoutCancel(ctx), catalog.Lazy, func(tx *catalog.Tx) error {
			_, err := tx.Exec(`UPDATE volumes SET state = 'ready', owner = '' WHERE id = ?`, id)
			return err
		})
	}
	if err == nil {
		return nil
	}
	// What fails here too is left for the recovery after this process has ended.
	return errors.Join(translateError(err), b.undoCreate(withoutCancel(ctx), id))
}

func (b *Backend) undoCreate(ctx context.Context, id string) error {
	err := b.db.Write(ctx, catalog.Durable, func(tx *catalog.Tx) error {
		_, err := tx.Exec(`UPDATE volumes SET state = 'removing' WHERE id = ?`, id)
		return err
	})
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

// listVolumes is List. With sound, rows that cannot be a volume's are left out; they make List
// fail, and Check reports them.
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

// collectPage reads up to limit matching volumes and notes whether there are more.
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
		if change.Capacity, err = b.growDiskVolume(ctx, r, change.Capacity); err != nil {
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
	case change.Capacity != 0: // what the image took must not keep the catalog from saying so
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

// refuseWrongKind refuses a change that does not fit the kind of a volume.
func refuseWrongKind(kind driver.Kind, change driver.Update) error {
	switch {
	case kind != driver.KindDisk && change.Capacity != 0:
		return driver.Errorf(driver.ErrInvalid, "a dir volume has no capacity; set its quota")
	case kind == driver.KindDisk && (change.Quota != 0 || change.ClearQuota):
		return driver.Errorf(driver.ErrInvalid, "a disk volume has no quota; set its capacity")
	}
	return nil
}

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

// errBypassesQuota refuses a quota on a volume that something writes past the FS.
func errBypassesQuota(by driver.AttachmentInfo) error {
	return driver.Errorf(driver.ErrInUse, "%q (process %d on %s) has the volume attached by a path of the host, where a quota cannot be enforced; stop it first",
		by.Holder, by.PID, by.Host)
}
