package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
)

// onEngines runs a test on each engine, with options of its own.
func onEngines(t *testing.T, grace time.Duration, fn func(t *testing.T, opts bucket.Options)) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			opts := e.fresh(t)
			opts.Grace = grace
			fn(t, opts)
		})
	}
}

func (p *nsFixture) sweepNow() {
	p.t.Helper()
	p.mustSucceed(p.ns.Sweep(context.Background()))
}

// countObjects counts what the store has.
func (p *nsFixture) countObjects() (n int) {
	p.t.Helper()
	for _, err := range p.blobs.List(context.Background(), "o/") {
		p.mustSucceed(err)
		n++
	}
	return n
}

// registerBlob makes the row and the object of a blob that a write did not come to use, as
// of some time ago.
func (v *volumeFixture) registerBlob(age time.Duration) []byte {
	v.t.Helper()
	id := newID()
	v.exec(`INSERT INTO blobs (org, id, size, created, freed) VALUES ($1, $2, 0, $3, $3)`, v.org, id, time.Now().Add(-age).UnixNano())
	v.writeObject(objectKeyOf(v.org, id), large)
	return id
}

// TestSweepNeverUsed: what was put and not committed goes after the grace time, not
// before, and is deleted again in case the put was late.
func TestSweepNeverUsed(t *testing.T) {
	onEngines(t, time.Hour, func(t *testing.T, opts bucket.Options) {
		p := newNSFixture(t, opts)
		v := p.newVolumeFixture("v", 0)
		old, young := v.registerBlob(61*time.Minute), v.registerBlob(58*time.Minute)
		p.sweepNow()
		for _, b := range []struct {
			id    []byte
			there bool
		}{{old, false}, {young, true}} {
			_, err := p.blobs.Stat(context.Background(), objectKeyOf(v.org, b.id))
			if rows := p.queryCount(`SELECT count(*) FROM blobs WHERE id = $1`, b.id); (rows > 0) != b.there || (err == nil) != b.there {
				t.Errorf("the blob is there: %v; want %d rows and an object: %v", err, rows, b.there)
			}
		}
		v.writeObject(objectKeyOf(v.org, old), large) // it arrives now
		p.mustAuditClean()
		p.sweepNow()
		if _, err := p.blobs.Stat(context.Background(), objectKeyOf(v.org, old)); err != nil {
			t.Errorf("the late object went before it was time: %v", err)
		}
		p.exec(`UPDATE doomed SET at = $1`, time.Now().Add(-time.Second).UnixNano())
		p.sweepNow()
		if _, err := p.blobs.Stat(context.Background(), objectKeyOf(v.org, old)); err == nil {
			t.Error("the late object stays")
		}
		if n := p.queryCount(`SELECT count(*) FROM doomed`); n != 0 {
			t.Errorf("%d notes of objects stay", n)
		}
		v.mustHold("a/f", large)
		p.mustAuditClean()
	})
}

// TestSweepClone: what a clone refers to stays when the original is gone.
func TestSweepClone(t *testing.T) {
	onEngines(t, time.Nanosecond, func(t *testing.T, opts bucket.Options) {
		p := newNSFixture(t, opts)
		v := p.newVolumeFixture("v", 0)
		ctx := context.Background()
		id := formatTestID(v.vol)
		info, err := p.b.Create(ctx, "clone", driver.Spec{Kind: driver.KindDir, From: id})
		p.mustSucceed(err)
		v.removeVolume()
		if n := p.queryCount(`SELECT count(*) FROM blobs WHERE freed IS NOT NULL AND sums IS NOT NULL`); n != 0 {
			t.Errorf("%d blobs count as freed that the clone refers to", n)
		}
		time.Sleep(5 * time.Millisecond)
		p.sweepNow()
		c := &volumeFixture{nsFixture: p, vol: parseTestID(info.ID), org: v.org}
		c.fs, err = p.b.OpenFS(ctx, info.ID, driver.FSOptions{})
		p.mustSucceed(err)
		for _, f := range []string{"a/f", "a/g", "h"} {
			c.mustHold(f, large)
		}
		if n := p.queryCount(`SELECT count(*) FROM blobs WHERE freed IS NOT NULL`); n != 0 {
			t.Errorf("%d blobs are marked freed after the sweep", n)
		}
		p.mustAuditClean()
	})
}

