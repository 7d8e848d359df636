package transfer

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/sparse"
)

// A sparse file that grows or shrinks while it is copied comes out in the size that it
// had at first, and holds what was there to be read.
func TestSparseFileChanges(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	s, err := vole.Open(ctx, vole.Options{Home: filepath.Join(dir, "home")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	v, err := s.Create(ctx, "v", vole.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := v.FS(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size, at = 4 << 20, 1 << 20
	for what, now := range map[string]int64{"unchanged": size, "grown": 2 * size, "shrunk to the data": at + 4, "shrunk": at + 2, "emptied": 0} {
		data := make([]byte, at+4)
		copy(data[at:], "data")
		file := filepath.Join(dir, "f")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(file, now); err != nil {
			t.Fatal(err)
		}
		h, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		target := &volumeTarget{f: f, opts: &Options{}}
		it := &item{mode: 0o600, size: size, sparse: true}
		if err := target.writeFile(ctx, "f", it, sparse.File(ctx, h)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		h.Close()
		want := make([]byte, size)
		copy(want, data[:min(now, at+4)])
		if got, err := f.ReadFile(ctx, "f"); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: the copy differs (%v)", what, err)
		}
	}
}

// Where a file has shrunk within a range that was found before, the range is filled up.
func TestSparseStreamEndsEarly(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	b := bytes.Repeat([]byte("x"), 10)
	if _, err := io.ReadFull(&sparseStream{sparse.File(t.Context(), h), 10}, b); err != nil || string(b) != "data\x00\x00\x00\x00\x00\x00" {
		t.Errorf("%q, %v", b, err)
	}
}
