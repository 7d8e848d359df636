package bucket_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/testing/servers"
)

// inDirs are both databases over a directory, in which tests can do damage.
var inDirs = []struct {
	name  string
	fresh func(t *testing.T) bucket.Options
}{
	{"SQLite", func(t *testing.T) bucket.Options {
		dir := t.TempDir()
		return bucket.Options{Database: filepath.Join(dir, "1.db"), Blobs: filepath.Join(dir, "blobs")}
	}},
	{"PostgreSQL", func(t *testing.T) bucket.Options {
		return bucket.Options{Database: servers.PG(t), Blobs: filepath.Join(t.TempDir(), "blobs")}
	}},
}

// newDatabase is o with a database that is empty.
func newDatabase(t *testing.T, o bucket.Options) bucket.Options {
	if strings.HasPrefix(o.Database, "postgres") {
		o.Database = servers.PG(t)
		return o
	}
	o.Database = filepath.Join(t.TempDir(), "2.db")
	return o
}

// objectFiles are the files of a blob store whose path in it matches a pattern, sorted.
func objectFiles(t *testing.T, o bucket.Options, pattern string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(o.Blobs, func(p string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(o.Blobs, p)
		if fit, _ := filepath.Match(pattern, filepath.ToSlash(rel)); fit && !d.IsDir() {
			list = append(list, p)
		}
		return err
	})
	mustSucceed(t, err)
	slices.Sort(list)
	return list
}

const (
	manifests = "o/*/m/*/*"
	blobs     = "o/*/b/*/*"
)

// damageFile changes a file of a blob store.
func damageFile(t *testing.T, name string, change func(data []byte) []byte) {
	t.Helper()
	data := mustGet(os.ReadFile(name))(t)
	mustSucceed(t, os.Chmod(name, 0o600), os.WriteFile(name, change(data), 0o600))
}

func TestRebuildDamaged(t *testing.T) {
	cut := func(p []byte) []byte { return p[:len(p)/2] }
	flip := func(p []byte) []byte { p[len(p)/2] ^= 0x10; return p }
	nothing := func(p []byte) []byte { return nil }
	for _, e := range inDirs {
		for name, change := range map[string]func([]byte) []byte{"cut": cut, "flipped": flip, "empty": nothing} {
			t.Run(e.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				ctx := t.Context()
				opts := e.fresh(t)
				ns := openNS(t, opts)
				acme := openOrg(t, ns, "acme")
				_, f := makeVolume(t, acme, "v", vole.Spec{})
				_, g := makeVolume(t, acme, "w", vole.Spec{})
				for i := range 5 {
					mustSucceed(t, f.WriteFile(ctx, "f", []byte(strings.Repeat(fmt.Sprint(i), 20_000)), 0o644))
					res := mustGet(ns.Export(ctx, bucket.ExportOptions{}))(t)
					if want := min(1, max(0, i-1)); res.Removed != want {
						t.Errorf("export %d removed %d manifests, want %d", i, res.Removed, want)
					}
				}
				mustSucceed(t, f.Close(), g.Close(), acme.Close(), ns.Close())
				list := objectFiles(t, opts, manifests)
				if len(list) != 3 {
					t.Fatalf("manifests %q", list)
				}
				damageFile(t, list[1], change) // the newest of v
				damageFile(t, list[2], change) // the only one of w
				opts = newDatabase(t, opts)
				var found []driver.Finding
				report := func(f driver.Finding) error { found = append(found, f); return nil }
				res := mustGet(bucket.Rebuild(ctx, opts, report))(t)
				if res.Volumes != 1 || res.Damaged != 1 || res.Lost != 1 || res.Freed != 4 {
					t.Errorf("%+v", res)
				}
				if want := []string{"older-manifest", "older-manifest", "lost-volume"}; !slices.Equal(sortedCodes(found), want) {
					t.Errorf("%+v", found)
				}
				if !strings.Contains(found[0].Detail, filepath.Base(list[1])) || !strings.Contains(found[0].Detail, "line ") {
					t.Errorf("%q does not tell the object and the line", found[0].Detail)
				}
				ns = openNS(t, opts)
				mustAuditNamespace(t, ns)
				f = mustGet(mustGet(openOrg(t, ns, "acme").Get(ctx, "v"))(t).FS(ctx))(t)
				if data := mustGet(f.ReadFile(ctx, "f"))(t); string(data) != strings.Repeat("3", 20_000) {
					t.Errorf("%.10q, %d bytes", data, len(data))
				}
				// The next manifest does not meet the damaged one.
				if res := mustGet(ns.Export(ctx, bucket.ExportOptions{}))(t); res.Exported != 1 {
					t.Errorf("%+v", res)
				}
			})
		}
	}
}

