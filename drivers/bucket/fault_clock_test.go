package bucket_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/testing/servers"
)

// TestClockSkew: leases and sweeps go by the database's clock alone. Here it is days off
// from the clock of the host, in either direction, as a host's would be that is wrong.
func TestClockSkew(t *testing.T) {
	t.Parallel()
	for _, skew := range []time.Duration{-72 * time.Hour, 72 * time.Hour} {
		t.Run(skew.String(), func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			opts := bucket.Options{Database: skewedDatabaseURL(t, skew), Blobs: t.TempDir(), Lease: lease, Grace: time.Hour, Maintain: -1}
			s, v, f := openShared(t, opts)
			now := time.Unix(int64(countRows(t, openDatabase(t, opts), `SELECT extract(epoch FROM clock_timestamp())::bigint`)), 0)
			if off := time.Until(now); (off - skew).Abs() > time.Minute {
				t.Fatalf("the clock of the database is off by %v", off)
			}
			other := openStore(t, opts)
			seen, err := other.Get(ctx, "shared")
			if err != nil {
				t.Fatal(err)
			}
			a, err := v.Attach(ctx, vole.AttachOptions{Exclusive: true})
			if err != nil {
				t.Fatal(err)
			}
			mine, err := v.OpenFS(ctx, vole.FSOptions{Attachment: a.Info().ID})
			if err != nil {
				t.Fatal(err)
			}
			data := pattern(1, 100<<10)
			// A live holder keeps what it has, through leases and maintenance.
			for i := range 4 {
				if err := mine.WriteFile(ctx, fmt.Sprint("file", i), data, 0o644); err != nil {
					t.Errorf("under the attachment: %v", err)
				}
				maintainOnce(t, opts)
				if _, err := seen.Attach(ctx, vole.AttachOptions{Exclusive: true}); !errors.Is(err, vole.ErrInUse) {
					t.Errorf("attached beside another: %v", err)
				}
				time.Sleep(lease / 2)
			}
			if err := errors.Join(mine.Close(), a.Detach(ctx)); err != nil {
				t.Error(err)
			}
			// A blob that was let go of just now is kept for the grace time.
			if err := f.WriteFile(ctx, "file0", data[1:], 0o644); err != nil {
				t.Error(err)
			}
			n := len(listObjects(t, opts))
			maintainOnce(t, opts)
			if got := len(listObjects(t, opts)); got != n {
				t.Errorf("%d of %d objects are left within the grace time", got, n)
			}
			mustAuditClean(t, s, "under a clock that is off")
			mustLoseLease(t, opts, seen)
		})
	}
}

// mustLoseLease checks that a dead holder's lease runs out all the same.
func mustLoseLease(t *testing.T, opts bucket.Options, v *vole.Volume) {
	t.Helper()
	c := startClient(t, clientSpec{Do: "hold", Opts: opts})
	if l := c.nextLine(t); l != "held" {
		t.Fatal(l)
	}
	c.killAndWait()
	a, took := mustAttach(t, v)
	if took > lease+2*time.Second {
		t.Errorf("the attachment of a dead client ended after %v", took)
	}
	if err := a.Detach(t.Context()); err != nil {
		t.Error(err)
	}
}

func maintainOnce(t *testing.T, opts bucket.Options) {
	t.Helper()
	ns, err := bucket.Open(t.Context(), opts)
	if err == nil {
		err = errors.Join(ns.Maintain(t.Context()), ns.Close())
	}
	if err != nil {
		t.Error(err)
	}
}

// skewedDatabaseURL returns the URL of a database whose clock is off: a function of ours stands
// before the server's own in the search path.
func skewedDatabaseURL(t *testing.T, by time.Duration) string {
	t.Helper()
	url := servers.PG(t)
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_, err = db.ExecContext(context.Background(), fmt.Sprintf(`CREATE SCHEMA skewed; CREATE FUNCTION skewed.clock_timestamp() RETURNS timestamptz
		VOLATILE LANGUAGE sql AS 'SELECT pg_catalog.clock_timestamp() + interval ''%d seconds'''`, int(by.Seconds())))
	if err != nil {
		t.Fatal(err)
	}
	return url + "&search_path=skewed,pg_catalog,public"
}
