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
	"strconv"
)

// A sparse file goes into a tar stream in GNU's PAX format 1.0, which archive/tar reads
// but does not write: https://www.gnu.org/software/tar/manual/html_node/PAX-1.html.
// The entry's data begins with the map of its ranges, decimal numbers one to a
// line: how many ranges, then offset and length of each, padded to a block.

// dataRange is a range of a file that holds data.
type dataRange struct{ off, n int64 }

// writeSparseFile writes a file with holes.
func (t *tarStream) writeSparseFile(ctx context.Context, p string, hdr *tar.Header, content *volumeContent) error {
	segs, data, err := listDataRanges(ctx, content, hdr.Size)
	if err != nil {
		return err
	}
	table := encodeSparseMap(segs)
	realName, realSize := hdr.Name, hdr.Size
	size := int64(len(table)) + data
	records := map[string]string{
		"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
		"GNU.sparse.name": realName, "GNU.sparse.realsize": strconv.FormatInt(realSize, 10),
	}
	maps.Copy(records, hdr.PAXRecords)
	hdr.PAXRecords, hdr.Size = records, size
	// Readers that do not know the format see a file of this odd name.
	hdr.Name = path.Join(path.Dir(realName), "GNUSparseFile.0", path.Base(realName))
	if err := t.writeHeader(p, hdr); err != nil {
		return err
	}
	if _, err := t.w.Write(table); err != nil {
		return err
	}
	for _, s := range segs {
		content.off = s.off
		if err := t.writeBody(content, p, s.n); err != nil {
			return err
		}
	}
	_, err = t.w.Write(blockPadding(data))
	return err
}

// listDataRanges lists where c holds data, and how much in all. The last one ends the file.
func listDataRanges(ctx context.Context, c *volumeContent, size int64) (list []dataRange, data int64, err error) {
	for c.off < size {
		off, n, err := c.NextData(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, 0, err
		}
		list = append(list, dataRange{off, n})
		data += n
		c.off = off + n
	}
	if n := len(list); n == 0 || list[n-1].off+list[n-1].n < size {
		list = append(list, dataRange{size, 0})
	}
	return list, data, nil
}

func encodeSparseMap(segs []dataRange) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d\n", len(segs))
	for _, s := range segs {
		fmt.Fprintf(&b, "%d\n%d\n", s.off, s.n)
	}
	b.Write(blockPadding(int64(b.Len())))
	return b.Bytes()
}
