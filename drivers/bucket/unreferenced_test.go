package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
)

const mib = 1 << 20

// newTightNamespace opens a namespace whose organisation may have 40 MiB that nothing refers to.
func newTightNamespace(t *testing.T, opts bucket.Options) (*nsFixture, *volumeFixture) {
	t.Helper()
	opts.Unreferenced = 40 * mib
	p := newNSFixture(t, opts)
	v := p.newVolumeFixture("v", 0)
	p.mustSucceed(v.fs.RemoveAll(context.Background(), "a"))
	p.mustSucceed(v.fs.Remove(context.Background(), "h"))
	return p, v
}

// countUnreferenced is how many bytes of objects the store has.
func (p *nsFixture) countUnreferenced() (n int64) {
	p.t.Helper()
	for info, err := range p.blobs.List(context.Background(), "o/") {
		p.mustSucceed(err)
		n += info.Size
	}
	return n
}

func (v *volumeFixture) writeFile(path string, data []byte) error {
	_, err := v.fs.WriteFile(context.Background(), path, bytes.NewReader(data), driver.WriteOptions{Size: int64(len(data))})
	return err
}

// countedBytes is what the organisation is said to have that nothing refers to.
func (v *volumeFixture) countedBytes() int64 {
	return v.queryCount(`SELECT CAST(coalesce(sum(bytes), 0) AS BIGINT) FROM unreferenced WHERE org = $1`, v.org)
}

// TestRoomOverwrites: what is overwritten over and over is stored up to the bound. Then
// writes fail until some of it is old enough to go, the oldest first.
func TestRoomOverwrites(t *testing.T) {
	onEngines(t, time.Hour, func(t *testing.T, opts bucket.Options) {
		p, v := newTightNamespace(t, opts)
		data := randomBytes(9 * mib)
		done := 0
		var refused error
		for range 8 {
			if err := v.writeFile("f", data); err == nil {
				done++
			} else if refused = err; !errors.Is(err, driver.ErrNoSpace) {
				t.Fatal(err)
			}
		}
		if done < 3 || done > 5 || refused == nil || !strings.Contains(refused.Error(), "there will be room in 1") {
			t.Errorf("%d of 8 writes were taken; the others: %v", done, refused)
		}
		if n := p.countUnreferenced(); n > 49*mib {
			t.Errorf("%d MiB are stored", n/mib)
		}
		p.mustAuditClean()
		p.exec(`UPDATE blobs SET freed = freed - $1 WHERE freed IS NOT NULL AND expires IS NULL`, int64(16*time.Minute))
		time.Sleep(600 * time.Millisecond) // for so long the refusal stands
		for i := range 2 {
			if err := v.writeFile("f", data); err != nil {
				t.Errorf("overwrite %d, when some may go: %v", i, err)
			}
		}
		v.mustHold("f", data)
		p.mustAuditClean()
	})
}

// broken is a source that breaks off.
type broken struct{ r io.Reader }

var errBroken = errors.New("broken off")

func (b broken) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err == io.EOF {
		err = errBroken
	}
	return n, err
}

// TestRoomBrokenOff: the blobs of writes that were broken off count at once, and go as
// soon as their room is needed, or maintenance comes.
func TestRoomBrokenOff(t *testing.T) {
	onEngines(t, time.Hour, func(t *testing.T, opts bucket.Options) {
		p, v := newTightNamespace(t, opts)
		data := randomBytes(9 * mib)
		for i := range 12 {
			_, err := v.fs.WriteFile(context.Background(), "f", broken{bytes.NewReader(data)}, driver.WriteOptions{})
			if !errors.Is(err, errBroken) {
				t.Fatalf("write %d: %v", i, err)
			}
			if n, c := p.countUnreferenced(), v.countedBytes(); n > 40*mib || c > 40*mib || n > c {
				t.Fatalf("after %d writes %d bytes are stored, %d counted", i+1, n, c)
			}
		}
		p.mustSucceed(p.ns.Reap(context.Background()))
		if n := p.countUnreferenced(); n > mib {
			t.Errorf("%d bytes are stored after maintenance", n)
		}
		p.mustAuditClean()
	})
}

