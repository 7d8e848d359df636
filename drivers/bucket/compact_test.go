package bucket

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/sqldb"
)

// openTest opens an organisation on a fresh SQLite database.
func openTest(t *testing.T, change func(o *Options)) *Backend {
	t.Helper()
	o := Options{Dir: filepath.Join(t.TempDir(), "ns"), Maintain: -1}
	if change != nil {
		change(&o)
	}
	b, err := OpenOrg(t.Context(), o, "acme")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// openFile makes a volume with one file.
func openFile(t *testing.T, b *Backend) *handle {
	t.Helper()
	ctx := context.Background()
	info, err := b.Create(ctx, "v", driver.Spec{Kind: driver.KindDir})
	if err != nil {
		t.Fatal(err)
	}
	fsys, err := b.openVolumeFS(ctx, info.ID, driver.FSOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h, err := fsys.Open(ctx, "f", driver.OpenOptions{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	return h.(*handle)
}

func (h *handle) chunks(t *testing.T) int {
	t.Helper()
	window, err := h.inode.windowAt(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return len(window.list)
}

// A file of many small writes becomes one chunk, and holds what it held.
func TestCompact(t *testing.T) {
	for name, inline := range map[string]int{"objects": -1, "rows": 0} {
		t.Run(name, func(t *testing.T) {
			h := openFile(t, openTest(t, func(o *Options) { o.Inline = inline }))
			want := make([]byte, 120_000)
			for i := range want {
				want[i] = byte(rand.N(256))
			}
			for off := 0; off < len(want); off += 1000 {
				if _, err := h.WriteAt(t.Context(), want[off:off+1000], int64(off)); err != nil {
					t.Fatal(err)
				}
				if err := h.Sync(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			// Beyond a hole there is another one, which stays by itself.
			if _, err := h.WriteAt(t.Context(), []byte("tail"), 200_000); err != nil {
				t.Fatal(err)
			}
			if err := h.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			h.inode.commitMu.Lock()
			err := h.inode.compactNear(t.Context(), h.fs, 0)
			h.inode.commitMu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			// compact itself may have come first, and then a few came after it.
			if got := h.chunks(t); got > compactAt+1 {
				t.Errorf("%d chunks are left", got)
			}
			got := make([]byte, len(want)+1)
			if _, err := h.ReadAt(t.Context(), got[:len(want)], 0); err != nil && err != io.EOF {
				t.Fatal(err)
			}
			if !bytes.Equal(got[:len(want)], want) {
				t.Error("the file holds something else")
			}
			start, end, err := h.NextData(t.Context(), int64(len(want)))
			if start != 200_000 || end != 200_004 || err != nil {
				t.Errorf("data at %d to %d, %v", start, end, err)
			}
			e, err := h.Stat(t.Context())
			if err != nil || e.Allocated != int64(len(want))+4 || e.Size != 200_004 {
				t.Errorf("%+v, %v", e, err)
			}
		})
	}
}

// A run that changed while its bytes were put elsewhere is left alone.
func TestCompactChanged(t *testing.T) {
	h := openFile(t, openTest(t, nil))
	for i := range 3 {
		if _, err := h.WriteAt(t.Context(), []byte("old"), int64(3*i)); err != nil {
			t.Fatal(err)
		}
		if err := h.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	window, err := h.inode.windowAt(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt(t.Context(), []byte("new"), 3); err != nil {
		t.Fatal(err)
	}
	if err := h.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.inode.mergeExtents(t.Context(), h.fs, window.list); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 9)
	if _, err := h.ReadAt(t.Context(), got, 0); err != nil && err != io.EOF || string(got) != "oldnewold" {
		t.Errorf("%q, %v", got, err)
	}
}

// Small writes far apart share a blob: one request puts them all.
func TestSmallWritesShareBlobs(t *testing.T) {
	b := openTest(t, func(o *Options) { o.Inline = -1 })
	h := openFile(t, b)
	for i := range 100 {
		if _, err := h.WriteAt(t.Context(), []byte{byte(i), byte(i)}, int64(i*100_000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	var n, chunks int
	var found bool
	err := b.ns.db.RunQueries(t.Context(),
		sqldb.SelectOne(&found, []any{&n}, `SELECT count(*) FROM blobs WHERE freed IS NULL`), sqldb.SelectOne(&found, []any{&chunks}, `SELECT count(*) FROM chunks`))
	if err != nil || n != 1 || chunks != 100 {
		t.Errorf("%d blobs for %d chunks, %v", n, chunks, err)
	}
	for i := range 100 {
		got := make([]byte, 3)
		if _, err := h.ReadAt(t.Context(), got, int64(i*100_000)); err != nil && err != io.EOF || got[0] != byte(i) || got[1] != byte(i) || got[2] != 0 {
			t.Fatalf("at %d: %v, %v", i, got, err)
		}
	}
	// Two writes that overlap chunks of one blob, in one commit.
	for i, pos := range []int64{1, 99_999, 100_001} {
		if _, err := h.WriteAt(t.Context(), []byte{200 + byte(i)}, pos); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 3)
	if _, err := h.ReadAt(t.Context(), got, 99_999); err != nil || got[0] != 201 || got[1] != 1 || got[2] != 202 {
		t.Errorf("%v, %v", got, err)
	}
	e, err := h.Stat(t.Context())
	if err != nil || e.Allocated != 201 {
		t.Errorf("%d bytes are allocated, want 201 (%v)", e.Allocated, err)
	}
}
