package audit

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/volehq/vole/drivers/bucket/internal/blob"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/sqldb"
	"github.com/volehq/vole/internal/testing/servers"
)

func TestMain(m *testing.M) { os.Exit(servers.Main(m)) }

func newID() []byte {
	id := uuid.Must(uuid.NewV7())
	return id[:]
}

// openOrg opens a database until the test ends, and adds an organisation.
func openOrg(t *testing.T, opts sqldb.Options) (sqldb.DB, []byte) {
	t.Helper()
	db, err := rows.Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	org := newID()
	err = db.RunTx(t.Context(), sqldb.TxOptions{}, func(tx sqldb.Tx) error {
		tx.QueueExec(`INSERT INTO orgs (id, name, created) VALUES ($1, 'acme', 1)`, org)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return db, org
}

// TestBlobRows: however many groups it takes, rows come in the order of the listing.
func TestBlobRows(t *testing.T) {
	ctx := context.Background()
	db, org := openOrg(t, sqldb.Options{Database: filepath.Join(t.TempDir(), "namespace.db")})
	var want []string
	err := db.RunTx(ctx, sqldb.TxOptions{Lazy: true}, func(tx sqldb.Tx) error {
		want = nil
		for range 600 {
			id := make([]byte, 16)
			_, _ = rand.Read(id)
			want = append(want, blob.Key(org, id))
			tx.QueueExec(`INSERT INTO blobs (org, id, size, created) VALUES ($1, $2, 1, 1)`, org, id)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	for _, width := range []int{0, 1, 3, 128, 256} {
		r := &blobRows{db: db, org: org, width: width}
		var got []string
		for {
			row, err := r.peekRow(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if row == nil {
				break
			}
			got = append(got, blob.Key(org, row.id))
			r.next++
		}
		if !slices.Equal(got, want) {
			t.Errorf("width %d: %d rows in another order than %d keys", width, len(got), len(want))
		}
	}
	for _, c := range []struct {
		rows int64
		want int
	}{{0, 256}, {100, 256}, {101, 128}, {25600, 1}, {1 << 40, 1}} {
		if got := groupWidth(c.rows, 100); got != c.want {
			t.Errorf("%d rows: groups of %d last bytes, want %d", c.rows, got, c.want)
		}
	}
}
