package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/testing/servers"
)

// TestOptionsRefused: what would go wrong later is refused at once, without a word of a
// password.
func TestOptionsRefused(t *testing.T) {
	for name, change := range map[string]func(o *bucket.Options){
		"inline":    func(o *bucket.Options) { o.Inline = 64<<10 + 1 },
		"lease":     func(o *bucket.Options) { o.Lease = -1 },
		"grace":     func(o *bucket.Options) { o.Grace = -1 },
		"bound":     func(o *bucket.Options) { o.Unreferenced = 1 << 20 },
		"conns":     func(o *bucket.Options) { o.Conns = -1 },
		"key words": func(o *bucket.Options) { o.Database = "host=db password=secret" },
	} {
		o := bucket.Options{Dir: filepath.Join(t.TempDir(), "x")}
		change(&o)
		ns, err := bucket.Open(t.Context(), o)
		if !errors.Is(err, driver.ErrInvalid) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v", name, err)
		}
		if err == nil {
			ns.Close()
		}
	}
}

// TestOneConn: a single connection to PostgreSQL is enough for everything.
func TestOneConn(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	o := bucket.Options{Database: servers.PG(t), Blobs: t.TempDir(), Conns: 1, Maintain: -1}
	b, err := bucket.OpenOrg(ctx, o, "acme")
	if err != nil {
		t.Fatal(err)
	}
	s := vole.New(b)
	defer s.Close()
	v, err := s.Create(ctx, "v", vole.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	f := createFiles(t, v, strings.Repeat("x", 100_000))
	if err := f.Remove(ctx, "f"); err != nil {
		t.Error(err)
	}
	if err := s.Check(ctx, vole.CheckOptions{}, func(vole.Finding) error { return nil }); err != nil {
		t.Error(err)
	}
}

// TestReadOnlySchema: who only reads is told what is wrong with the schema.
func TestReadOnlySchema(t *testing.T) {
	pg := servers.PG(t)
	o := bucket.Options{Database: pg, Blobs: t.TempDir(), Maintain: -1}
	ro := o
	ro.ReadOnly = true
	open := func(o bucket.Options) error {
		ns, err := bucket.Open(t.Context(), o)
		if err == nil {
			err = ns.Close()
		}
		return err
	}
	if err := open(ro); !errors.Is(err, driver.ErrNotExist) {
		t.Errorf("an empty database: %v", err)
	}
	if err := open(o); err != nil {
		t.Fatal(err)
	}
	if err := open(ro); err != nil {
		t.Errorf("of this version: %v", err)
	}
	db := openDatabase(t, o)
	defer db.Close()
	if _, err := db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (1000, true)`); err != nil {
		t.Fatal(err)
	}
	if err := open(ro); !errors.Is(err, driver.ErrUnsupported) || !strings.Contains(err.Error(), "newer") {
		t.Errorf("of a newer version: %v", err)
	}
}

// TestMetricsRegister: a namespace's metrics are there while it is open, and only then.
func TestMetricsRegister(t *testing.T) {
	reg := prometheus.NewRegistry()
	o := bucket.Options{Dir: filepath.Join(t.TempDir(), "x"), Metrics: reg, Maintain: -1}
	bad := bucket.Options{Dir: filepath.Join(t.TempDir(), "y"), Database: "postgres://x@127.0.0.1:1/x", Metrics: reg}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := bucket.Open(ctx, bad); err == nil {
		t.Fatal("opened a database that is not there")
	}
	for i := range 2 {
		ns, err := bucket.Open(t.Context(), o)
		if err != nil {
			t.Fatalf("open %d: %v", i, err)
		}
		if _, err := bucket.Open(t.Context(), o); !errors.Is(err, driver.ErrExists) {
			t.Errorf("a second namespace with the same metrics: %v", err)
		}
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
		if list, err := reg.Gather(); err != nil || len(list) > 0 {
			t.Errorf("after Close there are %d metrics, %v", len(list), err)
		}
	}
}

// TestSweepReserve: a sweeper with a shorter grace time leaves others the ids that they
// have in reserve; where one with none takes them, one write fails and the next does not.
func TestSweepReserve(t *testing.T) {
	onEngines(t, 24*time.Hour, func(t *testing.T, opts bucket.Options) {
		opts.Maintain = -1
		p := newNSFixture(t, opts)
		v := p.newVolumeFixture("v", 0)
		ctx := context.Background()
		data := bytes.Repeat([]byte("x"), 100_000)
		write := func() error {
			_, err := v.fs.WriteFile(ctx, "new", bytes.NewReader(data), driver.WriteOptions{})
			return err
		}
		// Of the size that the write takes.
		const reserve = `SELECT count(*) FROM blobs WHERE freed IS NOT NULL AND sums IS NULL AND size = 131072`
		age := func() {
			for p.mustSucceed(write()); p.queryCount(reserve) == 0; {
				p.mustSucceed(write())
			}
			p.exec(`UPDATE blobs SET freed = freed - $1 WHERE freed IS NOT NULL AND sums IS NULL`, int64(50*time.Minute))
		}
		sweep := func(grace time.Duration) {
			o := opts
			o.Grace = grace
			ns, err := bucket.Open(ctx, o)
			p.mustSucceed(err)
			defer ns.Close()
			p.mustSucceed(ns.Sweep(ctx))
		}
		age()
		before := p.queryCount(reserve)
		sweep(time.Minute)
		if n := p.queryCount(reserve); n != before || n == 0 {
			t.Errorf("%d of %d ids are left", n, before)
		}
		age()
		sweep(time.Nanosecond)
		if err := write(); err == nil {
			t.Error("an id was used that a sweeper took")
		}
		p.mustSucceed(write())
	})
}

// TestSweepStuck: an object that cannot be deleted keeps no other from it.
func TestSweepStuck(t *testing.T) {
	opts := engines[0].fresh(t)
	opts.Grace, opts.Maintain = time.Nanosecond, -1
	p := newNSFixture(t, opts)
	v := p.newVolumeFixture("v", 0)
	bad, other := newID(), newID()
	p.mustSucceed(os.Symlink("loop", filepath.Join(opts.Dir, "blobs", "loop")))
	p.mustSucceed(os.Symlink("../loop", filepath.Join(opts.Dir, "blobs", "o", fmt.Sprintf("%x", bad))))
	for range 20 { // more than a sweep bears
		p.exec(`INSERT INTO doomed (org, id, at, twice) VALUES ($1, $2, 1, 0)`, bad, newID())
	}
	p.exec(`INSERT INTO doomed (org, id, at, twice) VALUES ($1, $2, 2, 0)`, v.org, other)
	v.writeObject(objectKeyOf(v.org, other), large)
	for range 2 {
		if err := p.ns.Sweep(context.Background()); err == nil {
			t.Error("what cannot be deleted was")
		}
	}
	if _, err := p.blobs.Stat(context.Background(), objectKeyOf(v.org, other)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the other object: %v", err)
	}
	if n := p.queryCount(`SELECT count(*) FROM doomed WHERE org = $1`, bad); n != 20 {
		t.Errorf("%d notes are left, not 20", n)
	}
}
