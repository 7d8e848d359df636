package bucket_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
)

// newDamagedVolume makes a volume that cannot be exported.
func (p *nsFixture) newDamagedVolume(name string) *volumeFixture {
	v := p.newVolumeFixture(name, 0)
	v.execOnInode("s", `UPDATE inodes SET target = $3 WHERE vol = $1 AND ino = $2`, []byte("x\x00"))
	return v
}

// TestExportDamagedVolumes: volumes of one organisation that cannot be exported keep
// neither its other volumes nor other organisations from being exported and swept.
func TestExportDamagedVolumes(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			opts := e.fresh(t)
			opts.Export, opts.Grace = time.Hour, time.Millisecond
			p := newNSFixture(t, opts)
			for i := range 12 {
				p.newDamagedVolume(fmt.Sprint("bad", i))
			}
			p.newVolumeFixture("sound", 0)
			other := openOrg(t, p.ns, "second")
			_, f := makeVolume(t, other, "v", vole.Spec{})
			mustSucceed(t, f.WriteFile(ctx, "f", large, 0o644), f.Remove(ctx, "f"))
			theirs := p.queryID(`SELECT id FROM orgs WHERE name = 'second'`)
			v := p.newVolumeFixture("freed", 0)
			mustSucceed(t, v.fs.Remove(ctx, "h"))
			time.Sleep(50 * time.Millisecond)

			res, err := p.ns.Export(ctx, bucket.ExportOptions{})
			if !errors.Is(err, driver.ErrCorrupt) || res.Exported != 3 {
				t.Errorf("%+v, %v", res, err)
			}
			if got := p.queryCount(`SELECT count(*) FROM volumes WHERE exported >= 0`); got != 3 {
				t.Errorf("%d volumes are exported", got)
			}
			const freed = `SELECT count(*) FROM blobs WHERE org = $1 AND freed IS NOT NULL`
			p.exec(`UPDATE blobs SET freed = 1 WHERE org = $1 AND freed IS NOT NULL`, v.org)
			if p.queryCount(freed, theirs) == 0 {
				t.Fatal("nothing to sweep")
			}
			mustSucceed(t, p.ns.Sweep(ctx))
			if n := p.queryCount(freed, theirs); n != 0 {
				t.Errorf("%d blobs of the sound organisation are left", n)
			}
			// Volumes are gone that could not be exported: all is well again.
			p.exec(`UPDATE inodes SET target = $1 WHERE target = $2`, []byte("a/f"), []byte("x\x00"))
			if res, err := p.ns.Export(ctx, bucket.ExportOptions{}); err != nil || res.Exported != 12 {
				t.Errorf("%+v, %v", res, err)
			}
		})
	}
}

// TestSweepAfterExporter: who does not export sweeps nothing either that an export of
// others may refer to.
func TestSweepAfterExporter(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			opts := e.fresh(t)
			opts.Grace = time.Millisecond
			p := newNSFixture(t, opts)
			v := p.newVolumeFixture("v", 0)
			objects := func() int64 { return p.queryCount(`SELECT count(*) FROM blobs WHERE sums IS NOT NULL`) }
			p.exec(`INSERT INTO jobs (name, expires) VALUES ('exporter', 9000000000000000000)`)
			mustGet(p.ns.Export(ctx, bucket.ExportOptions{}))(t)
			had := objects()
			_, err := v.fs.WriteFile(ctx, "a/g", strings.NewReader("x"), driver.WriteOptions{})
			mustSucceed(t, err)
			time.Sleep(50 * time.Millisecond)
			mustSucceed(t, p.ns.Sweep(ctx))
			if n := objects(); n != had {
				t.Errorf("%d of %d objects are left", n, had)
			}
			p.exec(`UPDATE jobs SET expires = 1 WHERE name = 'exporter'`)
			mustSucceed(t, p.ns.Sweep(ctx))
			if n := objects(); n != had-1 {
				t.Errorf("%d of %d objects are left without an exporter", n, had)
			}
		})
	}
}

