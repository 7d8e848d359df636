package transfer

import (
	"archive/tar"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	tarUnit     = 512 // bytes of a block of a tar stream
	paxLongest  = 100 // bytes of a name or a link's target that a header holds itself
	paxLargest  = 1<<33 - 1
	paxLargeID  = 1<<21 - 1
	paxLastTime = 1<<33 - 1
)

var tarZeros [2 * tarUnit]byte

// appendTarHeader appends to b the header of an entry, and before it the extended records
// of PAX for what the header has no place for: archive/tar does the same with many small
// allocations, which for a tree of small files is most of the work.
//
// The header is that of POSIX.1-1988. What does not fit there is cut or 0: the records
// have it whole.
func appendTarHeader(b []byte, hdr *tar.Header) ([]byte, error) {
	if strings.IndexByte(hdr.Name, 0) >= 0 || strings.IndexByte(hdr.Linkname, 0) >= 0 {
		return b, fmt.Errorf("a tar stream has no place for a NUL in the name %q or target %q", hdr.Name, hdr.Linkname)
	}
	if max(hdr.Devmajor, hdr.Devminor) > paxLargeID {
		return b, fmt.Errorf("a tar stream has no place for the device number %d:%d", hdr.Devmajor, hdr.Devminor)
	}
	start := len(b)
	b = append(b, tarZeros[:tarUnit]...)
	b = appendPAXRecords(b, hdr)
	if n := int64(len(b) - start - tarUnit); n > 0 {
		x := tar.Header{Typeflag: tar.TypeXHeader, Name: "PaxHeaders.0/" + path.Base(hdr.Name), Mode: 0o644, ModTime: hdr.ModTime, Size: n}
		putUstarHeader(b[start:start+tarUnit], &x)
		b = append(b, blockPadding(n)...)
	} else {
		b = b[:start]
	}
	b = append(b, tarZeros[:tarUnit]...)
	putUstarHeader(b[len(b)-tarUnit:], hdr)
	return b, nil
}

// blockPadding fills the last block of n bytes.
func blockPadding(n int64) []byte { return tarZeros[:(tarUnit-n%tarUnit)%tarUnit] }

// appendPAXRecords appends the extended records of an entry.
func appendPAXRecords(b []byte, hdr *tar.Header) []byte {
	if !fitsHeaderField(hdr.Name) {
		b = appendPAXRecord(b, "path", hdr.Name)
	}
	if !fitsHeaderField(hdr.Linkname) {
		b = appendPAXRecord(b, "linkpath", hdr.Linkname)
	}
	if hdr.Size > paxLargest {
		b = appendPAXRecord(b, "size", strconv.FormatInt(hdr.Size, 10))
	}
	if hdr.Uid > paxLargeID {
		b = appendPAXRecord(b, "uid", strconv.Itoa(hdr.Uid))
	}
	if hdr.Gid > paxLargeID {
		b = appendPAXRecord(b, "gid", strconv.Itoa(hdr.Gid))
	}
	if s := hdr.ModTime.Unix(); s < 0 || s > paxLastTime || hdr.ModTime.Nanosecond() != 0 {
		b = appendPAXRecord(b, "mtime", formatPAXTime(hdr.ModTime))
	}
	if len(hdr.PAXRecords) > 0 {
		for _, k := range slices.Sorted(maps.Keys(hdr.PAXRecords)) {
			b = appendPAXRecord(b, k, hdr.PAXRecords[k])
		}
	}
	return b
}

// fitsHeaderField reports whether a name needs no record: it is short and ASCII.
func fitsHeaderField(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return len(s) <= paxLongest
}

// appendPAXRecord appends "LENGTH key=value\n", where the length counts its own digits.
func appendPAXRecord(b []byte, k, v string) []byte {
	n := len(k) + len(v) + len(" =\n")
	size := n + countDigits(n)
	size = n + countDigits(size) // its own digits may make it longer
	b = strconv.AppendInt(b, int64(size), 10)
	b = append(b, ' ')
	b = append(b, k...)
	b = append(b, '=')
	b = append(b, v...)
	return append(b, '\n')
}

func countDigits(n int) int {
	d := 1
	for ; n >= 10; n /= 10 {
		d++
	}
	return d
}

// putUstarHeader fills a block of zeros with a header.
func putUstarHeader(b []byte, hdr *tar.Header) {
	copy(b[0:100], hdr.Name)
	putOctalField(b[100:108], hdr.Mode)
	putOctalField(b[108:116], int64(hdr.Uid))
	putOctalField(b[116:124], int64(hdr.Gid))
	putOctalField(b[124:136], hdr.Size)
	putOctalField(b[136:148], hdr.ModTime.Unix())
	b[156] = hdr.Typeflag
	copy(b[157:257], hdr.Linkname)
	copy(b[257:], "ustar\x0000")
	putOctalField(b[329:337], hdr.Devmajor)
	putOctalField(b[337:345], hdr.Devminor)
	setHeaderChecksum(b)
}

// putOctalField fills a field with a number and a NUL; 0 for one that does not fit.
func putOctalField(field []byte, v int64) {
	n := len(field) - 1
	if v < 0 || v>>(3*n) != 0 {
		v = 0
	}
	for i := n - 1; i >= 0; i-- {
		field[i] = '0' + byte(v&7)
		v >>= 3
	}
	field[n] = 0
}

// formatPAXTime is seconds since 1970 with nine decimals, negative before.
func formatPAXTime(t time.Time) string {
	sec, ns := t.Unix(), t.Nanosecond()
	b := make([]byte, 0, 32)
	if sec < 0 && ns > 0 {
		// -0.5 is half a second before: time has it as -1 and half a second.
		sec, ns = -(sec + 1), 1_000_000_000-ns
		b = append(b, '-')
	}
	b = strconv.AppendInt(b, sec, 10)
	b = append(b, ".000000000"...)
	for i := len(b) - 1; ns > 0; i-- {
		b[i] = '0' + byte(ns%10)
		ns /= 10
	}
	return string(b)
}
