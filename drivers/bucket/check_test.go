package bucket_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	_ "github.com/jackc/pgx/v5/stdlib" // the database behind the back of a namespace
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/drivers/bucket/internal/blob"
	_ "modernc.org/sqlite"
)

// nsFixture is an open namespace with its insides: what is done to them no namespace does.
type nsFixture struct {
	t      *testing.T
	ns     *bucket.Namespace
	b      *bucket.Backend
	db     *sql.Conn // without foreign keys
	sqlite bool
	blobs  blob.Store
}

func newNSFixture(t *testing.T, opts bucket.Options) *nsFixture {
	t.Helper()
	ctx := context.Background()
	opts.Maintain, opts.Inline = -1, 64
	ns, err := bucket.Open(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	p := &nsFixture{t: t, ns: ns, sqlite: opts.Dir != ""}
	p.mustSucceed(ns.CreateOrg(ctx, "acme"))
	p.b, err = ns.Org(ctx, "acme")
	p.mustSucceed(err)
	name, url := "pgx", opts.Database
	if p.sqlite {
		name, url = "sqlite", "file:"+filepath.Join(opts.Dir, "namespace.db")+"?_pragma=busy_timeout(10000)"
		p.blobs, err = blob.OpenDir(filepath.Join(opts.Dir, "blobs"), nil)
	} else {
		p.blobs, err = blob.OpenS3(ctx, *opts.S3)
	}
	p.mustSucceed(err)
	db, err := sql.Open(name, url)
	p.mustSucceed(err)
	p.db, err = db.Conn(ctx)
	p.mustSucceed(err)
	if !p.sqlite {
		p.exec(`SET session_replication_role = replica`)
		// What is done behind the namespace's back counts all the same.
		for _, table := range []string{"blobs", "doomed"} {
			for _, what := range []string{"added", "changed", "removed"} {
				p.exec(`ALTER TABLE ` + table + ` ENABLE ALWAYS TRIGGER ` + table + `_` + what)
			}
		}
	}
	t.Cleanup(func() {
		if err := errors.Join(p.db.Close(), db.Close(), p.blobs.Close(), p.b.Close(), ns.Close()); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *nsFixture) mustSucceed(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

var numbered = regexp.MustCompile(`\$([0-9]+)`)

func (p *nsFixture) engineSQL(s string) string {
	if p.sqlite {
		return numbered.ReplaceAllString(s, "?$1")
	}
	return s
}

func (p *nsFixture) exec(s string, args ...any) {
	p.t.Helper()
	if _, err := p.db.ExecContext(context.Background(), p.engineSQL(s), args...); err != nil {
		p.t.Fatalf("%s: %v", s, err)
	}
}

func (p *nsFixture) queryCount(s string, args ...any) (n int64) {
	p.t.Helper()
	if err := p.db.QueryRowContext(context.Background(), p.engineSQL(s), args...).Scan(&n); err != nil {
		p.t.Fatalf("%s: %v", s, err)
	}
	return n
}

func (p *nsFixture) queryID(s string, args ...any) (id []byte) {
	p.t.Helper()
	if err := p.db.QueryRowContext(context.Background(), p.engineSQL(s), args...).Scan(&id); err != nil {
		p.t.Fatalf("%s: %v", s, err)
	}
	return id
}

func (p *nsFixture) auditFindings(fix bool) []driver.Finding {
	p.t.Helper()
	var list []driver.Finding
	err := p.ns.Audit(context.Background(), driver.CheckOptions{Fix: fix}, func(f driver.Finding) error {
		list = append(list, f)
		return nil
	})
	p.mustSucceed(err)
	return list
}

func (p *nsFixture) mustAuditClean() {
	p.t.Helper()
	for _, f := range p.auditFindings(false) {
		p.t.Errorf("found %+v", f)
	}
}

func joinCodes(list []driver.Finding) string {
	var names []string
	for _, f := range list {
		names = append(names, f.Code)
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), " ")
}

// volumeFixture is a volume that is going to be damaged.
type volumeFixture struct {
	*nsFixture
	vol, org []byte
	fs       driver.FS
}

// large is what the victims' files a/f (also h) and a/g hold, which is in objects.
var large = bytes.Repeat([]byte("large"), 20000)

func (p *nsFixture) newVolumeFixture(name string, quota driver.Size) *volumeFixture {
	p.t.Helper()
	ctx := context.Background()
	info, err := p.b.Create(ctx, name, driver.Spec{Kind: driver.KindDir, Quota: quota})
	p.mustSucceed(err)
	v := &volumeFixture{nsFixture: p, vol: parseTestID(info.ID)}
	v.org = p.queryID(`SELECT org FROM volumes WHERE id = $1`, v.vol)
	v.fs, err = p.b.OpenFS(ctx, info.ID, driver.FSOptions{})
	p.mustSucceed(err)
	p.mustSucceed(v.fs.MkdirAll(ctx, "a/b/c", 0o755))
	for name, data := range map[string][]byte{"a/f": large, "a/g": large, "a/small": []byte("small"), "a/b/c/deep": []byte("deep")} {
		_, err := v.fs.WriteFile(ctx, name, bytes.NewReader(data), driver.WriteOptions{})
		p.mustSucceed(err)
	}
	p.mustSucceed(v.fs.Link(ctx, "a/f", "h"))
	p.mustSucceed(v.fs.Symlink(ctx, "a/f", "s"))
	p.mustSucceed(v.fs.Setxattr(ctx, "a/f", "user.k", []byte("v")))
	return v
}

func parseTestID(s string) []byte {
	id := uuid.MustParse(s)
	return id[:]
}

func formatTestID(b []byte) string { return uuid.UUID(b).String() }

func (v *volumeFixture) inodeOf(path string) int64 {
	v.t.Helper()
	e, err := v.fs.Lstat(context.Background(), path)
	v.mustSucceed(err)
	return int64(e.Inode)
}

// execOnInode runs a statement about the volume ($1) and inode of a path ($2).
func (v *volumeFixture) execOnInode(path, sql string, args ...any) {
	v.t.Helper()
	v.exec(sql, append([]any{v.vol, v.inodeOf(path)}, args...)...)
}

func (v *volumeFixture) blobOf(path string) []byte {
	v.t.Helper()
	return v.queryID(`SELECT blob FROM chunks WHERE vol = $1 AND ino = $2`, v.vol, v.inodeOf(path))
}

func objectKeyOf(org, id []byte) string { return fmt.Sprintf("o/%x/b/%x/%x", org, id[15:], id) }

func (v *volumeFixture) writeObject(key string, data []byte) {
	v.t.Helper()
	v.mustSucceed(v.blobs.Write(context.Background(), key, bytes.NewReader(data)))
}

// mustHold checks the contents of a file.
func (v *volumeFixture) mustHold(path string, want []byte) {
	v.t.Helper()
	h, err := v.fs.Open(context.Background(), path, driver.OpenOptions{})
	if err != nil {
		v.t.Errorf("open %s: %v", path, err)
		return
	}
	defer h.Close()
	got := make([]byte, len(want)+1)
	n, err := h.ReadAt(context.Background(), got, 0)
	if n != len(want) || !errors.Is(err, io.EOF) || !bytes.Equal(got[:n], want) {
		v.t.Errorf("%s does not hold its %d bytes: got %d, %v", path, len(want), n, err)
	}
}

// removeVolume removes the volume with its rows.
func (v *volumeFixture) removeVolume() {
	v.t.Helper()
	_, err := v.b.Remove(context.Background(), driver.ByID(formatTestID(v.vol)))
	v.mustSucceed(err)
	v.mustSucceed(v.ns.Reap(context.Background()))
}

// TestCheckOrg: a Backend's check is of its organisation only.
func TestCheckOrg(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			p := newNSFixture(t, e.fresh(t))
			v := p.newVolumeFixture("v", 0)
			p.mustSucceed(p.ns.CreateOrg(ctx, "other"))
			other, err := p.ns.Org(ctx, "other")
			p.mustSucceed(err)
			defer other.Close()
			v.exec(`UPDATE volumes SET used = used + 7 WHERE id = $1`, v.vol)
			v.writeObject(objectKeyOf(v.org, newID()), large)
			for _, c := range []struct {
				b    *bucket.Backend
				want string
			}{{p.b, "unknown-object wrong-usage"}, {other, ""}} {
				var list []driver.Finding
				p.mustSucceed(c.b.Check(ctx, driver.CheckOptions{}, func(f driver.Finding) error { list = append(list, f); return nil }))
				if joinCodes(list) != c.want {
					t.Errorf("found %q, want %q", joinCodes(list), c.want)
				}
			}
			enough := errors.New("enough")
			if err := p.b.Check(ctx, driver.CheckOptions{}, func(driver.Finding) error { return enough }); !errors.Is(err, enough) {
				t.Errorf("the error of report: got %v", err)
			}
		})
	}
}

