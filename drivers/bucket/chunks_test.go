package bucket_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/bucket"
)

// onEachEngine runs a test on every engine, in a fresh volume without a quota.
func onEachEngine(t *testing.T, fn func(t *testing.T, f *vole.FS)) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			opts := e.fresh(t)
			opts.Maintain = -1
			b, err := bucket.OpenOrg(t.Context(), opts, "acme")
			if err != nil {
				t.Fatal(err)
			}
			s := vole.New(b)
			t.Cleanup(func() { s.Close() })
			v, err := s.Create(t.Context(), "v", vole.Spec{})
			if err != nil {
				t.Fatal(err)
			}
			f, err := v.FS(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			fn(t, f)
		})
	}
}

// Several ranges of one chunk that are overwritten in one commit are all in the file
// afterwards, and so is what lies between them.
func TestWritesIntoOneChunk(t *testing.T) {
	onEachEngine(t, func(t *testing.T, f *vole.FS) {
		ctx := t.Context()
		want := bytes.Repeat([]byte("o"), 40_000)
		if err := f.WriteFile(ctx, "f", want, 0o644); err != nil {
			t.Fatal(err)
		}
		h, err := f.Open(ctx, "f", vole.OpenOptions{Write: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range []struct{ off, n int }{{0, 100}, {200, 100}, {1000, 500}, {1200, 900}, {39_990, 20}, {50_000, 10}} {
			p := bytes.Repeat([]byte{byte(x.off)}, x.n)
			if _, err := h.WriteAt(ctx, p, int64(x.off)); err != nil {
				t.Fatal(err)
			}
			if end := x.off + x.n; end > len(want) {
				want = append(want, make([]byte, end-len(want))...)
			}
			copy(want[x.off:], p)
		}
		if err := h.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want)+1)
		n, err := h.ReadAt(ctx, got, 0)
		if !errors.Is(err, io.EOF) || !bytes.Equal(got[:n], want) {
			t.Errorf("read %d bytes, %v, that are not the %d that were written", n, err, len(want))
		}
		e, err := h.Stat(ctx)
		if err != nil || e.Allocated != 40_020 {
			t.Errorf("%d bytes allocated, %v", e.Allocated, err)
		}
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
