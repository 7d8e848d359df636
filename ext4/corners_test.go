package ext4

import (
	"context"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// cornerSizes are what arithmetic on sizes trips over.
var cornerSizes = []int64{0, 1, -1, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<44 - 1, 1 << 44, 1<<44 + 1, 1 << 53, 1<<62 - 1, 1 << 62, math.MaxInt64 - 4096, math.MaxInt64 - 1, math.MaxInt64, math.MinInt64, math.MinInt64 + 1}

// newOpenImage makes an image of 8 MiB and opens it.
func newOpenImage(t *testing.T) (*os.File, *FS) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(8 << 20); err != nil {
		t.Fatal(err)
	}
	if _, err := Format(f, 8<<20, FormatOptions{}); err != nil {
		t.Fatal(err)
	}
	fs, err := Open(f, OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return f, fs
}

// TestCornerSizes tries corner values as sizes and offsets of a file: nothing panics, and
// what is refused changes nothing.
func TestCornerSizes(t *testing.T) {
	_, fs := newOpenImage(t)
	defer fs.Close()
	h, err := fs.OpenFile("f", OpenFlags{Write: true, Create: true, Mode: 0o644})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	size := func() int64 {
		i, err := h.Stat()
		if err != nil {
			t.Fatal(err)
		}
		return i.Size
	}
	reset := func() {
		if err := h.Truncate(0); err != nil {
			t.Fatal(err)
		}
		if _, err := h.WriteAt([]byte("0123456789"), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range cornerSizes {
		for name, try := range map[string]func() error{
			"Truncate":        func() error { return h.Truncate(n) },
			"WriteAt":         func() error { _, err := h.WriteAt([]byte("x"), n); return err },
			"PunchHole at":    func() error { return h.PunchHole(n, 1) },
			"PunchHole of":    func() error { return h.PunchHole(5, n) },
			"Allocate at":     func() error { return h.Allocate(n, 1, false) },
			"Allocate behind": func() error { return h.Allocate(n, 1, true) },
			"ReadAt":          func() error { _, err := h.ReadAt(make([]byte, 8), n); return err },
			"NextData":        func() error { _, _, err := h.NextData(n); return err },
		} {
			reset()
			if err := try(); err != nil && size() != 10 {
				t.Errorf("%s %d: %v, and the size is %d", name, n, err, size())
			}
		}
	}
	for _, off := range cornerSizes {
		for _, n := range cornerSizes {
			if n < 1<<44 && n > 1<<20 && off >= 0 && off < 1<<44 {
				continue // of that an image has no room; it takes its time to find out
			}
			reset()
			if err := errors.Join(h.PunchHole(off, n)); size() != 10 {
				t.Errorf("PunchHole %d %d: %v, and the size is %d", off, n, err, size())
			}
			if err := h.Allocate(off, n, true); size() != 10 {
				t.Errorf("Allocate %d %d: %v, and the size is %d", off, n, err, size())
			}
		}
	}
}

// TestCornerCapacities tries corner values as sizes of images.
func TestCornerCapacities(t *testing.T) {
	f, fs := newOpenImage(t)
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	for _, n := range cornerSizes {
		if n < 0 || n > MaxSize || n < MinSize {
			if _, err := Format(f, n, FormatOptions{}); err == nil {
				t.Errorf("an image of %d bytes was made", n)
			}
		}
		if n < 0 || n > MaxSize {
			if _, err := Grow(context.Background(), f, n, GrowOptions{}); err == nil {
				t.Errorf("an image grew to %d bytes", n)
			}
		}
	}
	fs, err := Open(f, OpenOptions{ReadOnly: true})
	if err != nil {
		t.Fatalf("the image is damaged: %v", err)
	}
	if err := fs.Close(); err != nil && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}
