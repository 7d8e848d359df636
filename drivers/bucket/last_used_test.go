package bucket_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
)

// Volumes from before the time of their last use was kept count from the upgrade, and those
// that an older server makes beside a newer one from their making.
func TestUpgradedVolumesCountFromNow(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			opts := e.fresh(t)
			s := openStore(t, opts)
			_, err := s.Create(t.Context(), "v", vole.Spec{})
			if err = errors.Join(err, s.Close()); err != nil {
				t.Fatal(err)
			}
			db := openDatabase(t, opts)
			for _, q := range []string{
				`UPDATE volumes SET created = 1000000007, updated = 1000000007`,
				`ALTER TABLE volumes DROP COLUMN last_used`,
				`DELETE FROM goose_db_version WHERE version_id = 5`,
			} {
				if _, err := db.Exec(q); err != nil {
					t.Fatalf("%s: %v", q, err)
				}
			}
			s = openStore(t, opts)
			v, err := s.Get(t.Context(), "v")
			if err != nil {
				t.Fatal(err)
			}
			if i := v.Info(); time.Since(i.LastUsed) > time.Minute || i.Updated.UnixNano() != 1000000007 {
				t.Errorf("last used at %v, updated at %v", i.LastUsed, i.Updated)
			}
			if _, err := db.Exec(`UPDATE volumes SET last_used = 0`); err != nil {
				t.Fatal(err)
			}
			if i, err := v.Refresh(t.Context()); err != nil || !i.LastUsed.Equal(i.Updated) {
				t.Errorf("made by an older server: last used at %v, updated at %v, %v", i.LastUsed, i.Updated, err)
			}
		})
	}
}

// The time of the last use is part of the updates of a volume's row that changes make in any
// case; an attachment and its end are one each.
func TestLastUseCostsNoUpdates(t *testing.T) {
	opts := engines[0].fresh(t)
	s := openStore(t, opts)
	v, err := s.Create(t.Context(), "v", vole.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	db := openDatabase(t, opts)
	for _, q := range []string{
		`CREATE TABLE updates (n INTEGER)`,
		`CREATE TRIGGER updates AFTER UPDATE ON volumes BEGIN INSERT INTO updates VALUES (1); END`,
	} {
		if _, err := db.Exec(q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	f, err := v.FS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const changes = 20
	for range changes {
		if err := f.WriteFile(t.Context(), "f", []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if n := countRows(t, db, `SELECT count(*) FROM updates`); n != changes {
		t.Errorf("%d updates of the volume's row for %d changes", n, changes)
	}
	a, err := v.Attach(t.Context(), vole.AttachOptions{ReadOnly: true})
	if err = errors.Join(err, a.Detach(t.Context())); err != nil {
		t.Fatal(err)
	}
	if n := countRows(t, db, `SELECT count(*) FROM updates`); n != changes+2 {
		t.Errorf("%d updates more for an attachment and its end", n-changes)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// What a session had attached was in use until its lease ran out, before and after
// maintenance has noticed. Maintenance itself is no use.
func TestUsedUntilTheLeaseRanOut(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			ns := openNS(t, e.fresh(t))
			b := openOrgBackend(t, ns, "acme")
			ctx := t.Context()
			info, err := b.Create(ctx, "v", driver.Spec{Kind: driver.KindDir})
			if err != nil {
				t.Fatal(err)
			}
			attachUntilLeaseEnds(t, ns, info.ID)
			attached := lastUsed(t, b, info.ID)
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
				if list, err := b.Attachments(ctx, info.ID); err == nil && len(list) == 0 || time.Now().After(deadline) {
					break
				}
			}
			if _, err := b.RemoveUnused(ctx, info.ID, attached); !errors.Is(err, driver.ErrInUse) {
				t.Fatalf("removed, or another error: %v", err)
			}
			if err := ns.Maintain(ctx); err != nil {
				t.Fatal(err)
			}
			ended := lastUsed(t, b, info.ID)
			if !ended.After(attached) {
				t.Errorf("last used at %v, attached at %v", ended, attached)
			}
			if err := ns.Maintain(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := b.RemoveUnused(ctx, info.ID, ended); err != nil {
				t.Error(err)
			}
		})
	}
}

// attachUntilLeaseEnds attaches a volume in a session that is left to its lease. The lease is
// renewed after that, so that it ends later than the attachment began. On a busy machine a
// short lease may have run out before: then a longer one is tried.
func attachUntilLeaseEnds(t *testing.T, ns *bucket.Namespace, id string) {
	t.Helper()
	for lease := 50 * time.Millisecond; ; lease *= 2 {
		c, err := ns.Client(t.Context(), "acme", uuid.NewString(), "me", lease, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = c.Attach(t.Context(), id, driver.AttachOptions{Holder: "far"}); err == nil {
			err = c.Renew(t.Context())
		}
		if leave := c.Leave(); leave != nil {
			t.Fatal(leave)
		}
		if err == nil {
			return
		}
		if !errors.Is(err, driver.ErrClosed) || lease > 10*time.Second {
			t.Fatal(err)
		}
	}
}

func openOrgBackend(t *testing.T, ns *bucket.Namespace, org string) *bucket.Backend {
	t.Helper()
	if err := ns.CreateOrg(t.Context(), org); err != nil {
		t.Fatal(err)
	}
	b, err := ns.Org(t.Context(), org)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func lastUsed(t *testing.T, b driver.Backend, id string) time.Time {
	t.Helper()
	info, err := b.Get(t.Context(), driver.ByID(id))
	if err != nil {
		t.Fatal(err)
	}
	return info.LastUsed
}

// A rebuilt volume was used when it was rebuilt, not when it was made.
func TestRebuiltVolumesCountFromNow(t *testing.T) {
	opts := engines[0].fresh(t)
	ns := openNS(t, opts)
	if _, err := openOrg(t, ns, "acme").Create(t.Context(), "v", vole.Spec{}); err != nil {
		t.Fatal(err)
	}
	if _, err := openDatabase(t, opts).Exec(`UPDATE volumes SET created = 1000000007, updated = 1000000007, last_used = 1000000007`); err != nil {
		t.Fatal(err)
	}
	if _, err := ns.Export(t.Context(), bucket.ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := ns.Close(); err != nil {
		t.Fatal(err)
	}
	losable[0].lose(t, &opts)
	if _, err := bucket.Rebuild(t.Context(), opts, func(driver.Finding) error { return nil }); err != nil {
		t.Fatal(err)
	}
	v, err := openOrg(t, openNS(t, opts), "acme").Get(t.Context(), "v")
	if err != nil || time.Since(v.Info().LastUsed) > time.Minute || v.Info().Updated.UnixNano() != 1000000007 {
		t.Errorf("%+v, %v", v, err)
	}
}
