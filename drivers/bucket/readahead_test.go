package bucket_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/bucket"
)

// TestReadAheadAtOnce: prefetch buffers are reused, and no read sees the bytes of another in
// one, however many goroutines read through one handle while others write, cancel or close.
func TestReadAheadAtOnce(t *testing.T) {
	const size, step = 40 << 20, 192 << 10
	ctx := t.Context()
	b, err := bucket.OpenOrg(ctx, bucket.Options{Dir: t.TempDir(), Maintain: -1}, "acme")
	if err != nil {
		t.Fatal(err)
	}
	s := vole.New(b)
	defer s.Close()
	// Each file says at each place which file and place it is.
	want := func(file byte) []byte {
		data := make([]byte, size)
		for i := 0; i < size; i += 8 {
			binary.BigEndian.PutUint64(data[i:], uint64(file)<<56|uint64(i))
		}
		return data
	}
	v, err := s.Create(ctx, "v", vole.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := v.FS(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i, name := range []string{"a", "b"} {
		data := want(byte(i + 1))
		if err := f.WriteFile(ctx, name, data, 0); err != nil {
			t.Fatal(err)
		}
		for round := range 3 {
			h, err := f.Open(ctx, name, vole.OpenOptions{Write: true})
			if err != nil {
				t.Fatal(err)
			}
			var readers sync.WaitGroup
			for r := range 3 {
				readers.Go(func() {
					buf := make([]byte, step)
					for off := int64(r) * step; off < size; {
						n, err := h.ReadAt(ctx, buf, off)
						if errors.Is(err, vole.ErrClosed) && round == 2 {
							return
						}
						if err != nil && !errors.Is(err, io.EOF) {
							t.Error(err)
							return
						}
						if !bytes.Equal(buf[:n], data[off:off+int64(n)]) {
							t.Errorf("%s: other bytes at %d", name, off)
							return
						}
						off += int64(n)
					}
				})
			}
			wg.Go(func() {
				switch round {
				case 1: // the same bytes in new blobs
					for off := int64(0); off < size; off += 10 << 20 {
						if _, err := h.WriteAt(ctx, data[off:off+step], off); err != nil {
							t.Error(err)
						}
						if err := h.Sync(ctx); err != nil {
							t.Error(err)
						}
					}
				case 2:
					if err := h.Close(); err != nil {
						t.Error(err)
					}
				}
				readers.Wait()
				if err := h.Close(); err != nil && round != 2 {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
}
