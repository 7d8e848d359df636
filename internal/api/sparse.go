package api

import (
	"context"
	"encoding/binary"
	"errors"
	"io"

	"github.com/volehq/vole/driver"
)

// A sparse body is ranges: an offset and a length (8 bytes each, big-endian), and the
// bytes. Ranges ascend. The last has the length 0, and the file's size as its offset.
const sparseHeader = 16

// SparseEncoder is a reader of the sparse body of a file.
type SparseEncoder struct {
	ctx  context.Context
	r    io.Reader
	next func(ctx context.Context) (off, n int64, err error)
	size int64

	head []byte // rest of the header that is being read
	left int64  // bytes of the current range that are still to come
	end  bool   // the last header was made
}

// NewSparseEncoder encodes a file of the given size whose data next and r give, as
// driver.WriteOptions.NextData says.
func NewSparseEncoder(ctx context.Context, r io.Reader, size int64, next func(ctx context.Context) (off, n int64, err error)) *SparseEncoder {
	return &SparseEncoder{ctx: ctx, r: r, next: next, size: size}
}

// Read implements io.Reader. A source that ends within a range is io.ErrUnexpectedEOF.
func (e *SparseEncoder) Read(p []byte) (int, error) {
	for len(p) > 0 {
		switch {
		case len(e.head) > 0:
			n := copy(p, e.head)
			e.head = e.head[n:]
			return n, nil
		case e.left > 0:
			n, err := e.r.Read(p[:min(int64(len(p)), e.left)])
			e.left -= int64(n)
			if errors.Is(err, io.EOF) {
				err = nil
				if e.left > 0 {
					err = io.ErrUnexpectedEOF
				}
			}
			if n > 0 || err != nil {
				return n, err
			}
		case e.end:
			return 0, io.EOF
		default:
			off, n, err := e.next(e.ctx)
			if errors.Is(err, io.EOF) {
				off, n, err, e.end = e.size, 0, nil, true
			} else if err == nil && n <= 0 {
				continue
			}
			if err != nil {
				return 0, err
			}
			e.left = n
			e.head = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(off)), uint64(n))
		}
	}
	return 0, nil
}

// SparseDecoder decodes a sparse body: NextData returns its ranges, Read the bytes of the current
// one. The body comes from a client and is checked.
type SparseDecoder struct {
	r    io.Reader
	size int64

	left int64 // bytes of the current range that were not read yet
	last int64 // end of the last range
	end  bool  // the last header was read
}

// NewSparseDecoder decodes a body of a file of the given size.
func NewSparseDecoder(r io.Reader, size int64) *SparseDecoder {
	return &SparseDecoder{r: r, size: size}
}

// NextData is a driver.WriteOptions.NextData. The current range must have been read whole.
func (d *SparseDecoder) NextData(ctx context.Context) (off, n int64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, 0, err
	}
	if d.end {
		return 0, 0, io.EOF
	}
	if d.left > 0 {
		return 0, 0, io.ErrUnexpectedEOF
	}
	var head [sparseHeader]byte
	if _, err := io.ReadFull(d.r, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, 0, err
	}
	off, n = int64(binary.BigEndian.Uint64(head[:])), int64(binary.BigEndian.Uint64(head[8:]))
	switch {
	case off < d.last || n < 0 || off > d.size || n > d.size-off:
		return 0, 0, driver.Errorf(driver.ErrInvalid, "the sparse body has a range of %d bytes at %d; ranges ascend and end within the size, %d", n, off, d.size)
	case n == 0 && off != d.size:
		return 0, 0, driver.Errorf(driver.ErrInvalid, "the sparse body ends with size %d, not %d", off, d.size)
	case n == 0:
		d.end = true
		return 0, 0, io.EOF
	}
	d.left, d.last = n, off+n
	return off, n, nil
}

// Read reads from the current range, and returns io.EOF at its end.
func (d *SparseDecoder) Read(p []byte) (int, error) {
	if d.left == 0 {
		return 0, io.EOF
	}
	n, err := d.r.Read(p[:min(int64(len(p)), d.left)])
	d.left -= int64(n)
	if errors.Is(err, io.EOF) && d.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
