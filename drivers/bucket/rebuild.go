package bucket

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"math"
	"slices"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/blob"
)

// RebuildResult says what a rebuild brought back.
type RebuildResult struct {
	Orgs    int   `json:"organisations"`
	Volumes int   `json:"volumes"`
	Files   int64 `json:"files"`   // regular files
	Used    int64 `json:"used"`    // sum of the volumes' figures, in bytes
	Damaged int   `json:"damaged"` // volumes that lost bytes, or whose newest manifest could not be used
	Lost    int   `json:"lost"`    // volumes of which there is no manifest that can be used
	Freed   int64 `json:"freed"`   // objects that no manifest refers to, left to the sweeper
}

// Codes of what a rebuild finds.
const (
	foundOlder     = "older-manifest"    // the newest one cannot be used
	foundLost      = "lost-volume"       // no manifest can be used
	foundLostBytes = "lost-bytes"        // the object of a range of a file is not there
	foundRenamed   = "renamed-volume"    // its name is that of a newer one
	foundNoOrg     = "organisation-name" // nothing tells it, or the object that does is damaged
	foundBadName   = "bad-name"          // of a file: it has another now
	foundUnknown   = "unknown-object"    // its key is none of a namespace
)

const (
	// rebuildRows is how many rows one transaction of a rebuild writes.
	rebuildRows = 500

	// While a rebuild is under way blobs.freed is one of these, which no sweeper takes:
	// an object that no manifest has named yet, and a blob whose object is not there.
	freedUnclaimed = math.MaxInt64
	freedMissing   = math.MaxInt64 - 1
)

// Rebuild makes the database of opts anew from the manifests in its blob store. All is
// then as it was when it was last exported, attachments and drafts excepted. report is
// called for what could not be brought back: files whose bytes are gone keep all other
// bytes, and reading those that are gone fails; a volume whose newest manifest is
// damaged is as the one before says.
//
// Nobody else may have the database or the blob store open. ErrExists: there are
// organisations in the database. ErrNoSuch: there are no manifests in the blob store.
// Nothing of a rebuild that failed can be seen, and the next one clears it away.
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
	err = ns.job(ctx, "rebuild", r.run)
	return r.res, errors.Join(err, ns.Close())
}

type rebuild struct {
	ns     *Namespace
	report func(driver.Finding) error
	res    RebuildResult
	orgs   map[string]*rebuiltOrg // by id
	failed bool                   // a manifest was dropped that had begun to be loaded
}

// rebuiltOrg is an organisation that the blob store has something of.
type rebuiltOrg struct {
	id      []byte
	objects []blob.Info        // its own
	vols    map[string][]int64 // generations of manifests, by the volume's id
}

