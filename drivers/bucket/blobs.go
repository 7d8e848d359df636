package bucket

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/blob"
)

const (
	// chunkSize is the most bytes of one chunk, and so of one blob.
	chunkSize = 8 << 20
	// sumSize is how many bytes of a blob one checksum covers: the least that is read.
	sumSize = 64 << 10
)

// blobKey is the key of a blob's object.
func blobKey(org, id []byte) string {
	// UUIDv7 begins with the time; its end is random, and spreads the keys.
	h := hex.EncodeToString(id)
	return orgPrefix(org) + "b/" + h[len(h)-2:] + "/" + h
}

func orgPrefix(org []byte) string { return "o/" + hex.EncodeToString(org) + "/" }

// partChecksums returns the checksums of a blob's parts, and that of all of it.
func partChecksums(data []byte) (parts []byte, whole uint32) {
	for off := 0; off < len(data); off += sumSize {
		part := data[off:min(off+sumSize, len(data))]
		parts = binary.BigEndian.AppendUint32(parts, crc32.Checksum(part, blob.Castagnoli))
		whole = crc32.Update(whole, blob.Castagnoli, part)
	}
	return parts, whole
}

// verifyChecksums checks bytes that were read from offset off of a blob; off is a multiple of
// sumSize, and so is the end unless it is that of the blob.
func verifyChecksums(data []byte, off int64, sums []byte) error {
	for i := int(off / sumSize); len(data) > 0; i++ {
		part := data[:min(sumSize, len(data))]
		data = data[len(part):]
		if len(sums) < 4*(i+1) || binary.BigEndian.Uint32(sums[4*i:]) != crc32.Checksum(part, blob.Castagnoli) {
			return driver.Errorf(driver.ErrCorrupt, "an object of the blob store does not hold what was put there (checksum %d)", i)
		}
	}
	return nil
}

// newBlob is a blob that a transaction is about to use: with data it lives in its
// row, otherwise its object has been put.
type newBlob struct {
	id   []byte
	size int64
	sums []byte
	data []byte
}

// putBlob makes a blob of data: few bytes are only wrapped, others are put into the store.
func (b *Backend) putBlob(ctx context.Context, data []byte) (*newBlob, error) {
	n := &newBlob{size: int64(len(data))}
	if len(data) <= b.ns.opts.Inline {
		n.id, n.data = newID(), data
		return n, b.ns.reserves.takeInlineBytes(ctx, b.org, n.size)
	}
	var whole uint32
	n.sums, whole = partChecksums(data)
	var err error
	if n.id, err = b.ns.reserves.takeBlobID(ctx, b.org, n.size); err != nil {
		return nil, err
	}
	return n, b.putObject(ctx, n.id, data, whole)
}

// referenceBlob lets a transaction refer to a blob: its row is made, or no longer free.
func (b *Backend) referenceBlob(t sqlTx, n *newBlob) {
	if n.data != nil {
		t.queueExec(`INSERT INTO blobs (org, id, size, data, created) VALUES ($1, $2, $3, $4, {now})`, b.org, n.id, n.size, n.data)
		return
	}
	// When the row is gone (the grace time went by) the chunk's foreign key fails.
	t.queueExec(`UPDATE blobs SET freed = NULL, owner = NULL, expires = NULL, size = $3, sums = $4 WHERE org = $1 AND id = $2`, b.org, n.id, n.size, n.sums)
}