// TestSweepAtOnce: of several sweepers one works, and the others say that.
func TestSweepAtOnce(t *testing.T) {
	onEngines(t, time.Nanosecond, func(t *testing.T, opts bucket.Options) {
		p := newNSFixture(t, opts)
		v := p.newVolumeFixture("v", 0)
		for range 40 {
			v.registerBlob(time.Second)
		}
		list := []*bucket.Namespace{p.ns}
		opts.Maintain = -1
		for range 3 {
			ns, err := bucket.Open(context.Background(), opts)
			p.mustSucceed(err)
			defer ns.Close()
			list = append(list, ns)
		}
		errs := make([]error, len(list))
		var begin, sweepers sync.WaitGroup
		begin.Add(1)
		for i, ns := range list {
			sweepers.Go(func() {
				begin.Wait()
				errs[i] = ns.Sweep(context.Background())
			})
		}
		begin.Done()
		sweepers.Wait()
		worked, waited := 0, 0
		for _, err := range errs {
			switch {
			case err == nil:
				worked++
			case errors.Is(err, driver.ErrInUse):
				waited++
			default:
				t.Error(err)
			}
		}
		// One that comes late may find the work done and the job free.
		if worked == 0 || waited == 0 {
			t.Errorf("%d sweepers worked and %d were told that another does", worked, waited)
		}
		v.mustHold("a/f", large)
		if n := p.countObjects(); n != 2 {
			t.Errorf("%d objects are left, want 2", n)
		}
		p.mustAuditClean()
	})
}

// busyGrace is the grace time of TestSweepBusy.
const busyGrace = 1500 * time.Millisecond

// TestSweepBusy: with a grace time that is longer than any write, sweeping beside
// writers loses nothing.
func TestSweepBusy(t *testing.T) {
	t.Parallel()
	onEngines(t, busyGrace, func(t *testing.T, opts bucket.Options) {
		p := newNSFixture(t, opts)
		v := p.newVolumeFixture("v", 0)
		ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
		defer stop()
		var writers sync.WaitGroup
		held := make([]map[string][]byte, 8)
		for w := range held {
			held[w] = map[string][]byte{}
			writers.Go(func() {
				if err := rewrite(ctx, v.fs, w, held[w]); err != nil {
					t.Errorf("writer %d: %v", w, err)
				}
			})
		}
		for ctx.Err() == nil {
			p.mustSucceed(p.ns.Maintain(context.Background()))
			time.Sleep(50 * time.Millisecond)
		}
		writers.Wait()
		time.Sleep(opts.Grace + 100*time.Millisecond)
		p.mustSucceed(p.ns.Maintain(context.Background()))
		used := 0
		for _, files := range held {
			for path, data := range files {
				v.mustHold(path, data)
				used++
			}
		}
		v.mustHold("a/f", large)
		p.mustAuditClean()
		if n := p.countObjects(); used == 0 || n > used+300 {
			t.Errorf("%d objects for %d files: nothing was swept", n, used)
		}
		if n := p.queryCount(`SELECT count(*) FROM blobs WHERE freed IS NOT NULL AND sums IS NOT NULL`); n != 0 {
			t.Errorf("%d blobs that were used are marked freed after all", n)
		}
	})
}

// rewrite writes files over and over, whole and in parts, and notes what they hold.
func rewrite(ctx context.Context, fsys driver.FS, w int, held map[string][]byte) error {
	all := context.Background() // what has begun is finished
	for begun := time.Now(); ctx.Err() == nil; begun = time.Now() {
		path := fmt.Sprintf("w%d/%d", w, rand.IntN(4))
		data := slices.Clone(large[rand.IntN(5) : 1000+rand.IntN(50000)])
		// On a machine so busy that a write outlasts half the grace time, the write may fail:
		// what the file holds is then not known.
		slow := func() bool { return time.Since(begun) > busyGrace/2 }
		if rand.IntN(2) == 0 || held[path] == nil {
			if _, err := fsys.WriteFile(all, path, bytes.NewReader(data), driver.WriteOptions{}); err != nil {
				if delete(held, path); slow() {
					continue
				}
				return err
			}
			held[path] = data
			continue
		}
		off := rand.IntN(len(held[path]))
		h, err := fsys.Open(all, path, driver.OpenOptions{Write: true})
		if err != nil {
			return err
		}
		_, err = h.WriteAt(all, data, int64(off))
		if err = errors.Join(err, h.Close()); err != nil {
			if delete(held, path); slow() {
				continue
			}
			return err
		}
		held[path] = append(held[path][:off:off], append(data, held[path][min(len(held[path]), off+len(data)):]...)...)
	}
	return nil
}