func (r *rebuild) run(ctx context.Context) error {
	if err := r.begin(ctx); err != nil {
		return err
	}
	if err := r.list(ctx); err != nil {
		return err
	}
	ids := make([]string, 0, len(r.orgs))
	for id, o := range r.orgs {
		if len(o.vols)+len(o.objects) > 0 {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return errors.Join(driver.Errorf(driver.ErrNoSuch, "there are no manifests in the blob store"), r.clear(ctx))
	}
	slices.Sort(ids)
	for _, id := range ids {
		if err := r.org(ctx, r.orgs[id]); err != nil {
			return err
		}
	}
	if err := r.settle(ctx); err != nil {
		return err
	}
	return r.ns.db.write(ctx, nil, false, func(t tx) error {
		t.later(`UPDATE volumes SET state = 'ready' WHERE state = 'creating'`)
		t.later(`DELETE FROM jobs WHERE name = $1`, rebuilding)
		return nil
	})
}

// rebuilding is a row of jobs that is there from the first change of a rebuild to the
// last: without it nobody could tell what one has left from what somebody made.
const rebuilding = "rebuilding"

// notRebuilding returns ErrInUse when a rebuild is under way or was not completed.
func (ns *Namespace) notRebuilding(ctx context.Context) error {
	var found bool
	err := ns.db.read(ctx, one(&found, []any{new(int)}, `SELECT 1 FROM jobs WHERE name = $1`, rebuilding))
	if err == nil && found {
		err = driver.Errorf(driver.ErrInUse, "the database is being rebuilt; if that failed, rebuild it again")
	}
	return err
}

// begin checks that there is nothing in the database, but for what a rebuild has left.
func (r *rebuild) begin(ctx context.Context) error {
	var orgs, volumes, left bool
	err := r.ns.db.read(ctx,
		one(&orgs, []any{new(int)}, `SELECT 1 FROM orgs LIMIT 1`),
		one(&volumes, []any{new(int)}, `SELECT 1 FROM volumes WHERE state = 'ready' OR session IS NOT NULL LIMIT 1`),
		one(&left, []any{new(int)}, `SELECT 1 FROM jobs WHERE name = $1`, rebuilding))
	switch {
	case err != nil:
		return err
	case orgs && !left, volumes:
		return driver.Errorf(driver.ErrExists, "the database has organisations; rebuild into an empty one")
	case left:
		if err := r.clear(ctx); err != nil {
			return err
		}
	}
	return r.ns.db.write(ctx, nil, false, func(t tx) error {
		t.later(`INSERT INTO jobs (name, session, expires) VALUES ($1, NULL, 0) ON CONFLICT DO NOTHING`, rebuilding)
		return nil
	})
}

// clear removes all that a rebuild has written.
func (r *rebuild) clear(ctx context.Context) error {
	var vols []orgVol
	if err := r.ns.db.read(ctx, all(&vols, (*orgVol).dest, `SELECT org, id FROM volumes`)); err != nil {
		return err
	}
	for _, v := range vols {
		if err := r.drop(ctx, v); err != nil {
			return err
		}
	}
	if err := r.batches(ctx, `DELETE FROM blobs WHERE (org, id) IN (SELECT org, id FROM blobs LIMIT $1)`, nil); err != nil {
		return err
	}
	return r.ns.db.write(ctx, nil, false, func(t tx) error {
		t.later(`DELETE FROM orgs`)
		t.later(`DELETE FROM jobs WHERE name = $1`, rebuilding)
		return nil
	})
}

// drop removes the rows of a volume, its own last. Its blobs may be those of others.
func (r *rebuild) drop(ctx context.Context, v orgVol) error {
	for _, of := range []struct{ table, key string }{
		{"chunks", "ino, pos"}, {"dirents", "parent, name"}, {"xattrs", "ino, name"}, {"inodes", "ino"}, {"orphans", "ino"},
	} {
		err := r.batches(ctx, `DELETE FROM `+of.table+` WHERE vol = $2 AND (`+of.key+`) IN
			(SELECT `+of.key+` FROM `+of.table+` WHERE vol = $2 ORDER BY `+of.key+` LIMIT $1)`, nil, v.vol)
		if err != nil {
			return err
		}
	}
	return r.ns.db.write(ctx, nil, true, func(t tx) error {
		t.later(`DELETE FROM volumes WHERE org = $1 AND id = $2`, v.org, v.vol)
		return nil
	})
}

// batches runs a statement that changes up to $1 rows until it finds no more. total, if
// there is one, is raised by how many there were.
func (r *rebuild) batches(ctx context.Context, sql string, total *int64, args ...any) error {
	for n := int64(purgeRows); n == purgeRows; {
		err := r.ns.db.write(ctx, nil, true, func(t tx) error {
			ask := q(sql, append([]any{purgeRows}, args...)...)
			ask.n = &n
			return t.run(ask)
		})
		if err != nil {
			return err
		}
		if total != nil {
			*total += n
		}
	}
	return nil
}

// list looks through the blob store: its blobs become rows that nothing refers to,
// and what else there is of each organisation is noted.
func (r *rebuild) list(ctx context.Context) error {
	var found []blob.Info
	for info, err := range r.ns.blobs.List(ctx, "o/") {
		if err != nil {
			return err
		}
		k, ok := parseKey(info.Key)
		if !ok {
			if err := r.report(driver.Finding{Code: foundUnknown, Path: info.Key, Detail: "no part of a namespace; left alone"}); err != nil {
				return err
			}
			continue
		}
		o := r.orgs[string(k.org)]
		if o == nil {
			o = &rebuiltOrg{id: k.org, vols: map[string][]int64{}}
			r.orgs[string(k.org)] = o
		}
		switch {
		case k.manifest:
			o.vols[string(k.id)] = append(o.vols[string(k.id)], k.generation)
		case k.id == nil:
			o.objects = append(o.objects, info)
		default:
			found = append(found, info)
		}
		if len(found) == rebuildRows {
			if err := r.register(ctx, found); err != nil {
				return err
			}
			found = found[:0]
		}
	}
	return r.register(ctx, found)
}

// register makes rows of objects.
func (r *rebuild) register(ctx context.Context, list []blob.Info) error {
	return r.ns.db.write(ctx, nil, true, func(t tx) error {
		for _, info := range list {
			k, _ := parseKey(info.Key)
			t.later(`INSERT INTO blobs (org, id, size, created, freed) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`,
				k.org, k.id, info.Size, info.Modified.UnixNano(), int64(freedUnclaimed))
		}
		return nil
	})
}

// org brings back one organisation.
func (r *rebuild) org(ctx context.Context, o *rebuiltOrg) error {
	row, err := r.orgRow(ctx, o)
	if err != nil {
		return err
	}
	err = r.ns.db.write(ctx, nil, true, func(t tx) error {
		t.later(`INSERT INTO orgs (id, name, created) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING`, row.id, row.name, row.created)
		return nil
	})
	if err != nil {
		return err
	}
	r.res.Orgs++
	vols := make([]string, 0, len(o.vols))
	for v := range o.vols {
		vols = append(vols, v)
	}
	slices.Sort(vols)
	for _, v := range vols {
		if err := r.volume(ctx, orgVol{o.id, []byte(v)}, o.vols[v]); err != nil {
			return err
		}
	}
	return nil
}

// orgRow finds out what an organisation was called.
func (r *rebuild) orgRow(ctx context.Context, o *rebuiltOrg) (orgRow, error) {
	row := orgRow{id: o.id}
	slices.SortFunc(o.objects, func(a, b blob.Info) int { return b.Modified.Compare(a.Modified) })
	for _, info := range o.objects {
		obj, err := r.orgObject(ctx, o.id, info)
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
		row.name = r.orgName(ctx, o)
		if err := r.report(driver.Finding{Code: foundNoOrg, Detail: "the organisation " + idText(o.id) + " is now called " + row.name}); err != nil {
			return row, err
		}
	}
	var taken bool
	err := r.ns.db.read(ctx, one(&taken, []any{new(int)}, `SELECT 1 FROM orgs WHERE name = $1`, row.name))
	if err == nil && taken {
		row.name = idText(o.id)
		err = r.report(driver.Finding{Code: foundNoOrg, Detail: "two organisations have the same name; one is now called " + row.name})
	}
	return row, err
}

func (r *rebuild) orgObject(ctx context.Context, org []byte, info blob.Info) (orgObject, error) {
	if info.Size > maxOrgObject {
		return orgObject{}, driver.Errorf(driver.ErrCorrupt, "%d bytes are too many", info.Size)
	}
	data := make([]byte, info.Size)
	if err := r.ns.blobs.ReadAt(ctx, info.Key, data, 0); err != nil {
		return orgObject{}, err
	}
	obj, err := parseOrgObject(org, data)
	if err == nil && orgKey(org, data) != info.Key {
		err = errors.New("its bytes are not those that its key says")
	}
	if err != nil {
		err = driver.Errorf(driver.ErrCorrupt, "%v", err)
	}
	return obj, err
}

// orgName is the name that a manifest knows, or else the id.
func (r *rebuild) orgName(ctx context.Context, o *rebuiltOrg) string {
	for v, list := range o.vols {
		head, _ := r.ns.readManifest(ctx, o.id, []byte(v), slices.Max(list), func(*record) error { return io.EOF })
		if bytes.Equal(head.Org, o.id) && driver.ValidateName(head.OrgName) == nil {
			return head.OrgName
		}
	}
	return hex.EncodeToString(o.id)
}
