package audit

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/blob"
	"github.com/volehq/vole/internal/sqldb"
)

// checkObjects compares a listing of the store with the blobs of organisations, which are
// sorted by id. Either may change during that: each difference is checked again.
func (c *Audit) checkObjects(orgs [][]byte, prefix string) error {
	m := &objectCheck{c: c, orgs: orgs}
	for info, err := range c.blobs.List(c.ctx, prefix) {
		if err == nil {
			err = m.compareObject(info)
		}
		if err != nil {
			return err
		}
	}
	return m.finishOrgsBefore("~") // after all hex digits
}

// objectCheck merges a listing and the rows of blobs, both in the order of keys.
type objectCheck struct {
	c    *Audit
	orgs [][]byte  // the organisation that is being compared, and those after it
	rows *blobRows // of the first of orgs; nil: none read yet

	strayOrg               string // the organisation, in hex, of objects whose organisation is missing; "": none
	strayCount, strayBytes int64  // of objects of strayOrg
}

// finishOrgsBefore finishes the organisations that come before org, in hex: all of their
// objects have been listed.
func (m *objectCheck) finishOrgsBefore(org string) error {
	if m.strayOrg != "" && m.strayOrg != org {
		if err := m.reportStrayOrg(); err != nil {
			return err
		}
	}
	for len(m.orgs) > 0 && hex.EncodeToString(m.orgs[0]) < org {
		if err := m.reportMissingBefore(nil); err != nil {
			return err
		}
		m.orgs, m.rows = m.orgs[1:], nil
	}
	return nil
}

// compareObject takes the next object of the listing, and reports the rows that should have had
// an object before it. Manifests are not compared: exports replace and prune them.
func (m *objectCheck) compareObject(info blob.Info) error {
	org, rest, _ := strings.Cut(strings.TrimPrefix(info.Key, "o/"), "/")
	if err := m.finishOrgsBefore(org); err != nil {
		return err
	}
	if len(m.orgs) == 0 || hex.EncodeToString(m.orgs[0]) != org {
		m.strayOrg = org
		m.strayCount++
		m.strayBytes += info.Size
		return nil
	}
	if !strings.HasPrefix(rest, "b/") {
		return nil // a manifest
	}
	id, err := hex.DecodeString(rest[strings.LastIndexByte(rest, '/')+1:])
	if err != nil || len(id) != 16 || blob.Key(m.orgs[0], id) != info.Key {
		return m.c.report(driver.Finding{Code: "unknown-object", Path: info.Key, Detail: "its key is not that of a blob, and nothing uses it"})
	}
	if err := m.reportMissingBefore(id); err != nil {
		return err
	}
	row, err := m.rows.peekRow(m.c.ctx)
	if err != nil {
		return err
	}
	if row == nil || !bytes.Equal(row.id, id) {
		return m.c.recheckUnknownObject(m.orgs[0], id, info)
	}
	m.rows.next++
	if row.used != 0 && row.size != info.Size {
		return m.c.recheckMissingObject(m.orgs[0], id)
	}
	return nil
}

// reportMissingBefore skips the rows whose keys come before that of id (nil: all rows), since
// their objects were not listed, and reports those that are used.
func (m *objectCheck) reportMissingBefore(id []byte) error {
	if m.rows == nil {
		m.rows = &blobRows{db: m.c.db, org: m.orgs[0]}
	}
	for {
		row, err := m.rows.peekRow(m.c.ctx)
		if err != nil || row == nil || id != nil && compareKeyOrder(row.id, id) >= 0 {
			return err
		}
		m.rows.next++
		if row.used != 0 {
			if err := m.c.recheckMissingObject(m.orgs[0], row.id); err != nil {
				return err
			}
		}
	}
}

// compareKeyOrder orders ids as the keys of their objects: by the last byte first.
func compareKeyOrder(a, b []byte) int {
	if a[15] != b[15] {
		return int(a[15]) - int(b[15])
	}
	return bytes.Compare(a, b)
}