func TestRebuildLostBytes(t *testing.T) {
	for _, e := range inDirs {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			opts := e.fresh(t)
			ns := openNS(t, opts)
			acme := openOrg(t, ns, "acme")
			v, f := makeVolume(t, acme, "v", vole.Spec{})
			mustSucceed(t,
				f.WriteFile(ctx, "a/kept", []byte(strings.Repeat("k", 30_000)), 0o644),
				f.WriteFile(ctx, "a/b/lost", []byte(strings.Repeat("l", 40_000)), 0o644),
				f.WriteFile(ctx, "a/b/cut", []byte(strings.Repeat("c", 50_000)), 0o644))
			mustGet(ns.Export(ctx, bucket.ExportOptions{}))(t)
			mustSucceed(t, f.Close(), acme.Close(), ns.Close())
			away := ""
			for _, name := range objectFiles(t, opts, blobs) {
				switch mustGet(os.Stat(name))(t).Size() {
				case 40_000:
					away = name
					mustSucceed(t, os.Rename(name, opts.Blobs+".away"))
				case 50_000:
					damageFile(t, name, func(p []byte) []byte { return p[1:] })
				}
			}
			opts = newDatabase(t, opts)
			found := map[string]driver.Finding{}
			res := mustGet(bucket.Rebuild(ctx, opts, func(f driver.Finding) error { found[f.Path] = f; return nil }))(t)
			if res.Volumes != 1 || res.Damaged != 1 || res.Lost != 0 || len(found) != 2 {
				t.Errorf("%+v, %+v", res, found)
			}
			for path, size := range map[string]string{"a/b/lost": "40000 bytes from byte 0", "a/b/cut": "50000 bytes from byte 0"} {
				if f := found[path]; f.Code != "lost-bytes" || f.Volume != v.ID() || !strings.Contains(f.Detail, size) {
					t.Errorf("%s: %+v", path, f)
				}
			}
			ns = openNS(t, opts)
			f = mustGet(mustGet(openOrg(t, ns, "acme").Get(ctx, "v"))(t).FS(ctx))(t)
			if data, err := f.ReadFile(ctx, "a/kept"); err != nil || len(data) != 30_000 {
				t.Errorf("kept: %d bytes, %v", len(data), err)
			}
			for _, path := range []string{"a/b/lost", "a/b/cut"} {
				if data, err := f.ReadFile(ctx, path); err == nil {
					t.Errorf("%s: %d bytes, and no error", path, len(data))
				}
			}
			mustSucceed(t, os.Rename(opts.Blobs+".away", away)) // found in another place
			if data, err := f.ReadFile(ctx, "a/b/lost"); err != nil || len(data) != 40_000 {
				t.Errorf("brought back: %d bytes, %v", len(data), err)
			}
		})
	}
}

// What manifests do not know is left to the sweeper, and what they know is not.
func TestRebuildSweep(t *testing.T) {
	for _, e := range inDirs {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			opts := e.fresh(t)
			opts.Grace = time.Millisecond
			ns := openNS(t, opts)
			acme := openOrg(t, ns, "acme")
			_, f := makeVolume(t, acme, "v", vole.Spec{})
			_, g := makeVolume(t, acme, "gone", vole.Spec{})
			mustSucceed(t, f.WriteFile(ctx, "f", []byte(strings.Repeat("1", 30_000)), 0o644), g.WriteFile(ctx, "g", []byte(strings.Repeat("1", 30_000)), 0o644))
			mustGet(ns.Export(ctx, bucket.ExportOptions{}))(t)
			mustSucceed(t, g.Close(), acme.Remove(ctx, "gone"))
			// The manifest of what was removed goes with the next export.
			if res := mustGet(ns.Export(ctx, bucket.ExportOptions{}))(t); res.Removed != 1 || res.Unchanged != 1 {
				t.Errorf("%+v", res)
			}
			mustSucceed(t, f.WriteFile(ctx, "late", []byte(strings.Repeat("2", 30_000)), 0o644))
			mustSucceed(t, f.Close(), acme.Close(), ns.Close())
			opts = newDatabase(t, opts)
			res := mustGet(bucket.Rebuild(ctx, opts, noFinding(t)))(t)
			if res.Freed != 2 { // of the volume that was removed, and of the late file
				t.Errorf("%+v", res)
			}
			ns = openNS(t, opts)
			time.Sleep(10 * time.Millisecond)
			mustSucceed(t, ns.Sweep(ctx))
			if list := objectFiles(t, opts, blobs); len(list) != 1 {
				t.Errorf("left: %q", list)
			}
			f = mustGet(mustGet(openOrg(t, ns, "acme").Get(ctx, "v"))(t).FS(ctx))(t)
			if data, err := f.ReadFile(ctx, "f"); err != nil || len(data) != 30_000 {
				t.Errorf("%d bytes, %v", len(data), err)
			}
			mustAuditNamespace(t, ns)
		})
	}
}

