package api

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/volehq/vole/driver"
)

func sparseRange(off, n uint64, data string) []byte {
	return append(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, off), n), data...)
}

// FuzzSparse: whatever arrives, the ranges that the decoder gives ascend and are within
// the size, and what it takes to its end is the same when it is encoded and decoded again.
func FuzzSparse(f *testing.F) {
	f.Add(int64(0), sparseRange(0, 0, ""))
	f.Add(int64(10), append(sparseRange(2, 3, "abc"), sparseRange(10, 0, "")...))
	f.Add(int64(10), append(sparseRange(2, 3, "abc"), sparseRange(1, 3, "abc")...))
	f.Add(int64(1<<62), append(sparseRange(1<<61, 1, "x"), sparseRange(1<<62, 0, "")...))
	f.Add(int64(10), sparseRange(1<<63, 1<<63, "abc"))
	f.Add(int64(10), sparseRange(5, 100, "abc"))
	f.Add(int64(5), sparseRange(4, 2, "a"))
	f.Fuzz(func(t *testing.T, size int64, body []byte) {
		if size < 0 {
			t.Skip()
		}
		one, err := decodeSparse(t, bytes.NewReader(body), size)
		if err != nil {
			if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, driver.ErrInvalid) {
				t.Fatalf("the error is %v", err)
			}
			return
		}
		i := 0
		var data []byte
		for _, r := range one {
			data = append(data, r.data...)
		}
		again := NewSparseEncoder(t.Context(), bytes.NewReader(data), size, func(context.Context) (int64, int64, error) {
			if i == len(one) {
				return 0, 0, io.EOF
			}
			i++
			return one[i-1].off, int64(len(one[i-1].data)), nil
		})
		two, err := decodeSparse(t, again, size)
		if err != nil || len(one) != len(two) {
			t.Fatalf("%d ranges became %d: %v", len(one), len(two), err)
		}
		for i := range one {
			if one[i].off != two[i].off || !bytes.Equal(one[i].data, two[i].data) {
				t.Fatalf("range %d is another", i)
			}
		}
	})
}

type decoded struct {
	off  int64
	data []byte
}

func decodeSparse(t *testing.T, r io.Reader, size int64) ([]decoded, error) {
	d := NewSparseDecoder(r, size)
	var list []decoded
	for last := int64(0); ; {
		off, n, err := d.NextData(t.Context())
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		if off < last || n <= 0 || n > size-off {
			t.Fatalf("a range of %d bytes at %d, after %d, in a file of %d", n, off, last, size)
		}
		last = off + n
		b, err := io.ReadAll(d)
		if err != nil {
			return nil, err
		}
		if int64(len(b)) != n {
			t.Fatalf("%d bytes of a range of %d", len(b), n)
		}
		list = append(list, decoded{off, b})
	}
}
