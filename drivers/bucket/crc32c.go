package bucket

import (
	"encoding/binary"
	"hash/crc32"
)

// combineChecksums returns the CRC-32C of size bytes from those of each sumSize of them.
func combineChecksums(sums []byte, size int64) uint32 {
	whole := uint32(0)
	for i := 0; i+4 <= len(sums); i += 4 {
		n := min(size, sumSize)
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