// TestExportAfterRestore: a database of an older copy is exported, after which a rebuild
// does not bring back what it does not know.
func TestExportAfterRestore(t *testing.T) {
	for name, c := range map[string]struct {
		lost, fresh int
		before      bool // the copy was exported
	}{
		"longer past": {5, 2, true}, "shorter past": {1, 5, true}, "as long": {2, 2, true},
		"nothing new": {3, 0, true}, "never exported": {2, 2, false}, "never exported, longer past": {5, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			opts := bucket.Options{Dir: filepath.Join(t.TempDir(), "ns")}
			db := filepath.Join(opts.Dir, "namespace.db")
			work := func(text string, times int, export bool) {
				t.Helper()
				ns := openNS(t, opts)
				acme := openOrg(t, ns, "acme")
				v, err := acme.Get(ctx, "v")
				if errors.Is(err, vole.ErrNotFound) {
					v, err = acme.Create(ctx, "v", vole.Spec{})
				}
				mustSucceed(t, err)
				f := mustGet(v.FS(ctx))(t)
				for i := range times {
					mustSucceed(t, f.WriteFile(ctx, "f", fmt.Append(nil, text, i), 0o644))
					if export {
						mustGet(ns.Export(ctx, bucket.ExportOptions{}))(t)
					}
				}
				if export {
					mustGet(ns.Export(ctx, bucket.ExportOptions{}))(t)
				}
				mustSucceed(t, f.Close(), acme.Close(), ns.Close())
			}
			lose := func() {
				for _, suffix := range []string{"", "-wal", "-shm"} {
					os.Remove(db + suffix)
				}
			}
			work("old", 1, c.before)
			old := mustGet(os.ReadFile(db))(t)
			work("lost", c.lost, true)
			lose()
			mustSucceed(t, os.WriteFile(db, old, 0o600))
			work("new", c.fresh, c.fresh == 0)
			work("new", 0, true)
			ns := openNS(t, opts)
			if res := mustGet(ns.Export(ctx, bucket.ExportOptions{}))(t); res.Exported+res.Removed != 0 {
				t.Errorf("again: %+v", res)
			}
			mustSucceed(t, ns.Close())
			lose()
			mustGet(bucket.Rebuild(ctx, opts, noFinding(t)))(t)
			ns = openNS(t, opts)
			mustAuditNamespace(t, ns)
			f := mustGet(mustGet(openOrg(t, ns, "acme").Get(ctx, "v"))(t).FS(ctx))(t)
			want := "old0"
			if c.fresh > 0 {
				want = fmt.Sprint("new", c.fresh-1)
			}
			if got := mustGet(f.ReadFile(context.Background(), "f"))(t); string(got) != want {
				t.Errorf("rebuilt %q, want %q", got, want)
			}
		})
	}
}

// TestRebuildBadName: of a volume with names that no file can have all is rebuilt.
func TestRebuildBadName(t *testing.T) {
	for _, e := range losable {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			opts := e.fresh(t)
			p := newNSFixture(t, opts)
			v := p.newVolumeFixture("v", 0)
			v.renameRootEntry("h", strings.Repeat("n", 300))
			v.renameRootEntry("s", "../s")
			v.execOnInode("a/f", `UPDATE inodes SET nlink = 7 WHERE vol = $1 AND ino = $2`)
			v.execOnInode("a/b", `UPDATE dirents SET parent = $3 WHERE vol = $1 AND ino = $2`, v.inodeOf("a/b/c"))
			mustGet(p.ns.Export(ctx, bucket.ExportOptions{}))(t)
			mustSucceed(t, v.fs.Close(), p.b.Close(), p.ns.Close())
			e.lose(t, &opts)
			var found []driver.Finding
			res := mustGet(bucket.Rebuild(ctx, opts, func(f driver.Finding) error { found = append(found, f); return nil }))(t)
			if res.Volumes != 1 || res.Damaged != 0 || joinCodes(found) != "bad-name directory-cycle wrong-link-count" {
				t.Errorf("%+v: %+v", res, found)
			}
			ns := openNS(t, opts)
			mustAuditNamespace(t, ns)
			f := mustGet(mustGet(openOrg(t, ns, "acme").Get(ctx, "v"))(t).FS(ctx))(t)
			names := ""
			for _, dir := range []string{"/", "lost+found"} {
				for _, e := range mustGet(f.ReadDir(ctx, dir))(t) {
					names += e.Name[:min(4, len(e.Name))] + " "
				}
			}
			if names != ".._s a lost nnnn #3 " {
				t.Errorf("names %q", names)
			}
		})
	}
}

// TestRebuildLastGeneration: a key of the highest number there is gives no volume a
// generation that cannot be counted on from, and goes with the next export.
func TestRebuildLastGeneration(t *testing.T) {
	for _, e := range inDirs {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			opts := e.fresh(t)
			ns := openNS(t, opts)
			acme := openOrg(t, ns, "acme")
			_, f := makeVolume(t, acme, "v", vole.Spec{})
			mustSucceed(t, f.WriteFile(ctx, "f", []byte("x"), 0o644))
			mustGet(ns.Export(ctx, bucket.ExportOptions{}))(t)
			mustSucceed(t, f.Close(), acme.Close(), ns.Close())
			name := objectFiles(t, opts, manifests)[0]
			mustSucceed(t, os.WriteFile(filepath.Join(filepath.Dir(name), "09223372036854775807.jsonl.zst"), mustGet(os.ReadFile(name))(t), 0o600))
			opts = newDatabase(t, opts)
			var found []driver.Finding
			mustGet(bucket.Rebuild(ctx, opts, func(f driver.Finding) error { found = append(found, f); return nil }))(t)
			if joinCodes(found) != "older-manifest" {
				t.Errorf("%+v", found)
			}
			ns = openNS(t, opts)
			f = mustGet(mustGet(openOrg(t, ns, "acme").Get(ctx, "v"))(t).FS(ctx))(t)
			mustSucceed(t, f.WriteFile(ctx, "f", []byte("y"), 0o644))
			if res := mustGet(ns.Export(ctx, bucket.ExportOptions{}))(t); res.Exported != 1 || res.Removed != 1 {
				t.Errorf("%+v", res)
			}
			mustAuditNamespace(t, ns)
		})
	}
}