// TestRoomDead: what a process had reserved that died counts until it is known to be dead.
func TestRoomDead(t *testing.T) {
	onEngines(t, time.Hour, func(t *testing.T, opts bucket.Options) {
		p, v := newTightNamespace(t, opts)
		alive, dead := newID(), newID()
		for _, j := range []struct {
			owner []byte
			until time.Duration
		}{{alive, time.Minute}, {dead, -time.Second}} {
			p.exec(`INSERT INTO jobs (name, session, expires) VALUES ($1, $2, $3)`, fmt.Sprintf("owner/%x", j.owner), j.owner, time.Now().Add(j.until).UnixNano())
		}
		reserve := func(owner []byte) []byte {
			id := newID()
			v.exec(`INSERT INTO blobs (org, id, size, created, freed, owner, expires) VALUES ($1, $2, $3, $4, $4, $5, $6)`,
				v.org, id, int64(8*mib), time.Now().UnixNano(), owner, time.Now().Add(time.Hour).UnixNano())
			v.writeObject(objectKeyOf(v.org, id), large)
			return id
		}
		for range 2 {
			reserve(dead)
		}
		kept := reserve(alive)
		if n := v.countedBytes(); n < 24*mib {
			t.Errorf("%d bytes are counted", n)
		}
		p.mustSucceed(p.ns.Reap(context.Background()))
		const left = `SELECT count(*) FROM blobs WHERE owner = $1`
		if n, m := p.queryCount(left, dead), p.queryCount(left, alive); n != 0 || m != 1 {
			t.Errorf("%d reservations of a dead process are left, and %d of one that lives", n, m)
		}
		if _, err := p.blobs.Stat(context.Background(), objectKeyOf(v.org, kept)); err != nil {
			t.Errorf("the object of a process that lives: %v", err)
		}
		p.mustAuditClean()
	})
}

// TestRoomReferenced: a blob counts when its last chunk goes, and not before.
func TestRoomReferenced(t *testing.T) {
	onEngines(t, time.Hour, func(t *testing.T, opts bucket.Options) {
		opts.Maintain = -1
		p, v := newTightNamespace(t, opts)
		ctx := context.Background()
		data := randomBytes(8 * mib)
		p.mustSucceed(v.writeFile("f", data))
		freed := func() int64 {
			return p.queryCount(`SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM blobs WHERE freed IS NOT NULL AND expires IS NULL AND size > 1048576`)
		}
		h, err := v.fs.Open(ctx, "f", driver.OpenOptions{Write: true})
		p.mustSucceed(err)
		_, err = h.WriteAt(ctx, data[:mib], mib)
		p.mustSucceed(err)
		p.mustSucceed(h.Sync(ctx))
		p.mustSucceed(h.Truncate(ctx, 5*mib))
		p.mustSucceed(h.PunchHole(ctx, 0, mib))
		p.mustSucceed(v.fs.Copy(ctx, "f", "g", driver.CopyOptions{}))
		p.mustSucceed(h.Truncate(ctx, 0))
		p.mustSucceed(h.Close())
		if n := freed(); n != 0 {
			t.Errorf("%d bytes count that chunks refer to", n)
		}
		p.mustSucceed(v.fs.Remove(ctx, "g"))
		if n := freed(); n != 8*mib {
			t.Errorf("%d bytes count when no chunk refers to them", n)
		}
		p.mustAuditClean()
	})
}

