package bucket

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/sqldb"
)

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
	const files = 2*200 + 7 // a page has 200
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
