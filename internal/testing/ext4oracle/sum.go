package ext4oracle

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
)

// Sum is a digest of a file's content. It is a SHA-256 over the offset and bytes of
// each unit of 4 KiB that is not all zeros, and over the size; so it does not depend
// on what is a hole, and holes cost nothing to compute.
type Sum [sha256.Size]byte

// String returns the start of the sum.
func (s Sum) String() string { return fmt.Sprintf("%x", s[:8]) }

// zeros is a unit of zeros.
var zeros [unit]byte

// contentSummer computes a [Sum] from pieces in ascending order.
type contentSummer struct {
	h hash.Hash
}

// newContentSummer returns the state of an empty sum.
func newContentSummer() *contentSummer { return &contentSummer{sha256.New()} }

// addPiece adds bytes at an offset that is a multiple of the unit. Only the last piece of
// a file may have a length that is not.
func (s *contentSummer) addPiece(off int64, p []byte) {
	var head [8]byte
	for len(p) > 0 {
		n := min(unit, len(p))
		if !bytes.Equal(p[:n], zeros[:n]) {
			binary.LittleEndian.PutUint64(head[:], uint64(off))
			s.h.Write(head[:])
			s.h.Write(p[:n])
			s.h.Write(zeros[n:])
		}
		off += int64(n)
		p = p[n:]
	}
}

// finishSum returns the sum of a file of a size.
func (s *contentSummer) finishSum(size int64) Sum {
	var tail [8]byte
	binary.LittleEndian.PutUint64(tail[:], uint64(size))
	s.h.Write(tail[:])
	return Sum(s.h.Sum(nil))
}

// SumReader returns the sum of everything that r yields, and its length.
func SumReader(r io.Reader) (Sum, int64, error) {
	s, size := newContentSummer(), int64(0)
	buf := make([]byte, 64*unit)
	for {
		n, err := io.ReadFull(r, buf)
		s.addPiece(size, buf[:n])
		size += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return s.finishSum(size), size, nil
		}
		if err != nil {
			return Sum{}, size, err
		}
	}
}

// SumAt returns the sum of a file of a size in which only the given ranges are not zeros.
// It fails if the file ends within one of them.
func SumAt(r io.ReaderAt, size int64, data []Range) (Sum, error) {
	s := newContentSummer()
	wide := Widen(data, size)
	var longest int64
	for _, d := range wide {
		longest = max(longest, d.Len)
	}
	// Pieces are whole units, except at the end of the file: ranges were widened.
	buf := make([]byte, min(longest, 256*unit))
	for _, d := range wide {
		for off, end := d.Off, d.Off+d.Len; off < end; {
			p := buf[:min(int64(len(buf)), end-off)]
			n, err := r.ReadAt(p, off)
			if n < len(p) {
				if err == nil || err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return Sum{}, fmt.Errorf("read of %d at %d: %w", len(p), off, err)
			}
			s.addPiece(off, p)
			off += int64(n)
		}
	}
	return s.finishSum(size), nil
}
