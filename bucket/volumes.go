package bucket

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/volehq/vole/driver"
)

// volume is one row of volumes.
type volume struct {
	id                                     []byte
	name, state, labels                    string
	quota, created, updated, used, nextIno int64
	entries, metaBytes                     int64 // see driver.Metadata
	generation, lastUsed                   int64
	session, writer                        []byte
}

const volumeCols = `v.id, v.name, v.state, v.labels, v.quota, v.created, v.updated, v.used, v.entries, v.metadata, v.next_ino, v.generation, v.last_used, v.session, v.writer`

func (v *volume) dest() []any {
	return []any{&v.id, &v.name, &v.state, &v.labels, &v.quota, &v.created, &v.updated, &v.used, &v.entries, &v.metaBytes, &v.nextIno, &v.generation, &v.lastUsed, &v.session, &v.writer}
}

func (v *volume) info() (driver.Info, error) {
	labels := driver.Labels{}
	if v.labels != "" {
		if err := json.Unmarshal([]byte(v.labels), &labels); err != nil {
			return driver.Info{}, driver.Errorf(driver.ErrCorrupt, "the labels of volume %s: %v", idText(v.id), err)
		}
	}
	info := driver.Info{
		ID: idText(v.id), Name: v.name, Kind: driver.KindDir, State: driver.State(v.state), Quota: driver.Size(v.quota), Labels: labels,
		Created: time.Unix(0, v.created).UTC(), Updated: time.Unix(0, v.updated).UTC(), Used: driver.Size(v.used), Generation: v.generation,
		LastUsed: time.Unix(0, max(v.lastUsed, v.updated)).UTC(),
	}
	return info.At("bucket", ""), nil
}

// usedNow sets the time of a volume's last use, in an UPDATE of its row that a use makes in
// any case. Every use makes it larger, whatever the resolution of the clock.
const usedNow = `last_used = CASE WHEN last_used < {now} AND updated < {now} THEN {now} WHEN last_used < updated THEN updated + 1 ELSE last_used + 1 END`

func labelText(l driver.Labels) string {
	if len(l) == 0 {
		return ""
	}
	s, _ := json.Marshal(l) // a map of strings
	return string(s)
}

// isThere asks whether there is a volume.
func isThere(found *bool, org, id []byte) query {
	return one(found, []any{new(int)}, `SELECT 1 FROM volumes WHERE org = $1 AND id = $2 AND state <> 'removing'`, org, id)
}

// lockVolume asks for a volume's row and locks it.
func (b *Backend) lockVolume(found *bool, v *volume, id []byte) query {
	return one(found, v.dest(), `SELECT `+volumeCols+` FROM volumes v WHERE v.org = $1 AND v.id = $2 AND v.state <> 'removing' {lock}`, b.org, id)
}

// Create implements driver.Backend.
func (b *Backend) Create(ctx context.Context, name string, spec driver.Spec) (driver.Info, error) {
	defer b.ns.metrics.since("volume_create", time.Now())
	if err := b.writable(ctx); err != nil {
		return driver.Info{}, err
	}
	if spec.Kind != driver.KindDir {
		return driver.Info{}, driver.Errorf(driver.ErrUnsupported, "an organisation's namespace keeps dir volumes; disk volumes need a local home")
	}
	v := volume{id: newID(), name: name, state: string(driver.StateReady), quota: int64(spec.Quota), labels: labelText(spec.Labels), nextIno: 2}
	v.created = time.Now().UnixNano()
	v.updated = v.created
	if spec.Draft {
		v.state = string(driver.StateCreating)
		var err error
		if v.session, err = b.session.id(ctx); err != nil {
			return driver.Info{}, err
		}
	}
	var from []byte
	if spec.From != "" {
		if from = idBytes(spec.From); from == nil {
			return driver.Info{}, driver.ErrNotFound
		}
		if err := b.syncVolume(ctx, from); err != nil {
			return driver.Info{}, err
		}
	}
	err := b.ns.db.write(ctx, v.id, false, func(t tx) error { return b.insert(t, &v, from) })
	if b.ns.db.isUnique(err) {
		return driver.Info{}, errNameTaken
	}
	if err != nil {
		return driver.Info{}, err
	}
	return v.info()
}

var errNameTaken = driver.Errorf(driver.ErrExists, "a volume of that name is there already")

