package blob

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/volehq/vole/driver"
)

// Castagnoli is the table of CRC-32C, the checksum of all objects.
var Castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksums returns the CRC-32C of each SumSize bytes of a blob, and that of all of it.
func Checksums(data []byte) (parts []byte, whole uint32) {
	for off := 0; off < len(data); off += SumSize {
		part := data[off:min(off+SumSize, len(data))]
		parts = binary.BigEndian.AppendUint32(parts, crc32.Checksum(part, Castagnoli))
		whole = crc32.Update(whole, Castagnoli, part)
	}
	return parts, whole
}

// VerifyChecksums returns ErrCorrupt unless data, read at offset off of a blob, has the blob's
// checksums. off is a multiple of SumSize, and so is the end unless the blob ends there.
func VerifyChecksums(data []byte, off int64, sums []byte) error {
	for i := int(off / SumSize); len(data) > 0; i++ {
		part := data[:min(SumSize, len(data))]
		data = data[len(part):]
		if len(sums) < 4*(i+1) || binary.BigEndian.Uint32(sums[4*i:]) != crc32.Checksum(part, Castagnoli) {
			return driver.Errorf(driver.ErrCorrupt, "an object of the blob store does not hold what was put there: its checksum %d differs", i)
		}
	}
	return nil
}

// CombineChecksums returns the CRC-32C of size bytes from those of each SumSize of them.
func CombineChecksums(sums []byte, size int64) uint32 {
	whole := uint32(0)
	for i := 0; i+4 <= len(sums); i += 4 {
		n := min(size, SumSize)
		size -= n
		whole = combineCRC32C(whole, binary.BigEndian.Uint32(sums[i:]), n)
	}
	return whole
}

// combineCRC32C returns the CRC-32C of the concatenation of two byte strings from the CRC-32C
// of each and the length n of the second. The first is shifted by n zero bytes, which is a
// product of polynomials over GF(2), and the second is added. See R. Williams, "A Painless
// Guide to CRC Error Detection Algorithms" (1993).
func combineCRC32C(a, b uint32, n int64) uint32 {
	// x^(8n) by repeated squaring. Bits are reflected: 1 is the top bit, x^8 is eight below.
	power, square := uint32(1)<<31, uint32(1)<<23
	for ; n > 0; n >>= 1 {
		if n&1 != 0 {
			power = multiplyPolynomials(power, square)
		}
		square = multiplyPolynomials(square, square)
	}
	return multiplyPolynomials(power, a) ^ b
}

// multiplyPolynomials multiplies two polynomials modulo that of CRC-32C, bits reflected.
func multiplyPolynomials(a, b uint32) uint32 {
	product := uint32(0)
	for bit := uint32(1) << 31; bit != 0; bit >>= 1 {
		if a&bit != 0 {
			product ^= b
		}
		if b&1 != 0 {
			b = b>>1 ^ crc32.Castagnoli
		} else {
			b >>= 1
		}
	}
	return product
}
