package vole

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/volehq/vole/driver"
)

// countingFile is a file in memory that counts the reads it is asked for.
type countingFile struct {
	driver.File
	data  []byte
	reads int
}

func (f *countingFile) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	f.reads++
	return bytes.NewReader(f.data).ReadAt(p, off)
}

// TestReaderKeepsEOF: behind a server each read is a request, and the last one tells the end
// together with the last bytes.
func TestReaderKeepsEOF(t *testing.T) {
	for size, want := range map[int]int{0: 1, 1: 1, streamBuf - 1: 1, streamBuf: 2, streamBuf + 1: 2} {
		d := &countingFile{data: bytes.Repeat([]byte("x"), size)}
		f := &File{d: d, vol: &Volume{}, path: "f"}
		var got bytes.Buffer
		if n, err := io.Copy(&got, f.NewReader(t.Context(), 0, -1)); err != nil || n != int64(size) || !bytes.Equal(got.Bytes(), d.data) {
			t.Errorf("%d bytes: %d copied, %v", size, n, err)
		}
		if d.reads != want {
			t.Errorf("%d bytes: %d reads, want %d", size, d.reads, want)
		}
	}
}

// TestReaderGoesOn: a Reader that met the end reads what was appended since.
func TestReaderGoesOn(t *testing.T) {
	d := &countingFile{data: []byte("one")}
	r := (&File{d: d, vol: &Volume{}, path: "f"}).NewReader(t.Context(), 0, -1)
	for _, want := range []string{"one", "two", ""} {
		if got, err := io.ReadAll(r); err != nil || string(got) != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
		if want == "one" {
			d.data = append(d.data, "two"...)
		}
	}
}

// TestReaderSeek: offsets count from the start of the range, as those of io.SectionReader.
func TestReaderSeek(t *testing.T) {
	f := &File{d: &countingFile{data: []byte("0123456789")}, vol: &Volume{}, path: "f"}
	r := f.NewReader(t.Context(), 2, 5) // 23456
	for _, c := range []struct {
		off    int64
		whence int
		at     int64
		rest   string
	}{{0, io.SeekCurrent, 0, "23456"}, {-2, io.SeekEnd, 3, "56"}, {1, io.SeekStart, 1, "3456"}, {0, io.SeekEnd, 5, ""}, {9, io.SeekStart, 9, ""}} {
		at, err := r.Seek(c.off, c.whence)
		rest, rerr := io.ReadAll(r)
		if at != c.at || string(rest) != c.rest || err != nil || rerr != nil {
			t.Errorf("seek %d, %d: at %d, %q, %v, %v; want %d, %q", c.off, c.whence, at, rest, err, rerr, c.at, c.rest)
		}
	}
	for _, whence := range []int{io.SeekStart, 7} { // before the range, too, although the file has a byte there
		if _, err := r.Seek(-1, whence); !errors.Is(err, ErrInvalid) {
			t.Errorf("seek -1, %d: %v", whence, err)
		}
	}
}
