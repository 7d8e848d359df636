package bucket_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
)

// insertDirChain makes directories each of which is in the one before, deeper than any path
// reaches, and returns the inode of the first.
func (v *volumeFixture) insertDirChain(first, depth int64) {
	v.t.Helper()
	const numbers = `WITH RECURSIVE n (i) AS (SELECT CAST($2 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < CAST($3 AS BIGINT)) `
	last := first + depth - 1
	kind := "bytea"
	if v.sqlite {
		kind = "BLOB"
	}
	v.exec(`INSERT INTO inodes (vol, ino, mode, uid, gid, nlink, size, alloc, atime, mtime, ctime, rdev) `+numbers+
		`SELECT CAST($1 AS `+kind+`), i, 16877, 0, 0, CASE WHEN i < CAST($3 AS BIGINT) THEN 3 ELSE 2 END, 0, 0, 1, 1, 1, 0 FROM n`, v.vol, first, last)
	v.exec(`INSERT INTO dirents (vol, parent, name, ino) `+numbers+
		`SELECT CAST($1 AS `+kind+`), CASE WHEN i = CAST($2 AS BIGINT) THEN 1 ELSE i - 1 END, $4, i FROM n`, v.vol, first, last, []byte("chain"))
	v.exec(`UPDATE inodes SET nlink = nlink + 1 WHERE vol = $1 AND ino = 1`, v.vol)
	v.exec(`UPDATE volumes SET next_ino = $2, entries = entries + $3, metadata = metadata + 5 * CAST($3 AS BIGINT) WHERE id = $1`, v.vol, last+1, depth)
}

// TestRemoveChain: directories in directories go many at a time, in short transactions.
func TestRemoveChain(t *testing.T) {
	onEngines(t, time.Hour, func(t *testing.T, opts bucket.Options) {
		p := newNSFixture(t, opts)
		v := p.newVolumeFixture("v", 0)
		const depth = 5000
		v.insertDirChain(1000, depth)
		ctx := context.Background()
		before := p.queryCount(`SELECT generation FROM volumes WHERE id = $1`, v.vol)
		p.mustSucceed(v.fs.RemoveAll(ctx, "chain"))
		steps := p.queryCount(`SELECT generation FROM volumes WHERE id = $1`, v.vol) - before
		if n := p.queryCount(`SELECT (SELECT count(*) FROM inodes WHERE ino >= 1000) + (SELECT count(*) FROM orphans)`); n != 0 {
			t.Errorf("%d rows are left", n)
		}
		if steps < depth/500 || steps > depth/50 {
			t.Errorf("%d transactions for %d directories", steps, depth)
		}
		v.mustHold("a/f", large)
		p.mustAuditClean()
	})
}

// TestRemoveTurns: a tree that takes long to remove does not hold up what others removed.
func TestRemoveTurns(t *testing.T) {
	opts := engines[0].fresh(t)
	p := newNSFixture(t, opts)
	v := p.newVolumeFixture("slow", 0)
	ctx := context.Background()
	v.insertDirChain(1000, 15000)
	p.exec(`DELETE FROM dirents WHERE vol = $1 AND ino = 1000`, v.vol)
	p.exec(`INSERT INTO orphans (vol, ino) VALUES ($1, 1000)`, v.vol)
	other := p.newVolumeFixture("other", 0)
	_, err := p.b.Remove(ctx, driver.ByID(formatTestID(other.vol)))
	p.mustSucceed(err)
	done := make(chan error, 1)
	go func() { done <- p.ns.Reap(ctx) }()
	for p.queryCount(`SELECT count(*) FROM volumes WHERE id = $1`, other.vol) > 0 {
		select {
		case err := <-done:
			t.Fatalf("the other volume is there after all: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	p.mustSucceed(<-done)
	if n := p.queryCount(`SELECT count(*) FROM inodes WHERE ino >= 1000`); n != 0 {
		t.Errorf("%d directories are left", n)
	}
}

// TestRemoveWide: a directory of more entries than go at once, with links of one file.
func TestRemoveWide(t *testing.T) {
	onEngines(t, time.Hour, func(t *testing.T, opts bucket.Options) {
		p := newNSFixture(t, opts)
		v := p.newVolumeFixture("v", 0)
		ctx := context.Background()
		f, err := p.b.OpenFS(ctx, formatTestID(v.vol), driver.FSOptions{Batch: true})
		p.mustSucceed(err)
		p.mustSucceed(f.MkdirAll(ctx, "w/sub", 0o755))
		_, err = f.WriteFile(ctx, "w/file", bytes.NewReader(large), driver.WriteOptions{})
		p.mustSucceed(err)
		for i := range 1100 {
			p.mustSucceed(f.Link(ctx, "w/file", fmt.Sprintf("w/%s%04d", []string{"", "sub/"}[i%2], i)))
		}
		p.mustSucceed(f.RemoveAll(ctx, "w"))
		if n := p.queryCount(`SELECT count(*) FROM dirents WHERE ino NOT IN (SELECT ino FROM inodes) OR parent NOT IN (SELECT ino FROM inodes)`); n != 0 {
			t.Errorf("%d names are left", n)
		}
		p.mustAuditClean()
	})
}