// TestSweepKilled: a sweep that ends between rows and objects is finished by the next.
func TestSweepKilled(t *testing.T) {
	onEngines(t, time.Nanosecond, func(t *testing.T, opts bucket.Options) {
		p := newNSFixture(t, opts)
		v := p.newVolumeFixture("v", 0)
		for range 1500 { // more than are taken at once
			v.exec(`INSERT INTO blobs (org, id, size, created, freed) VALUES ($1, $2, 0, 1, 1)`, v.org, newID())
		}
		for range 20 {
			v.registerBlob(time.Minute)
		}
		// Killed as soon as the first rows are gone and their objects are not.
		ctx, kill := context.WithCancel(context.Background())
		defer kill()
		done := make(chan error, 1)
		go func() { done <- p.ns.Sweep(ctx) }()
		for deadline := time.Now().Add(20 * time.Second); p.queryCount(`SELECT count(*) FROM doomed`) == 0; {
			if time.Now().After(deadline) {
				t.Fatal("no rows were taken")
			}
		}
		kill()
		if err := <-done; err == nil {
			t.Skip("the sweep was faster than the look at it")
		}
		if n := p.queryCount(`SELECT count(*) FROM doomed`); n == 0 {
			t.Error("nothing says which objects are still to be deleted")
		}
		p.mustAuditClean()
		for range 2 {
			p.sweepNow()
			time.Sleep(5 * time.Millisecond)
		}
		if n := p.countObjects(); n != 2 {
			t.Errorf("%d objects are left, want 2", n)
		}
		if n := p.queryCount(`SELECT (SELECT count(*) FROM doomed) + (SELECT count(*) FROM blobs WHERE freed IS NOT NULL)`); n != 0 {
			t.Errorf("%d rows are left", n)
		}
		v.mustHold("a/f", large)
		p.mustAuditClean()
	})
}

// TestSweepAll: when everything is removed nothing is left, in the database or in the
// store.
func TestSweepAll(t *testing.T) {
	onEngines(t, time.Nanosecond, func(t *testing.T, opts bucket.Options) {
		p := newNSFixture(t, opts)
		var list []*volumeFixture
		for i := range 3 {
			list = append(list, p.newVolumeFixture(fmt.Sprintf("v%d", i), 0))
		}
		if p.countObjects() != 6 {
			t.Errorf("%d objects before, want 6: the test says nothing", p.countObjects())
		}
		p.mustSucceed(list[0].fs.RemoveAll(context.Background(), "a"))
		for _, v := range list {
			v.removeVolume()
		}
		// Bytes in rows are kept for a minute, whatever the grace time.
		p.exec(`UPDATE blobs SET freed = 1 WHERE freed IS NOT NULL`)
		p.exec(`UPDATE ops SET at = 1`)
		for range 3 {
			p.mustSucceed(p.ns.Maintain(context.Background()))
			time.Sleep(5 * time.Millisecond)
		}
		for _, table := range []string{"volumes", "inodes", "dirents", "xattrs", "chunks", "blobs", "doomed", "orphans", "attachments", "ops"} {
			if n := p.queryCount(`SELECT count(*) FROM ` + table); n != 0 {
				t.Errorf("%d rows are left in %s", n, table)
			}
		}
		if n := p.countObjects(); n != 0 {
			t.Errorf("%d objects are left", n)
		}
		p.mustAuditClean()
	})
}

// TestExpireLate: what is committed for a session that has ended is not kept for ever.
func TestExpireLate(t *testing.T) {
	onEngines(t, time.Nanosecond, func(t *testing.T, opts bucket.Options) {
		p := newNSFixture(t, opts)
		v, draft := p.newVolumeFixture("v", 0), p.newVolumeFixture("draft", 0)
		v.execOnInode("a/g", `INSERT INTO orphans (vol, ino, session) VALUES ($1, $2, $3)`, newID())
		v.execOnInode("a/g", `UPDATE inodes SET nlink = 0 WHERE vol = $1 AND ino = $2`)
		v.execOnInode("a/g", `DELETE FROM dirents WHERE vol = $1 AND ino = $2`)
		p.exec(`UPDATE volumes SET entries = entries - 1, metadata = metadata - 1 WHERE id = $1`, v.vol)
		p.exec(`UPDATE volumes SET state = 'creating', session = $2 WHERE id = $1`, draft.vol, newID())
		p.mustSucceed(p.ns.Maintain(context.Background()))
		if n := p.queryCount(`SELECT (SELECT count(*) FROM orphans) + (SELECT count(*) FROM volumes WHERE state <> 'ready')`); n != 0 {
			t.Errorf("%d rows of sessions that have ended stay", n)
		}
		v.mustHold("a/f", large)
		p.mustAuditClean()
	})
}