// TestRoomShared: of two that let go of the same blobs at the same time, one counts them.
func TestRoomShared(t *testing.T) {
	onEngines(t, time.Hour, func(t *testing.T, opts bucket.Options) {
		p := newNSFixture(t, opts)
		v := p.newVolumeFixture("v", 0)
		ctx := context.Background()
		const files = 20
		for i := range files {
			p.mustSucceed(v.writeFile(fmt.Sprintf("shared%d", i), large))
		}
		info, err := p.b.Create(ctx, "clone", driver.Spec{Kind: driver.KindDir, From: formatTestID(v.vol)})
		p.mustSucceed(err)
		clone, err := p.b.OpenFS(ctx, info.ID, driver.FSOptions{})
		p.mustSucceed(err)
		var both sync.WaitGroup
		for _, f := range []driver.FS{v.fs, clone} {
			both.Go(func() {
				for i := range files {
					if err := f.Remove(ctx, fmt.Sprintf("shared%d", i)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		both.Wait()
		if n := p.queryCount(`SELECT count(*) FROM blobs WHERE freed IS NOT NULL AND expires IS NULL AND data IS NULL`); n != files {
			t.Errorf("%d of %d blobs count", n, files)
		}
		p.mustAuditClean()
	})
}

// TestRoomAtOnce: several processes that write and overwrite at the same time stay below
// the bound together.
func TestRoomAtOnce(t *testing.T) {
	onEngines(t, time.Hour, func(t *testing.T, opts bucket.Options) {
		p, v := newTightNamespace(t, opts)
		ctx := context.Background()
		opts.Unreferenced, opts.Maintain = 40*mib, -1
		var writers sync.WaitGroup
		refused := make([]int, 4)
		for w := range refused {
			ns, err := bucket.Open(ctx, opts)
			p.mustSucceed(err)
			defer ns.Close()
			b, err := ns.Org(ctx, "acme")
			p.mustSucceed(err)
			defer b.Close()
			f, err := b.OpenFS(ctx, formatTestID(v.vol), driver.FSOptions{})
			p.mustSucceed(err)
			data := randomBytes(3*mib + w)
			writers.Go(func() {
				for range 6 {
					_, err := f.WriteFile(ctx, fmt.Sprintf("w%d", w), bytes.NewReader(data), driver.WriteOptions{})
					if errors.Is(err, driver.ErrNoSpace) {
						refused[w]++
					} else if err != nil {
						t.Error(err)
					}
				}
			})
		}
		writers.Wait()
		used := p.queryCount(`SELECT CAST(coalesce(sum(len), 0) AS BIGINT) FROM chunks`)
		if n := p.countUnreferenced(); n > used+40*mib || v.countedBytes() > 40*mib {
			t.Errorf("%d bytes are stored, %d counted, for %d that are referred to", n, v.countedBytes(), used)
		}
		p.mustAuditClean()
	})
}

// TestRoomExported: nothing goes early that the last export refers to.
func TestRoomExported(t *testing.T) {
	onEngines(t, time.Hour, func(t *testing.T, opts bucket.Options) {
		opts.Export = 24 * time.Hour
		p, v := newTightNamespace(t, opts)
		ctx := context.Background()
		data := randomBytes(8 * mib)
		var err error
		for err == nil {
			err = v.writeFile("f", data)
		}
		_, eerr := p.ns.Export(ctx, bucket.ExportOptions{})
		p.mustSucceed(eerr)
		p.mustSucceed(v.fs.Remove(ctx, "f"))
		kept := p.queryCount(`SELECT count(*) FROM blobs WHERE freed >= (SELECT max(expires) FROM jobs WHERE name = 'exported')`)
		if kept != 1 {
			t.Errorf("%d blobs were freed since the export", kept)
		}
		p.exec(`UPDATE jobs SET expires = expires - $1 WHERE name LIKE 'exported%'`, int64(16*time.Minute))
		p.exec(`UPDATE blobs SET freed = freed - $1 WHERE freed IS NOT NULL AND expires IS NULL`, int64(16*time.Minute))
		time.Sleep(600 * time.Millisecond)
		done := 0
		for ; v.writeFile(fmt.Sprintf("g%d", done), data) == nil; done++ {
			if done > 6 {
				t.Skip("there is room for all")
			}
			p.mustSucceed(v.fs.Remove(ctx, fmt.Sprintf("g%d", done)))
		}
		if done == 0 {
			t.Error("nothing went that was freed before the export")
		}
		if n := p.queryCount(`SELECT count(*) FROM blobs WHERE freed < (SELECT max(expires) FROM jobs WHERE name = 'exported') + 1000000000000 AND expires IS NULL
			AND freed >= (SELECT max(expires) FROM jobs WHERE name = 'exported') AND freed < $1`, time.Now().Add(-10*time.Minute).UnixNano()); n != 1 {
			t.Errorf("of what the export refers to %d blobs are left", n)
		}
	})
}

// TestRoomTooLarge: a file that could not be put as a whole is refused before it is read.
func TestRoomTooLarge(t *testing.T) {
	p, v := newTightNamespace(t, engines[0].fresh(t))
	_, err := v.fs.WriteFile(context.Background(), "f", broken{strings.NewReader("")}, driver.WriteOptions{Size: 41 * mib})
	if !errors.Is(err, driver.ErrNoSpace) || errors.Is(err, errBroken) {
		t.Error(err)
	}
	p.mustAuditClean()
}

// TestRoomReserve: what clients reserve counts when they do, and no longer than they may
// use it.
func TestRoomReserve(t *testing.T) {
	opts := engines[1].fresh(t)
	p, v := newTightNamespace(t, opts)
	ctx := context.Background()
	parts := func(n int) (list []bucket.Part) {
		for i := range n {
			list = append(list, newPart(int64(i)*mib, randomBytes(8*mib-i)))
		}
		return list
	}
	if _, err := p.b.Reserve(ctx, parts(6), time.Minute); !errors.Is(err, driver.ErrNoSpace) {
		t.Errorf("48 MiB were reserved: %v", err)
	}
	var tiny []bucket.Part
	for i := range 700 {
		tiny = append(tiny, newPart(int64(i), []byte("x")))
	}
	if _, err := p.b.Reserve(ctx, tiny, time.Minute); !errors.Is(err, driver.ErrNoSpace) {
		t.Errorf("700 parts of a byte were reserved: %v", err)
	}
	if _, err := p.b.Reserve(ctx, parts(4), time.Minute); err != nil {
		t.Error(err)
	}
	if err := v.writeFile("f", randomBytes(8*mib)); !errors.Is(err, driver.ErrNoSpace) {
		t.Errorf("a write beside that: %v", err)
	}
	p.exec(`UPDATE blobs SET expires = 1 WHERE sums IS NOT NULL AND expires IS NOT NULL`)
	time.Sleep(600 * time.Millisecond)
	if err := v.writeFile("f", randomBytes(8*mib)); err != nil {
		t.Errorf("a write when the reservations are over: %v", err)
	}
	p.mustAuditClean()
}
