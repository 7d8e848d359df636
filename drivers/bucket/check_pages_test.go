package bucket

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/blob"
	"github.com/volehq/vole/internal/sqldb"
)

// TestBlobRows: however many groups it takes, rows come in the order of the listing.
func TestBlobRows(t *testing.T) {
	ctx := context.Background()
	ns, err := Open(ctx, Options{Dir: filepath.Join(t.TempDir(), "namespace"), Maintain: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	org := newID()
	var want []string
	err = ns.db.RunTx(ctx, sqldb.TxOptions{Lazy: true}, func(tx sqldb.Tx) error {
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
		r := &blobRows{ns: ns, org: org, width: width}
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

// TestCheckPages: damage of more rows than are looked at in one step is found whole, and
// repaired whole; a namespace that is open for reading finds the same.
func TestCheckPages(t *testing.T) {
	ctx := context.Background()
	opts := Options{Dir: filepath.Join(t.TempDir(), "namespace"), Maintain: -1}
	b, err := OpenOrg(ctx, opts, "acme")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	info, err := b.Create(ctx, "v", driver.Spec{Kind: driver.KindDir})
	if err != nil {
		t.Fatal(err)
	}
	fsys, err := b.OpenFS(ctx, info.ID, driver.FSOptions{Batch: true})
	if err != nil {
		t.Fatal(err)
	}
	const files = 2*checkPage + 7
	for i := range files {
		if _, err := fsys.WriteFile(ctx, fmt.Sprintf("f%03d", i), bytes.NewReader([]byte("x")), driver.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	err = b.ns.db.RunTx(ctx, sqldb.TxOptions{}, func(tx sqldb.Tx) error {
		tx.QueueExec(`UPDATE inodes SET nlink = 3, alloc = 9 WHERE vol = $1 AND ino > 1`, parseID(info.ID))
		tx.QueueExec(`INSERT INTO dirents (vol, parent, name, ino) SELECT vol, parent, CAST('x' || name AS BLOB), ino + 100000 FROM dirents WHERE vol = $1`, parseID(info.ID))
		tx.QueueExec(`INSERT INTO blobs (org, id, size, data, created) SELECT org, randomblob(16), size, data, 1 FROM blobs WHERE freed IS NULL`)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"wrong-link-count": files, "wrong-allocation": files, "dangling-entry": files, "leaked-blob": files, "wrong-entries": 1, "wrong-metadata": 1}
	found := func(b *Backend, fix bool) map[string]int {
		n := map[string]int{}
		err := b.Check(ctx, driver.CheckOptions{Fix: fix}, func(f driver.Finding) error {
			n[f.Code]++
			if f.Fixed != fix {
				t.Errorf("repaired: %v, want %v: %+v", f.Fixed, fix, f)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	opts.ReadOnly = true
	reader, err := OpenOrg(ctx, opts, "acme")
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for _, step := range []struct {
		name string
		b    *Backend
		fix  bool
	}{{"reading only", reader, false}, {"looking", b, false}, {"repairing", b, true}} {
		if got := found(step.b, step.fix); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: found %v, want %v", step.name, got, want)
		}
	}
	if got := found(b, true); len(got) > 0 {
		t.Errorf("after the repair: %v", got)
	}
	if err := reader.Check(ctx, driver.CheckOptions{Fix: true}, nil); err == nil {
		t.Error("a namespace that is open for reading is repaired")
	}
}
