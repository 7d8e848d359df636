package blob

import (
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

func TestJoinSums(t *testing.T) {
	data := make([]byte, 300_000)
	for i := range data {
		data[i] = byte(rand.N(256))
	}
	for _, n := range []int{0, 1, 2, 1000, SumSize - 1, SumSize, SumSize + 1, 2 * SumSize, 200_001, len(data)} {
		sums, whole := Checksums(data[:n])
		if got := CombineChecksums(sums, int64(n)); got != whole || whole != crc32.Checksum(data[:n], Castagnoli) {
			t.Errorf("%d bytes: %08x, want %08x", n, got, whole)
		}
	}
}