// insert adds a volume: an empty one, or one that begins as another is.
func (b *Backend) insert(t tx, v *volume, from []byte) error {
	if err := b.freeName(t, v.name, nil); err != nil {
		return err
	}
	if from != nil {
		var found bool
		var src volume
		if err := t.run(b.lockVolume(&found, &src, from)); err != nil {
			return err
		}
		if !found || src.state != string(driver.StateReady) {
			return driver.ErrNotFound
		}
		if v.quota > 0 && src.used > v.quota {
			return driver.Errorf(driver.ErrQuota, "the volume that is cloned holds %d bytes, the quota is to be %d", src.used, v.quota)
		}
		if err := src.fitsBounds(driver.Size(v.quota)); err != nil {
			return err
		}
		v.used, v.nextIno, v.entries, v.metaBytes = src.used, src.nextIno, src.entries, src.metaBytes
	}
	t.later(`INSERT INTO volumes (org, id, name, state, quota, labels, created, updated, used, entries, metadata, next_ino, session)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
		b.org, v.id, v.name, v.state, v.quota, v.labels, v.created, v.updated, v.used, v.entries, v.metaBytes, v.nextIno, null(v.session))
	if from != nil {
		cloneRows(t, from, v.id)
		return nil
	}
	root := inode{ino: rootIno, mode: typeDir | 0o755, nlink: 2, atime: v.created, mtime: v.created, ctime: v.created}
	insertInode(t, v.id, &root)
	return nil
}

// freeName fails when name is taken, or is the id of a volume, by another than self.
func (b *Backend) freeName(t tx, name string, self []byte) error {
	var taken, isID, here bool
	var id []byte
	list := []query{b.isHere(&here), one(&taken, []any{&id}, `SELECT id FROM volumes WHERE org = $1 AND name = $2 AND state <> 'removing'`, b.org, name)}
	if other := idBytes(name); other != nil {
		list = append(list, isThere(&isID, b.org, other))
	}
	if err := t.run(list...); err != nil {
		return err
	}
	if !here {
		return errOrgRemoved
	}
	if isID {
		return driver.Errorf(driver.ErrExists, "that is the id of a volume; choose another name")
	}
	if taken && !slices.Equal(id, self) {
		return errNameTaken
	}
	return nil
}

// Get implements driver.Backend.
func (b *Backend) Get(ctx context.Context, ref driver.Ref) (driver.Info, error) {
	defer b.ns.metrics.since("volume_get", time.Now())
	if err := b.usable(ctx); err != nil {
		return driver.Info{}, err
	}
	if ref.ID != "" {
		if err := b.flushVolume(ctx, idBytes(ref.ID)); err != nil {
			return driver.Info{}, err
		}
	}
	v, err := b.get(ctx, ref)
	if err != nil {
		return driver.Info{}, err
	}
	if ref.ID == "" && b.dirty(v.id) {
		return b.Get(ctx, driver.ByID(idText(v.id)))
	}
	return v.info()
}

// get reads the row of a volume that users may know of: a draft by its id only.
func (b *Backend) get(ctx context.Context, ref driver.Ref) (volume, error) {
	var v volume
	var found bool
	ask := one(&found, v.dest(), `SELECT `+volumeCols+` FROM volumes v WHERE v.org = $1 AND v.name = $2 AND v.state = 'ready'`, b.org, ref.Name)
	if ref.ID != "" {
		ask = one(&found, v.dest(), `SELECT `+volumeCols+` FROM volumes v WHERE v.org = $1 AND v.id = $2 AND v.state <> 'removing'`, b.org, idBytes(ref.ID))
	}
	if err := b.ns.db.read(ctx, ask); err != nil {
		return v, err
	}
	if !found {
		return v, driver.ErrNotFound
	}
	return v, nil
}

// maxPage is the most volumes of one page.
const maxPage = 1000

// List implements driver.Backend. The cursor is the id of the last volume of the page
// before.
func (b *Backend) List(ctx context.Context, filter driver.Filter) (driver.Page, error) {
	defer b.ns.metrics.since("volume_list", time.Now())
	if err := b.usable(ctx); err != nil {
		return driver.Page{}, err
	}
	after := uuid.Max[:]
	if filter.Cursor != "" {
		if after = idBytes(filter.Cursor); after == nil {
			return driver.Page{}, driver.Errorf(driver.ErrInvalid, "cursor %q does not come from a listing of these volumes", filter.Cursor)
		}
	}
	if err := b.flushVolume(ctx, nil); err != nil {
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
		var list []volume
		err := b.ns.db.read(ctx, all(&list, (*volume).dest, `SELECT `+volumeCols+` FROM volumes v
			WHERE v.org = $1 AND v.id < $2 AND v.state = 'ready' ORDER BY v.id DESC LIMIT CAST($3 AS INTEGER)`, b.org, after, maxPage+1))
		if err != nil {
			return page, err
		}
		for i := range list {
			info, err := list[i].info()
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
	defer b.ns.metrics.since("volume_update", time.Now())
	if err := b.writable(ctx); err != nil {
		return driver.Info{}, err
	}
	if change.Capacity != 0 {
		return driver.Info{}, driver.Errorf(driver.ErrInvalid, "a dir volume has no capacity; set its quota")
	}
	vol := idBytes(id)
	if err := b.flushVolume(ctx, vol); err != nil {
		return driver.Info{}, err
	}
	var info driver.Info
	err := b.ns.db.write(ctx, vol, false, func(t tx) error {
		var v volume
		var found bool
		if err := t.run(b.lockVolume(&found, &v, vol)); err != nil {
			return err
		}
		if !found {
			return driver.ErrNotFound
		}
		var err error
		info, err = b.applyUpdate(t, &v, change)
		return err
	})
	if b.ns.db.isUnique(err) {
		err = errNameTaken
	}
	return info, err
}

func (b *Backend) applyUpdate(t tx, v *volume, change driver.Update) (driver.Info, error) {
	info, err := v.info()
	if err != nil {
		return info, err
	}
	if change.Name != "" {
		if err := b.freeName(t, change.Name, v.id); err != nil {
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
		if err := v.fitsBounds(change.Quota); err != nil {
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
		info.State, v.session = driver.StateReady, nil
	}
	now := time.Now().UnixNano()
	if now <= v.updated {
		now = v.updated + 1
	}
	info.Updated = time.Unix(0, now).UTC()
	info.LastUsed = time.Unix(0, max(v.lastUsed+1, now)).UTC()
	t.later(`UPDATE volumes SET name = $3, quota = $4, labels = $5, state = $6, session = $7, updated = $8, last_used = $9, generation = generation + 1
		WHERE org = $1 AND id = $2`, b.org, v.id, info.Name, int64(info.Quota), labelText(info.Labels), string(info.State), null(v.session), now, info.LastUsed.UnixNano())
	return info, nil
}

// Remove implements driver.Backend. The volume's rows go in the background, and in
// other processes when this one dies.
func (b *Backend) Remove(ctx context.Context, ref driver.Ref) (driver.Info, error) {
	return b.remove(ctx, ref, nil)
}

// RemoveUnused implements driver.Backend. Uses take the lock of the volume's row, as the
// removal does.
func (b *Backend) RemoveUnused(ctx context.Context, id string, since time.Time) (driver.Info, error) {
	if err := b.flushVolume(ctx, idBytes(id)); err != nil {
		return driver.Info{}, err
	}
	return b.remove(ctx, driver.ByID(id), func(t tx, v *volume) error {
		// An attachment whose lease has run out was a use until then.
		var found bool
		var expired int64
		err := t.run(one(&found, []any{&expired}, `SELECT CAST(coalesce(max(s.expires), 0) AS BIGINT) FROM attachments a JOIN sessions s ON s.id = a.session
			WHERE a.org = $1 AND a.vol = $2`, b.org, v.id))
		if err != nil {
			return err
		}
		if last := time.Unix(0, max(v.lastUsed, v.updated, expired)); last.After(since) {
			return driver.Errorf(driver.ErrInUse, "the volume was used at %s", last.UTC().Format(time.RFC3339))
		}
		return nil
	})
}

// remove removes a volume unless may, which gets its locked row, refuses; nil: it does not.
func (b *Backend) remove(ctx context.Context, ref driver.Ref, may func(t tx, v *volume) error) (driver.Info, error) {
	defer b.ns.metrics.since("volume_remove", time.Now())
	if err := b.writable(ctx); err != nil {
		return driver.Info{}, err
	}
	found, err := b.get(ctx, ref)
	if err != nil {
		return driver.Info{}, err
	}
	var info driver.Info
	err = b.ns.freeing(ctx, found.id, func(t tx) error {
		var v volume
		var there bool
		var holders []attachment
		err := t.run(b.lockVolume(&there, &v, found.id), b.liveAttachments(&holders, found.id))
		if err != nil {
			return err
		}
		// Between the look at the name and the lock, the name may have gone to another.
		if !there || ref.ID == "" && (v.name != ref.Name || v.state != string(driver.StateReady)) {
			return driver.ErrNotFound
		}
		if len(holders) > 0 {
			return holders[0].inUse()
		}
		if may != nil {
			if err := may(t, &v); err != nil {
				return err
			}
		}
		if info, err = v.info(); err != nil {
			return err
		}
		t.later(`UPDATE volumes SET state = 'removing', session = NULL, generation = generation + 1 WHERE org = $1 AND id = $2`, b.org, v.id)
		return nil
	})
	if err != nil {
		return driver.Info{}, err
	}
	b.drop(found.id)
	b.ns.wake()
	return info, nil
}

// Measure implements driver.Backend. The figure is exact at all times, so it is only
// corrected where somebody has changed the database by hand.
func (b *Backend) Measure(ctx context.Context, id string) (driver.Info, error) {
	defer b.ns.metrics.since("volume_measure", time.Now())
	if err := b.writable(ctx); err != nil {
		return driver.Info{}, err
	}
	vol := idBytes(id)
	if err := b.flushVolume(ctx, vol); err != nil {
		return driver.Info{}, err
	}
	var info driver.Info
	err := b.ns.db.write(ctx, vol, false, func(t tx) error {
		var v volume
		var found, sum bool
		var used, entries, bytes int64
		err := t.run(b.lockVolume(&found, &v, vol), one(&sum, []any{&used}, measureVolume, vol), one(&sum, []any{&entries, &bytes}, countMetadata, vol))
		if err != nil {
			return err
		}
		if !found {
			return driver.ErrNotFound
		}
		if used != v.used || entries != v.entries || bytes != v.metaBytes {
			v.used = used
			t.later(`UPDATE volumes SET used = $3, entries = $4, metadata = $5 WHERE org = $1 AND id = $2`, b.org, vol, used, entries, bytes)
		}
		info, err = v.info()
		return err
	})
	return info, err
}

// measureVolume is the sum that volumes.used is kept equal to.
const measureVolume = `SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM inodes WHERE vol = $1 AND mode BETWEEN 32768 AND 36863`
