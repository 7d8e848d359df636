package accounts

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/testing/servers"
)

func TestAudit(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, database string) {
		c := newClock()
		s := openStore(t, database, Options{Clock: c.read})
		ctx := t.Context()
		full := AuditRecord{
			Org: "acme", KeyID: "id", KeyName: "name", Action: "volume.create", Volume: vol1, VolumeName: "v", Path: "a/b", Detail: "d",
			Addr: "[::1]:80", RequestID: "r", Status: 201,
		}
		for i := range 5 {
			r := full
			r.Status += i
			if err := s.Record(ctx, r); err != nil {
				t.Fatal(err)
			}
			c.add(time.Hour)
		}
		long := strings.Repeat("ß", 5000) + "\x00\xff"
		if err := s.Record(ctx, AuditRecord{Path: long, Detail: long, Addr: "\xff\x00", KeyName: "x" + long, ID: 7}); err != nil {
			t.Fatal(err)
		}
		list, err := s.Audit(ctx, "acme", 0, 0)
		if err != nil || len(list) != 5 {
			t.Fatalf("%d records, %v", len(list), err)
		}
		for i, r := range list {
			want := full
			want.ID, want.Status, want.At = r.ID, 205-i, newClock().read().Add(time.Duration(4-i)*time.Hour)
			if r != want || i > 0 && r.ID >= list[i-1].ID {
				t.Errorf("record %d is %+v, want %+v", i, r, want)
			}
		}
		if page, err := s.Audit(ctx, "acme", list[1].ID, 2); err != nil || !reflect.DeepEqual(page, list[2:4]) {
			t.Errorf("a page of two: %+v, %v", page, err)
		}
		if page, err := s.Audit(ctx, "acme", list[4].ID, 1<<40); err != nil || len(page) != 0 {
			t.Errorf("past the last: %+v, %v", page, err)
		}
		none, err := s.Audit(ctx, "", 0, 10)
		if err != nil || len(none) != 1 || len(none[0].Path) > driver.MaxPathLen || len(none[0].Detail) != maxDetail ||
			!utf8.ValidString(none[0].KeyName) || none[0].Addr != "??" || len(none[0].KeyName) != 255 {
			t.Errorf("a record that was cut: %.300v, %v", none, err)
		}
		if _, err := s.Audit(ctx, "../x", 0, 10); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("no organisation: %v", err)
		}
		if err := s.PruneAudit(ctx, newClock().read().Add(3*time.Hour)); err != nil {
			t.Fatal(err)
		}
		if left, err := s.Audit(ctx, "acme", 0, 0); err != nil || !reflect.DeepEqual(left, list[:2]) {
			t.Errorf("%+v are left, %v", left, err)
		}
	})
}

// TestAuditAtOnce has many write at once, over two Stores, then removes more than are
// removed in one statement.
func TestAuditAtOnce(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, database string) {
		stores := []*Store{openStore(t, database, Options{}), openStore(t, database, Options{})}
		const writers, records = 30, 40
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				for n := range records {
					if err := stores[i%2].Record(t.Context(), AuditRecord{Org: "acme", Detail: fmt.Sprint(i, "-", n)}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		seen := map[string]bool{}
		for before := int64(0); ; {
			list, err := stores[0].Audit(t.Context(), "acme", before, 500)
			if err != nil {
				t.Fatal(err)
			}
			if len(list) == 0 {
				break
			}
			for _, r := range list {
				seen[r.Detail] = true
				before = r.ID
			}
		}
		if len(seen) != writers*records {
			t.Errorf("%d records, want %d", len(seen), writers*records)
		}
		if err := stores[1].PruneAudit(t.Context(), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if list, err := stores[0].Audit(t.Context(), "acme", 0, 1); err != nil || len(list) != 0 {
			t.Errorf("%+v are left, %v", list, err)
		}
	})
}

func TestUploads(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, database string) {
		c := newClock()
		s := openStore(t, database, Options{Clock: c.read})
		ctx := t.Context()
		u := Upload{
			ID: "u1", Org: "acme", KeyID: "k", Volume: vol1, Path: "a/\xff\x00b", Staging: ".up/u1", Size: -1, Mode: 0o100644,
			Exclusive: true, Created: c.read(), Expires: c.read().Add(time.Hour),
		}
		if err := s.CreateUpload(ctx, u); err != nil {
			t.Fatal(err)
		}
		if err := s.CreateUpload(ctx, u); !errors.Is(err, driver.ErrExists) {
			t.Errorf("the same once more: %v", err)
		}
		if got, err := s.Upload(ctx, "acme", "u1"); err != nil || got != u {
			t.Errorf("%+v, %v; want %+v", got, err, u)
		}
		for _, x := range [][2]string{{"other", "u1"}, {"acme", "u2"}, {"acme", ""}, {"acme", "\x00"}, {"", "u1"}} {
			if _, err := s.Upload(ctx, x[0], x[1]); !errors.Is(err, driver.ErrNotExist) {
				t.Errorf("upload %q: %v", x, err)
			}
			if err := s.DeleteUpload(ctx, x[0], x[1]); err != nil {
				t.Errorf("delete %q: %v", x, err)
			}
		}
		other := Upload{ID: "u1", Org: "other", Volume: vol2, Path: "x", Size: 1 << 50, Expires: c.read().Add(2 * time.Hour)}
		if err := s.CreateUpload(ctx, other); err != nil {
			t.Fatal(err)
		}
		other.Created = c.read()
		if got, err := s.Upload(ctx, "other", "u1"); err != nil || got != other {
			t.Errorf("%+v, %v; want %+v", got, err, other)
		}
		for i, want := range [][]Upload{nil, {u}, {u, other}} {
			if got, err := s.ExpiredUploads(ctx, 10); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("after %d hours %+v have expired, %v; want %+v", i, got, err, want)
			}
			c.add(time.Hour)
		}
		if got, err := s.ExpiredUploads(ctx, 1); err != nil || len(got) != 1 || got[0] != u {
			t.Errorf("the first that expired: %+v, %v", got, err)
		}
		if _, err := s.Upload(ctx, "acme", "u1"); !errors.Is(err, driver.ErrNotExist) {
			t.Errorf("one that has expired: %v", err)
		}
		for range 2 {
			if err := s.DeleteUpload(ctx, "acme", "u1"); err != nil {
				t.Error(err)
			}
		}
		if got, err := s.ExpiredUploads(ctx, 0); err != nil || len(got) != 1 || got[0] != other {
			t.Errorf("%+v are left, %v", got, err)
		}
	})
}

