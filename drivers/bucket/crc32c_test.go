package bucket

import (
	"hash/crc32"
	"math/rand/v2"
	"testing"

	"github.com/volehq/vole/drivers/bucket/internal/blob"
)

func TestJoinSums(t *testing.T) {
	data := make([]byte, 300_000)
	for i := range data {
		data[i] = byte(rand.N(256))
	}
	for _, n := range []int{0, 1, 2, 1000, sumSize - 1, sumSize, sumSize + 1, 2 * sumSize, 200_001, len(data)} {
		sums, whole := partChecksums(data[:n])
		if got := combineChecksums(sums, int64(n)); got != whole || whole != crc32.Checksum(data[:n], blob.Castagnoli) {
			t.Errorf("%d bytes: %08x, want %08x", n, got, whole)
		}
	}
}