// TestCheckBusy: what others are in the middle of is never a finding.
func TestCheckBusy(t *testing.T) {
	t.Parallel()
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			opts := e.fresh(t)
			opts.Grace = 2 * time.Second
			p := newNSFixture(t, opts)
			v := p.newVolumeFixture("v", 0)
			ctx, stop := context.WithTimeout(context.Background(), 4*time.Second)
			defer stop()
			var writers sync.WaitGroup
			var mu sync.Mutex
			for w := range 4 {
				writers.Go(func() {
					if err := churn(ctx, p.b, v.fs, w); err != nil {
						mu.Lock()
						defer mu.Unlock()
						t.Errorf("writer %d: %v", w, err)
					}
				})
			}
			checks := 0
			for ctx.Err() == nil {
				for _, f := range p.auditFindings(false) {
					t.Errorf("found while writers run: %+v", f)
				}
				if err := p.ns.Maintain(context.Background()); err != nil {
					t.Error(err)
				}
				checks++
			}
			writers.Wait()
			p.mustSucceed(p.ns.Maintain(context.Background()))
			p.mustAuditClean()
			if checks < 2 {
				t.Errorf("%d checks ran, so that this test says nothing", checks)
			}
		})
	}
}

// churn makes, changes and removes things until ctx ends.
func churn(ctx context.Context, b *bucket.Backend, fsys driver.FS, w int) error {
	all := context.Background() // what has begun is finished
	dir := fmt.Sprintf("w%d", w)
	for i := 0; ctx.Err() == nil; i++ {
		f, d, c := fmt.Sprintf("%s/d%d/f", dir, i%3), fmt.Sprintf("%s/d%d", dir, i%3), fmt.Sprintf("%s/copy%d", dir, i%2)
		h, err := driver.File(nil), fsys.MkdirAll(all, d, 0o755)
		step := func(fn func() error) {
			if err == nil {
				err = fn()
			}
		}
		step(func() error {
			_, err := fsys.WriteFile(all, f, bytes.NewReader(large[:rand.IntN(len(large))]), driver.WriteOptions{})
			return err
		})
		step(func() error { h, err = fsys.Open(all, f, driver.OpenOptions{Write: true}); return err })
		step(func() error { _, err := h.WriteAt(all, large[:rand.IntN(1000)], rand.Int64N(200000)); return err })
		step(func() error { return h.Truncate(all, rand.Int64N(100000)) })
		step(func() error { return fsys.Remove(all, f) })
		step(func() error { _, err := h.WriteAt(all, []byte("without a name"), 5); return err })
		step(func() error { return fsys.RemoveAll(all, c) })
		step(func() error { return fsys.Copy(all, d, c, driver.CopyOptions{}) })
		step(func() error { return h.Close() })
		step(func() error { return fsys.RemoveAll(all, d) })
		step(func() error {
			info, err := b.Create(all, fmt.Sprintf("vol-%d-%d", w, i), driver.Spec{Kind: driver.KindDir, Draft: i%2 == 0})
			if err == nil {
				_, err = b.Remove(all, driver.ByID(info.ID))
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