func TestUploadsAreBounded(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, database string) {
		s := openStore(t, database, Options{})
		s.maxUploads = 3
		u := Upload{Org: "acme", KeyID: "k", Volume: vol1, Path: "f", Staging: ".f", Size: 1, Expires: time.Now().Add(time.Hour)}
		for i := range 4 {
			u.ID = fmt.Sprintf("u%d", i)
			if err := s.CreateUpload(t.Context(), u); i < 3 && err != nil || i == 3 && !errors.Is(err, driver.ErrQuota) {
				t.Errorf("upload %d: %v", i, err)
			}
		}
		u.Org = "other"
		if err := s.CreateUpload(t.Context(), u); err != nil {
			t.Errorf("another organisation's: %v", err)
		}
	})
}

func TestUploadIsChecked(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "db"), Options{})
	long := strings.Repeat("a", driver.MaxPathLen+1)
	for what, change := range map[string]func(*Upload){
		"no id":         func(u *Upload) { u.ID = "" },
		"a path for id": func(u *Upload) { u.ID = "../u" },
		"no org":        func(u *Upload) { u.Org = "" },
		"no volume":     func(u *Upload) { u.Volume = "cache" },
		"no path":       func(u *Upload) { u.Path = "" },
		"a long path":   func(u *Upload) { u.Path = long },
		"long staging":  func(u *Upload) { u.Staging = long },
		"a long key":    func(u *Upload) { u.KeyID = long },
		"size":          func(u *Upload) { u.Size = -2 },
		"no end":        func(u *Upload) { u.Expires = time.Time{} },
		"no end at all": func(u *Upload) { u.Expires = latestTime.Add(1) },
	} {
		u := Upload{ID: "u", Org: "acme", Volume: vol1, Path: "x", Expires: time.Now().Add(time.Hour)}
		change(&u)
		if err := s.CreateUpload(t.Context(), u); !errors.Is(err, driver.ErrInvalid) || len(err.Error()) > 250 {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestIdempotent(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, database string) {
		c := newClock()
		s := openStore(t, database, Options{Clock: c.read})
		ctx := t.Context()
		r := Idempotent{Org: "acme", Key: "k 1", Fingerprint: "f1"}
		begin := func(r Idempotent, want *Idempotent) {
			t.Helper()
			if prior, err := s.BeginIdempotent(ctx, r); err != nil || !reflect.DeepEqual(prior, want) {
				t.Errorf("begin %+v: %+v, %v; want %+v", r, prior, err, want)
			}
		}
		begin(r, nil)
		claimed := r
		claimed.Created = c.read()
		c.add(time.Second)
		begin(r, &claimed)
		changed := r
		changed.Fingerprint = "f2"
		if _, err := s.BeginIdempotent(ctx, changed); !errors.Is(err, driver.ErrInvalid) || !strings.Contains(err.Error(), "the idempotency key was used for another request") {
			t.Errorf("another request: %v", err)
		}
		begin(Idempotent{Org: "other", Key: r.Key, Fingerprint: "f2"}, nil)
		done := claimed
		done.Done, done.Result = true, "{\"a\":\"\x00\xff\"}"
		for range 2 {
			if err := s.FinishIdempotent(ctx, r.Org, r.Key, done.Result); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.FinishIdempotent(ctx, r.Org, r.Key, "another"); !errors.Is(err, driver.ErrExists) {
			t.Errorf("another result: %v", err)
		}
		begin(r, &done)
		for range 2 {
			if err := s.ForgetIdempotent(ctx, r.Org, r.Key); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.FinishIdempotent(ctx, r.Org, r.Key, "x"); !errors.Is(err, driver.ErrNotExist) {
			t.Errorf("the result of what was forgotten: %v", err)
		}
		begin(changed, nil)
		if err := s.FinishIdempotent(ctx, r.Org, r.Key, ""); err != nil {
			t.Error(err)
		}
		if err := s.PruneIdempotent(ctx, c.read()); err != nil {
			t.Fatal(err)
		}
		changed.Created, changed.Done = c.read(), true
		begin(changed, &changed)
		if err := s.PruneIdempotent(ctx, c.read().Add(1)); err != nil {
			t.Fatal(err)
		}
		begin(r, nil)
	})
}

func TestIdempotentIsChecked(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "db"), Options{})
	ctx := t.Context()
	for _, r := range []Idempotent{
		{Key: "k", Fingerprint: "f"}, {Org: "acme", Fingerprint: "f"}, {Org: "acme", Key: "k"}, {Org: "acme", Key: "k\n", Fingerprint: "f"},
		{Org: "acme", Key: strings.Repeat("k", 256), Fingerprint: "f"}, {Org: "acme", Key: "k", Fingerprint: strings.Repeat("f", 257)},
	} {
		if _, err := s.BeginIdempotent(ctx, r); !errors.Is(err, driver.ErrInvalid) || len(err.Error()) > 250 {
			t.Errorf("%.100v: %v", r, err)
		}
	}
	if err := s.FinishIdempotent(ctx, "acme", "k", strings.Repeat("x", maxResult+1)); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("a result that is too large: %v", err)
	}
	for _, err := range []error{s.FinishIdempotent(ctx, "acme", "", ""), s.ForgetIdempotent(ctx, "", "k")} {
		if !errors.Is(err, driver.ErrInvalid) {
			t.Error(err)
		}
	}
}

