package transfer

import (
	"bytes"
	"encoding/binary"
	"strconv"
)

// archive/tar refuses an archive for one time or owner of an entry that it has no room for.
// The reader beneath it makes of such a number one that it has room for, and that no target
// has: the entry loses its time or owner then, as any other that cannot be kept.

// maxTarNumber is far beyond what any file system keeps as a time, and what arithmetic with
// times overflows at.
const maxTarNumber = 1 << 62

// boundRecordNumber replaces a number of a record by the nearest one that is not too large.
func boundRecordNumber(key, value []byte) {
	switch string(key) {
	case "mtime", "atime", "ctime", "uid", "gid":
	default:
		return
	}
	whole, _, _ := bytes.Cut(value, []byte("."))
	n, _ := strconv.ParseInt(string(whole), 10, 64) // the nearest one, or 0 where it is no number
	if n < maxTarNumber && n > -maxTarNumber {
		return
	}
	digits := bytes.TrimLeft(whole, "+-")
	for i := range digits {
		digits[i] = '0'
	}
	largest := strconv.FormatInt(maxTarNumber, 10)
	copy(digits[len(digits)-len(largest):], largest)
}

// boundBinaryTime does the same with the time of a header, 12 bytes, and reports whether it
// had to. It is binary if the first bit is set; the second one is its sign.
func boundBinaryTime(field []byte) bool {
	if field[0]&0x80 == 0 {
		return false
	}
	high, low := binary.BigEndian.Uint32(field), binary.BigEndian.Uint64(field[4:])
	negative := high&(1<<30) != 0
	switch {
	case !negative && (high != 1<<31 || low >= maxTarNumber):
		high, low = 1<<31, maxTarNumber
	case negative && (high != 1<<32-1 || low <= 1<<64-maxTarNumber):
		high, low = 1<<32-1, 1<<64-maxTarNumber
	default:
		return false
	}
	binary.BigEndian.PutUint32(field, high)
	binary.BigEndian.PutUint64(field[4:], low)
	return true
}
