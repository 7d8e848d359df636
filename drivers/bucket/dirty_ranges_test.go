package bucket

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// Random writes and cuts against an array.
func TestDirtyRanges(t *testing.T) {
	const size = 400
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		var ranges dirtyRanges
		want, there := make([]byte, size), make([]bool, size)
		for range 40 {
			pos := r.IntN(size)
			n := r.IntN(min(60, size-pos) + 1)
			if r.IntN(5) == 0 {
				ranges = ranges.removeRange(int64(pos), int64(pos+n))
				clear(want[pos : pos+n])
				clear(there[pos : pos+n])
				continue
			}
			data := make([]byte, n)
			for i := range data {
				data[i] = byte(1 + r.IntN(255))
				there[pos+i] = true
			}
			copy(want[pos:], data)
			ranges = ranges.overwrite(int64(pos), data)
		}
		got := make([]byte, size)
		copyRanges(got, ranges, 0)
		if !bytes.Equal(got, want) {
			t.Fatalf("seed %d: differs at %d", seed, firstDiff(got, want))
		}
		part := make([]byte, 100)
		copyRanges(part, ranges, 77)
		if !bytes.Equal(part, want[77:177]) {
			t.Fatalf("seed %d: a part differs", seed)
		}
		n, last := int64(0), int64(-1)
		for i, p := range ranges {
			if p.pos < last || len(p.data) == 0 {
				t.Fatalf("seed %d: range %d at %d, the one before ended at %d", seed, i, p.pos, last)
			}
			last = p.end()
			n -= int64(len(p.data))
		}
		for _, b := range there {
			if b {
				n++
			}
		}
		if n != 0 {
			t.Fatalf("seed %d: %d bytes are missing", seed, n)
		}
	}
}

// copyRanges copies into p, which begins at pos, what the ranges have there.
func copyRanges(p []byte, ranges dirtyRanges, pos int64) {
	for _, r := range ranges {
		for i, b := range r.data {
			if at := r.pos + int64(i) - pos; at >= 0 && at < int64(len(p)) {
				p[at] = b
			}
		}
	}
}

func firstDiff(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}
