package transfer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
)

// A sparse file goes into a tar stream in GNU's PAX format 1.0, which archive/tar reads
// but does not write: https://www.gnu.org/software/tar/manual/html_node/PAX-1.html.
// The entry's data begins with the map of what is there, decimal numbers one to a
// line: how many ranges, then offset and length of each, padded to a block.

const tarUnit = 512 // bytes of a block of a tar stream

// segment is a range of a file that holds data.
type segment struct{ off, n int64 }

// sparse writes a file with holes.
func (t *tarStream) sparse(ctx context.Context, p string, hdr *tar.Header, c *volumeContent) error {
	segs, data, err := segments(ctx, c, hdr.Size)
	if err != nil {
		return err
	}
	table := sparseMap(segs)
	realName, realSize := hdr.Name, hdr.Size
	size := int64(len(table)) + data
	records := map[string]string{
		"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
		"GNU.sparse.name": realName, "GNU.sparse.realsize": strconv.FormatInt(realSize, 10),
		"mtime": formatPAXTime(hdr.ModTime),
		"size":  strconv.FormatInt(size, 10), "uid": strconv.Itoa(hdr.Uid), "gid": strconv.Itoa(hdr.Gid),
	}
	maps.Copy(records, hdr.PAXRecords)
	// Readers that do not know the format see a file of this odd name.
	odd := path.Join(path.Dir(realName), "GNUSparseFile.0", path.Base(realName))
	if err := t.tw.Flush(); err != nil { // what follows goes around the tar.Writer
		return err
	}
	if err := t.paxEntry(records, odd, hdr, size); err != nil {
		return err
	}
	if _, err := t.w.Write(table); err != nil {
		return err
	}
	for _, s := range segs {
		c.off = s.off
		if err := t.body(t.w, c, p, s.n); err != nil {
			return err
		}
	}
	_, err = t.w.Write(padding(data))
	return err
}

// segments lists where c holds data, and how much in all. The last one ends the file.
func segments(ctx context.Context, c *volumeContent, size int64) (list []segment, data int64, err error) {
	for off := int64(0); off < size; {
		start, end, err := c.h.NextData(ctx, off)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, 0, err
		}
		end = min(end, size)
		if start >= end {
			break
		}
		list = append(list, segment{start, end - start})
		data += end - start
		off = end
	}
	if n := len(list); n == 0 || list[n-1].off+list[n-1].n < size {
		list = append(list, segment{size, 0})
	}
	return list, data, nil
}

func sparseMap(segs []segment) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d\n", len(segs))
	for _, s := range segs {
		fmt.Fprintf(&b, "%d\n%d\n", s.off, s.n)
	}
	b.Write(padding(int64(b.Len())))
	return b.Bytes()
}

// padding fills the last block of n bytes.
func padding(n int64) []byte { return make([]byte, (tarUnit-n%tarUnit)%tarUnit) }

// paxEntry writes extended records and the header of the file that they describe.
func (t *tarStream) paxEntry(records map[string]string, name string, hdr *tar.Header, size int64) error {
	var b bytes.Buffer
	for _, k := range slices.Sorted(maps.Keys(records)) {
		b.WriteString(paxRecord(k, records[k]))
	}
	x := *hdr
	x.Mode = 0o644
	for _, part := range [][]byte{
		ustarBlock(tar.TypeXHeader, "PaxHeaders.0/"+path.Base(name), &x, int64(b.Len())),
		b.Bytes(), padding(int64(b.Len())),
		ustarBlock(tar.TypeReg, name, hdr, size),
	} {
		if _, err := t.w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// paxRecord is "LENGTH key=value\n", where the length counts its own digits.
func paxRecord(k, v string) string {
	n := len(k) + len(v) + 3
	for size := n + len(strconv.Itoa(n)); ; size = n + len(strconv.Itoa(size)) {
		if s := fmt.Sprintf("%d %s=%s\n", size, k, v); len(s) == size {
			return s
		}
	}
}

// ustarBlock is a header of POSIX.1-1988. What does not fit is cut or 0: the extended
// records before it have it whole.
func ustarBlock(kind byte, name string, hdr *tar.Header, size int64) []byte {
	b := make([]byte, tarUnit)
	octal := func(at, width int, v int64) {
		s := fmt.Sprintf("%0*o", width-1, v)
		if v < 0 || len(s) > width-1 {
			s = fmt.Sprintf("%0*o", width-1, 0)
		}
		copy(b[at:], s)
	}
	copy(b[0:100], name)
	octal(100, 8, hdr.Mode)
	octal(108, 8, int64(hdr.Uid))
	octal(116, 8, int64(hdr.Gid))
	octal(124, 12, size)
	octal(136, 12, hdr.ModTime.Unix())
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	copy(b[148:], "        ") // the sum is taken over blanks in its place
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}
