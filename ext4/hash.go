package ext4

import "math/bits"

// hasher computes the hashes by which indexed directories are ordered, with the functions
// of fs/ext4/hash.c: half MD4 (RFC 1320 with fewer steps), TEA, and a legacy one.
type hasher struct {
	seed     [4]uint32
	unsigned bool // names are unsigned chars: depends on the machine that made the image
}

// Hash functions, by the number in the index root and in the superblock.
const (
	hashLegacy  = 0
	hashHalfMD4 = 1
	hashTEA     = 2
	hashSip     = 6 // of encrypted and casefolded directories, with their key
)

// hashEnd is the largest hash. No name has it: it marks the end of a directory.
const hashEnd = 0x7fffffff << 1

// hashName returns a name's hash, and a second one that orders names of the same hash; ok
// is false if the function is unknown.
func (h *hasher) hashName(version byte, name string) (major, minor uint32, ok bool) {
	var seed = [4]uint32{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}
	if h.seed != [4]uint32{} {
		seed = h.seed
	}
	switch version {
	case hashLegacy:
		major = h.legacyHash(name)
	case hashHalfMD4:
		for s := name; len(s) > 0; s = s[min(len(s), 32):] {
			var in [8]uint32
			h.packWords(in[:], s)
			halfMD4Transform(&seed, &in)
		}
		major, minor = seed[1], seed[2]
	case hashTEA:
		for s := name; len(s) > 0; s = s[min(len(s), 16):] {
			var in [4]uint32
			h.packWords(in[:], s)
			teaTransform(&seed, &in)
		}
		major, minor = seed[0], seed[1]
	default:
		return 0, 0, false
	}
	if major &^= 1; major == hashEnd {
		major -= 2
	}
	return major, minor, true
}

// charValue returns a byte as a C char, whose sign depends on the machine that made the
// image.
func (h *hasher) charValue(c byte) uint32 {
	if h.unsigned {
		return uint32(c)
	}
	return uint32(int32(int8(c)))
}

// legacyHash is the hash function from before half MD4.
func (h *hasher) legacyHash(name string) uint32 {
	hash, last := uint32(0x12a3fe2d), uint32(0x37abe8f9)
	for i := range len(name) {
		next := last + (hash ^ h.charValue(name[i])*7152373)
		if next&0x80000000 != 0 {
			next -= 0x7fffffff
		}
		last, hash = hash, next
	}
	return hash << 1
}

// packWords packs the beginning of a name into words, and fills the rest with its length.
func (h *hasher) packWords(out []uint32, s string) {
	pad := uint32(len(s)) | uint32(len(s))<<8
	pad |= pad << 16
	v, k := pad, 0
	s = s[:min(len(s), 4*len(out))]
	for i := range len(s) {
		v = h.charValue(s[i]) + v<<8
		if i%4 == 3 {
			out[k] = v
			k++
			v = pad
		}
	}
	if k < len(out) {
		out[k] = v
		k++
	}
	for ; k < len(out); k++ {
		out[k] = pad
	}
}

// halfMD4Transform mixes 32 bytes of a name into the hash.
func halfMD4Transform(buf *[4]uint32, in *[8]uint32) {
	const k2, k3 = 0x5a827999, 0x6ed9eba1
	f := func(x, y, z uint32) uint32 { return z ^ x&(y^z) }
	g := func(x, y, z uint32) uint32 { return x&y + (x^y)&z }
	h := func(x, y, z uint32) uint32 { return x ^ y ^ z }
	round := func(fn func(x, y, z uint32) uint32, a *uint32, b, c, d, x uint32, s int) {
		*a = bits.RotateLeft32(*a+fn(b, c, d)+x, s)
	}
	a, b, c, d := buf[0], buf[1], buf[2], buf[3]
	for i := 0; i < 8; i += 4 {
		round(f, &a, b, c, d, in[i], 3)
		round(f, &d, a, b, c, in[i+1], 7)
		round(f, &c, d, a, b, in[i+2], 11)
		round(f, &b, c, d, a, in[i+3], 19)
	}
	for _, i := range [2]int{1, 0} {
		round(g, &a, b, c, d, in[i]+k2, 3)
		round(g, &d, a, b, c, in[i+2]+k2, 5)
		round(g, &c, d, a, b, in[i+4]+k2, 9)
		round(g, &b, c, d, a, in[i+6]+k2, 13)
	}
	for _, i := range [2]int{3, 1} {
		round(h, &a, b, c, d, in[i]+k3, 3)
		round(h, &d, a, b, c, in[i+4]+k3, 9)
		round(h, &c, d, a, b, in[i-1]+k3, 11)
		round(h, &b, c, d, a, in[i+3]+k3, 15)
	}
	buf[0] += a
	buf[1] += b
	buf[2] += c
	buf[3] += d
}

// teaTransform mixes 16 bytes of a name into the hash.
func teaTransform(buf *[4]uint32, in *[4]uint32) {
	b0, b1, sum := buf[0], buf[1], uint32(0)
	for range 16 {
		sum += 0x9e3779b9
		b0 += (b1<<4 + in[0]) ^ (b1 + sum) ^ (b1>>5 + in[1])
		b1 += (b0<<4 + in[2]) ^ (b0 + sum) ^ (b0>>5 + in[3])
	}
	buf[0] += b0
	buf[1] += b1
}