// TestIdempotentAtOnce: of a hundred that claim the same request over two Stores one
// wins, and when that gives it up one of those that come then.
func TestIdempotentAtOnce(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, database string) {
		stores := []*Store{openStore(t, database, Options{}), openStore(t, database, Options{})}
		for round := range 3 {
			var mu sync.Mutex
			won := 0
			var wg sync.WaitGroup
			for i := range 100 {
				wg.Go(func() {
					prior, err := stores[i%2].BeginIdempotent(t.Context(), Idempotent{Org: "acme", Key: "k", Fingerprint: "f"})
					if err != nil || prior != nil && prior.Done {
						t.Errorf("%+v, %v", prior, err)
					}
					mu.Lock()
					defer mu.Unlock()
					if prior == nil {
						won++
					}
				})
			}
			wg.Wait()
			if won != 1 {
				t.Errorf("round %d: %d won", round, won)
			}
			if err := stores[round%2].ForgetIdempotent(t.Context(), "acme", "k"); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestServerRestarts stops PostgreSQL, as a crash does, and starts it again amid calls:
// they wait, and what they did is there once.
func TestServerRestarts(t *testing.T) {
	pg, err := servers.StartPostgres(t.Context(), "")
	servers.Check(t, err)
	t.Cleanup(func() {
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := pg.CreateDatabase("accounts"); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, pg.URL("accounts"), Options{CacheFor: -1, patience: 10 * time.Minute}) // however slowly PostgreSQL starts
	_, secret := makeKey(t, s, NewKey{})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	const workers = 8
	rounds := make(chan struct{}, 10*workers) // one for each round of a worker
	for i := range workers {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				select {
				case rounds <- struct{}{}:
				default:
				}
				if _, err := s.Authenticate(ctx, secret); err != nil && ctx.Err() == nil {
					t.Errorf("authenticate: %v", err)
				}
				r := Idempotent{Org: "acme", Key: fmt.Sprint(i, "-", n), Fingerprint: "f"}
				if prior, err := s.BeginIdempotent(ctx, r); ctx.Err() == nil && (err != nil || prior != nil) {
					t.Errorf("begin: %+v, %v; nobody else claims it", prior, err)
				}
			}
		})
	}
	// Calls are under way when the server stops, and succeed after each start.
	awaitRounds := func() {
		for len(rounds) > 0 {
			<-rounds
		}
		for range 5 * workers {
			select {
			case <-rounds:
			case <-ctx.Done():
			}
		}
	}
	for range 3 {
		awaitRounds()
		if err := errors.Join(pg.StopImmediate(), pg.Start()); err != nil {
			t.Error(err)
			cancel()
		}
	}
	awaitRounds()
	cancel()
	wg.Wait()
}