// Two volumes may have had the same name in turn.
func TestRebuildNames(t *testing.T) {
	ctx := t.Context()
	opts := inDirs[0].fresh(t)
	ns := openNS(t, opts)
	acme := openOrg(t, ns, "acme")
	old, f := makeVolume(t, acme, "v", vole.Spec{})
	mustGet(ns.Export(ctx, bucket.ExportOptions{}))(t)
	kept := objectFiles(t, opts, manifests)[0]
	data := mustGet(os.ReadFile(kept))(t)
	mustSucceed(t, f.Close(), acme.Remove(ctx, "v"))
	_, f = makeVolume(t, acme, "v", vole.Spec{})
	mustSucceed(t, f.WriteFile(ctx, "new", nil, 0o644))
	mustGet(ns.Export(ctx, bucket.ExportOptions{}))(t)
	mustSucceed(t, f.Close(), acme.Close(), ns.Close())
	mustSucceed(t, os.MkdirAll(filepath.Dir(kept), 0o700), os.WriteFile(kept, data, 0o600))
	opts = newDatabase(t, opts)
	var found []driver.Finding
	mustGet(bucket.Rebuild(ctx, opts, func(f driver.Finding) error { found = append(found, f); return nil }))(t)
	if !slices.Equal(sortedCodes(found), []string{"renamed-volume"}) || found[0].Volume != old.ID() {
		t.Errorf("%+v", found)
	}
	acme = openOrg(t, openNS(t, opts), "acme")
	if v := mustGet(acme.Get(ctx, old.ID()))(t); v.Name() != "v."+old.ID() {
		t.Errorf("the old one is called %q", v.Name())
	}
	f = mustGet(mustGet(acme.Get(ctx, "v"))(t).FS(ctx))(t)
	if exists, err := f.Exists(ctx, "new"); !exists {
		t.Errorf("the name is not that of the new one: %v", err)
	}
}

// A rebuild that was broken off leaves nothing to be seen, and the next one succeeds.
func TestRebuildAgain(t *testing.T) {
	for _, e := range inDirs {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			opts := e.fresh(t)
			ns := openNS(t, opts)
			acme := openOrg(t, ns, "acme")
			for i := range 4 {
				_, f := makeVolume(t, acme, fmt.Sprint("v", i), vole.Spec{})
				mustSucceed(t, f.WriteFile(ctx, "d/f", []byte(strings.Repeat("1", 30_000)), 0o644), f.Close())
			}
			mustGet(ns.Export(ctx, bucket.ExportOptions{}))(t)
			mustSucceed(t, acme.Close(), ns.Close())
			empty := bucket.Options{Database: opts.Database, Blobs: filepath.Join(t.TempDir(), "none")}
			empty = newDatabase(t, empty)
			if _, err := bucket.Rebuild(ctx, empty, noFinding(t)); !errors.Is(err, driver.ErrNoSuch) {
				t.Errorf("without manifests: %v", err)
			}
			opts = newDatabase(t, opts)
			// The last volume is damaged, and telling of it fails.
			list := objectFiles(t, opts, manifests)
			whole := mustGet(os.ReadFile(list[3]))(t)
			damageFile(t, list[3], func(p []byte) []byte { return p[:20] })
			broken := errors.New("broken off")
			if _, err := bucket.Rebuild(ctx, opts, func(driver.Finding) error { return broken }); !errors.Is(err, broken) {
				t.Fatal(err)
			}
			half := openNS(t, opts)
			acme = openOrg(t, half, "acme")
			if page := mustGet(acme.List(ctx, vole.Filter{}))(t); len(page.Volumes) != 0 {
				t.Errorf("%+v", page)
			}
			if _, err := half.Export(ctx, bucket.ExportOptions{}); !errors.Is(err, driver.ErrInUse) {
				t.Errorf("export amid a rebuild: %v", err)
			}
			mustSucceed(t, acme.Close(), half.Close())
			damageFile(t, list[3], func([]byte) []byte { return whole })
			if res := mustGet(bucket.Rebuild(ctx, opts, noFinding(t)))(t); res.Volumes != 4 {
				t.Errorf("%+v", res)
			}
			mustAuditNamespace(t, openNS(t, opts))
		})
	}
}

// TestExportKeeps: what the last export refers to is not swept while exports are on.
func TestExportKeeps(t *testing.T) {
	for _, e := range inDirs {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			opts := e.fresh(t)
			opts.Grace, opts.Export = time.Millisecond, time.Hour
			ns := openNS(t, opts)
			_, f := makeVolume(t, openOrg(t, ns, "acme"), "v", vole.Spec{})
			mustSucceed(t, f.WriteFile(ctx, "f", []byte(strings.Repeat("1", 30_000)), 0o644))
			mustGet(ns.Export(ctx, bucket.ExportOptions{}))(t)
			mustSucceed(t, f.Remove(ctx, "f"))
			sweep := func(want int) {
				t.Helper()
				time.Sleep(10 * time.Millisecond)
				mustSucceed(t, ns.Sweep(ctx))
				if list := objectFiles(t, opts, blobs); len(list) != want {
					t.Errorf("left: %q, want %d", list, want)
				}
			}
			sweep(1)
			mustGet(ns.Export(ctx, bucket.ExportOptions{}))(t)
			sweep(0)
		})
	}
}
