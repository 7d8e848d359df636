package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/blob"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/sqldb"
	"github.com/volehq/vole/internal/testing/servers"
)

// plan is a node of a plan of PostgreSQL's, as EXPLAIN (ANALYZE, FORMAT JSON) tells it:
// https://www.postgresql.org/docs/15/using-explain.html
type plan struct {
	Node     string  `json:"Node Type"`
	Rows     float64 `json:"Actual Rows"` // of each loop
	Loops    float64 `json:"Actual Loops"`
	Filtered float64 `json:"Rows Removed by Filter"`
	Unjoined float64 `json:"Rows Removed by Join Filter"`
	Plans    []plan
}

// estimatedWork is how many rows the node and those below it looked at.
func (p *plan) estimatedWork() float64 {
	sum := (p.Rows + p.Filtered + p.Unjoined) * p.Loops
	for i := range p.Plans {
		sum += p.Plans[i].estimatedWork()
	}
	return sum
}

// TestCheckPlans: the work of a check grows with the rows of a volume and not with their
// square, though PostgreSQL knows nothing of the volume's size, or has little memory.
func TestCheckPlans(t *testing.T) {
	ctx := t.Context()
	const files = 400
	url := servers.PG(t)
	url += map[bool]string{true: "&", false: "?"}[strings.Contains(url, "?")] + "work_mem=64kB"
	db, org := openOrg(t, sqldb.Options{Database: url, Conns: 2})
	small, large := manyInodes(t, db, org, "small", 1), manyInodes(t, db, org, "large", files)
	check := func(when string) {
		t.Helper()
		for _, volume := range []volumeID{small, large} {
			for i := range volumeRules {
				r := &volumeRules[i]
				ask := r.pageQuery(new([]suspect), volume, suspect{name: []byte{}}, suspect{ino: 1 << 62, name: []byte{}})
				if r.findsCycles {
					ask = unreachableDirQuery(new([]suspect), volume, nil)
				}
				if p := explain(ctx, t, db, ask); p.estimatedWork() > 60*files {
					t.Errorf("%s: %s looks at %.0f rows, and the volume has %d files\n%+v", when, r.code, p.estimatedWork(), files, p)
				}
			}
		}
	}
	check("without statistics")
	if err := db.RunQueries(ctx, sqldb.Statement(`ANALYZE`)); err != nil {
		t.Fatal(err)
	}
	check("with statistics")
	large = manyInodes(t, db, org, "larger", files)
	check("with statistics of before")
	for i := range 50 {
		manyInodes(t, db, org, fmt.Sprintf("small-%d", i), 1)
	}
	if err := db.RunQueries(ctx, sqldb.Statement(`ANALYZE`)); err != nil {
		t.Fatal(err)
	}
	check("among small volumes")
	found := 0
	blobs, err := blob.OpenDir(filepath.Join(t.TempDir(), "blobs"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer blobs.Close()
	err = New(ctx, db, blobs, false, false, func(f driver.Finding) error {
		found++
		t.Errorf("%+v", f)
		return nil
	}).CheckOrg(org)
	if err != nil || found > 0 {
		t.Errorf("%d findings, %v", found, err)
	}
}

// manyInodes makes a volume of some directories and as many files, each with a chunk and
// an attribute, whose rows are right.
func manyInodes(t *testing.T, db sqldb.DB, org []byte, name string, n int) volumeID {
	t.Helper()
	volume := volumeID{org, newID()}
	err := db.RunTx(t.Context(), sqldb.TxOptions{Lazy: true}, func(tx sqldb.Tx) error {
		tx.QueueExec(`INSERT INTO volumes (org, id, name, state, created, updated, next_ino) VALUES ($1, $2, $3, 'ready', 1, 1, 2)`, volume.org, volume.vol, name)
		tx.QueueExec(`INSERT INTO inodes (vol, ino, mode, uid, gid, nlink, size, alloc, atime, mtime, ctime, rdev) VALUES ($1, 1, 16384 + 493, 0, 0, 2, 0, 0, 1, 1, 1, 0)`, volume.vol)
		tx.QueueExec(`INSERT INTO inodes (vol, ino, mode, uid, gid, nlink, size, alloc, atime, mtime, ctime, rdev, xattr_bytes)
			SELECT CAST($1 AS BYTEA), 2 + i, 16384 + 493, 0, 0, 2, 0, 0, 1, 1, 1, 0, 0 FROM generate_series(0, CAST($2 AS BIGINT) - 1) i UNION ALL
			SELECT CAST($1 AS BYTEA), 2 + CAST($2 AS BIGINT) + i, 32768 + 420, 0, 0, 1, 1, 1, 1, 1, 1, 0, 7 FROM generate_series(0, CAST($2 AS BIGINT) - 1) i`, volume.vol, n)
		tx.QueueExec(`INSERT INTO dirents (vol, parent, name, ino)
			SELECT CAST($1 AS BYTEA), 1, CAST(CAST('d' || i AS TEXT) AS BYTEA), 2 + i FROM generate_series(0, CAST($2 AS BIGINT) - 1) i UNION ALL
			SELECT CAST($1 AS BYTEA), 2 + i, CAST('f' AS BYTEA), 2 + CAST($2 AS BIGINT) + i FROM generate_series(0, CAST($2 AS BIGINT) - 1) i`, volume.vol, n)
		tx.QueueExec(`INSERT INTO xattrs (vol, ino, name, value) SELECT CAST($1 AS BYTEA), 2 + CAST($2 AS BIGINT) + i, CAST('user.a' AS BYTEA), CAST('b' AS BYTEA) FROM generate_series(0, CAST($2 AS BIGINT) - 1) i`, volume.vol, n)
		tx.QueueExec(`INSERT INTO blobs (org, id, size, data, created) VALUES ($1, $2, 1, CAST('x' AS BYTEA), 1)`, volume.org, volume.vol)
		tx.QueueExec(`INSERT INTO chunks (vol, ino, pos, len, org, blob, blob_pos) SELECT CAST($1 AS BYTEA), 2 + CAST($2 AS BIGINT) + i, 0, 1, CAST($3 AS BYTEA), CAST($1 AS BYTEA), 0 FROM generate_series(0, CAST($2 AS BIGINT) - 1) i`, volume.vol, n, volume.org)
		tx.QueueExec(`UPDATE inodes SET nlink = 2 + CAST($2 AS BIGINT) WHERE vol = $1 AND ino = 1`, volume.vol, n)
		tx.QueueExec(`UPDATE volumes SET next_ino = 2 + 2 * CAST($2 AS BIGINT), used = CAST($2 AS BIGINT), entries = 2 * CAST($2 AS BIGINT) WHERE org = $3 AND id = $1`, volume.vol, n, volume.org)
		tx.QueueExec(`UPDATE volumes SET metadata = `+rows.MetadataBytes+` WHERE id = $1`, volume.vol)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return volume
}

// explain runs a query and returns the plan that it ran by.
func explain(ctx context.Context, t *testing.T, db sqldb.DB, ask sqldb.Query) plan {
	t.Helper()
	var text string
	var found bool
	e := sqldb.SelectOne(&found, []any{&text}, `EXPLAIN (ANALYZE, FORMAT JSON) `+ask.SQL, ask.Args...)
	e.Setwise = ask.Setwise
	if err := db.RunQueries(ctx, e); err != nil {
		t.Fatal(err)
	}
	var list []struct{ Plan plan }
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	return list[0].Plan
}