// recheckMissingObject looks at the object of a row again, and reports it if it is missing or
// has another size. An object is deleted after its row, so if the row still exists after that
// look, it existed during it.
func (c *Audit) recheckMissingObject(org, id []byte) error {
	info, err := c.blobs.Stat(c.ctx, blob.Key(org, id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var found bool
	var size int64
	again := c.db.RunQueries(c.ctx, sqldb.SelectOne(&found, []any{&size}, `SELECT size FROM blobs WHERE org = $1 AND id = $2 AND data IS NULL AND NOT (`+noChunkRefers+`)`, org, id))
	switch {
	case again != nil || !found:
		return again
	case err != nil:
		return c.reportDamagedBlob("lost-object", "its object is missing; the bytes are lost unless the store has an older version", org, id)
	case info.Size != size:
		return c.reportDamagedBlob("wrong-object-size", fmt.Sprintf("its object has %d bytes instead of %d", info.Size, size), org, id)
	}
	return nil
}

// recheckUnknownObject looks again at an object without a row, and reports it. A row exists
// before its object does, and when it is deleted a tombstone exists until the object is gone.
func (c *Audit) recheckUnknownObject(org, id []byte, info blob.Info) error {
	var known, doomed bool
	err := c.db.RunQueries(c.ctx,
		sqldb.SelectOne(&known, []any{new(int)}, `SELECT 1 FROM blobs WHERE org = $1 AND id = $2`, org, id),
		sqldb.SelectOne(&doomed, []any{new(int)}, `SELECT 1 FROM doomed WHERE org = $1 AND id = $2`, org, id))
	if err != nil || known || doomed {
		return err
	}
	if _, err := c.blobs.Stat(c.ctx, info.Key); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return c.repairAndReport(driver.Finding{Code: "unknown-object", Path: info.Key, Detail: fmt.Sprintf("these %d bytes have no row; they are left to the sweeper", info.Size)},
		func(tx sqldb.Tx) (int64, error) {
			return execCounting(tx, `INSERT INTO blobs (org, id, size, created, freed) VALUES ($1, $2, 0, {now}, {now}) ON CONFLICT DO NOTHING`, org, id)
		})
}

// reportStrayOrg reports the objects of an organisation that does not exist.
func (m *objectCheck) reportStrayOrg() error {
	org, count, bytes := m.strayOrg, m.strayCount, m.strayBytes
	m.strayOrg, m.strayCount, m.strayBytes = "", 0, 0
	if id, err := hex.DecodeString(org); err == nil {
		var found bool
		if err := m.c.db.RunQueries(m.c.ctx, sqldb.SelectOne(&found, []any{new(int)}, `SELECT 1 FROM orgs WHERE id = $1`, id)); err != nil || found {
			return err // it was created since
		}
	}
	return m.c.report(driver.Finding{Code: "objects-of-no-organisation", Path: "o/" + org + "/",
		Detail: fmt.Sprintf("%d objects of %d bytes are of an organisation that is missing; they stay, as the database may be an old one", count, bytes)})
}

// blobRow holds the columns of a blob that are compared with its object.
type blobRow struct {
	id   []byte
	size int64
	used int64 // 1: not marked freed
}

func (r *blobRow) scanDest() []any { return []any{&r.id, &r.size, &r.used} }

// groupRows is about how many rows are held at once. Last bytes of ids are random, so a store
// of more than 256 times as many holds a 256th of them.
const groupRows = 1 << 16

// blobRows yields the rows of an organisation's blobs that have objects in the order of their
// keys. No index has that order: the rows of a range of last bytes are read at a time, as
// large a range as groupRows allows, and sorted here.
type blobRows struct {
	db    sqldb.DB
	org   []byte
	width int // how many last bytes a group covers; 0: not computed yet
	from  int // the first last byte of the next group
	list  []blobRow
	next  int // index into list
}

// peekRow returns the next row without taking it; nil: there is none.
func (r *blobRows) peekRow(ctx context.Context) (*blobRow, error) {
	if r.width == 0 {
		var n int64
		err := r.db.RunQueries(ctx, sqldb.SelectAggregate([]any{&n}, `SELECT count(*) FROM blobs WHERE org = $1 AND data IS NULL`, r.org))
		if err != nil {
			return nil, err
		}
		r.width = groupWidth(n, groupRows)
	}
	for r.next == len(r.list) {
		if r.from > 255 {
			return nil, nil
		}
		if err := r.loadGroup(ctx, r.from, min(r.from+r.width-1, 255)); err != nil {
			return nil, err
		}
		r.from += r.width
	}
	return &r.list[r.next], nil
}

// groupWidth returns how many of the 256 last bytes make groups of at most about per rows.
func groupWidth(rows, per int64) int {
	groups := min((rows+per-1)/per, 256)
	return int(256 / max(groups, 1))
}

// loadGroup reads and sorts the rows whose last byte is in [lo, hi].
func (r *blobRows) loadGroup(ctx context.Context, lo, hi int) error {
	const page = 8192
	r.list, r.next = r.list[:0], 0
	for after := []byte{}; ; {
		var list []blobRow
		err := r.db.RunQueries(ctx, sqldb.SelectAll(&list, (*blobRow).scanDest, `SELECT id, size, CASE WHEN freed IS NULL THEN 1 ELSE 0 END FROM blobs
			WHERE org = $1 AND data IS NULL AND id > $2 AND substr(id, 16, 1) >= $3 AND substr(id, 16, 1) <= $4 ORDER BY id LIMIT $5`,
			r.org, after, []byte{byte(lo)}, []byte{byte(hi)}, page))
		if err != nil {
			return err
		}
		r.list = append(r.list, list...)
		if len(list) < page {
			break
		}
		after = list[len(list)-1].id
	}
	slices.SortFunc(r.list, func(a, b blobRow) int { return compareKeyOrder(a.id, b.id) })
	return nil
}
