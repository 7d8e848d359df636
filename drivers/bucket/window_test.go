package bucket_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/budget"
)

// TestWindowsAreBounded: what is known of files that are open counts against the memory of
// the organisation, however many they are and however little they hold, and all of them can
// be read.
func TestWindowsAreBounded(t *testing.T) {
	const (
		most  = 8 << 20 // bytes of memory of the organisation
		files = 100
		holes = 128 // distance of the extents
		piece = 64
	)
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			opts := e.fresh(t)
			opts.Memory = budget.New(2*most, most, time.Second)
			share := opts.Memory.Share("acme")
			_, s := openS3Org(t, opts, "acme")
			_, f := makeVolume(t, s, "v", vole.Spec{})

			// All pieces are in one blob, which lives in its row.
			want := make([]byte, 256*holes)
			h := openTo(t, f, "f", vole.OpenOptions{Write: true, Create: true})
			for at := 0; at < len(want); at += holes {
				copy(want[at:], bytes.Repeat([]byte{byte(at / holes)}, piece))
				if _, err := h.WriteAt(ctx, want[at:at+piece], int64(at)); err != nil {
					t.Fatal(err)
				}
			}
			if err := h.Close(); err != nil {
				t.Fatal(err)
			}
			var open []*vole.File
			for i := range files {
				name := fmt.Sprint("copy", i)
				if err := f.Copy(ctx, "f", name, vole.CopyOptions{}); err != nil {
					t.Fatal(err)
				}
				h := openTo(t, f, name, vole.OpenOptions{})
				open = append(open, h)
				got := make([]byte, len(want)-holes+piece)
				if n, err := h.ReadAt(ctx, got, 0); n != len(got) {
					t.Fatalf("%s: %d bytes, %v", name, n, err)
				}
				if !bytes.Equal(got, want[:len(got)]) {
					t.Fatalf("%s has other bytes", name)
				}
				if i == 0 && share.Windows.Load() > 256*512 {
					t.Errorf("%d bytes are kept of a file of %d", share.Windows.Load(), 256*piece)
				}
			}
			if n := share.Windows.Load(); n == 0 || n > share.Part(4) {
				t.Errorf("%d bytes are kept of open files, at most %d may be", n, share.Part(4))
			}
			for _, h := range open {
				if err := h.Close(); err != nil {
					t.Error(err)
				}
			}
			if n := share.Windows.Load(); n != 0 {
				t.Errorf("%d bytes are kept of files that are closed", n)
			}
			if n := opts.Memory.Used(); n != 0 {
				t.Errorf("%d bytes of memory are never given back", n)
			}
		})
	}
}

// TestLocateIsBounded: an answer of Locate does not grow with what is kept in rows, and the
// calls that follow have the rest.
func TestLocateIsBounded(t *testing.T) {
	ctx := t.Context()
	b, s := openS3Org(t, engines[1].fresh(t), "acme")
	v, f := makeVolume(t, s, "v", vole.Spec{})
	const extents, size, step = 40, 16_000, 20_000
	h := openTo(t, f, "f", vole.OpenOptions{Write: true, Create: true})
	for i := range extents {
		if _, err := h.WriteAt(ctx, randomBytes(size), int64(i*step)); err != nil {
			t.Fatal(err)
		}
		if err := h.Sync(ctx); err != nil { // a blob for each
			t.Fatal(err)
		}
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	found := 0
	for at := int64(0); at >= 0; {
		list, next, err := b.Locate(ctx, v.ID(), "f", at, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		sum := 0
		for _, r := range list {
			if r.Pos != int64(found*step) || !bytes.Equal(r.Data, randomBytes(size)) {
				t.Fatalf("range %d is at %d, with %d bytes", found, r.Pos, len(r.Data))
			}
			found++
			sum += len(r.Data)
		}
		if sum > 128<<10 || next >= 0 && next <= at {
			t.Fatalf("%d bytes at %d, next %d", sum, at, next)
		}
		at = next
	}
	if found != extents {
		t.Errorf("%d ranges of %d", found, extents)
	}
}
