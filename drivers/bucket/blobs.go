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
	// sumSize is how many bytes of a blob one checksum covers. Reads are aligned to it.
	sumSize = 64 << 10
)

// blobKey returns the key of a blob's object.
func blobKey(org, id []byte) string {
	// A UUIDv7 begins with the time. Its last byte is random, and spreads keys over prefixes.
	h := hex.EncodeToString(id)
	return orgPrefix(org) + "b/" + h[len(h)-2:] + "/" + h
}

// orgPrefix begins the keys of all objects of an organisation.
func orgPrefix(org []byte) string { return "o/" + hex.EncodeToString(org) + "/" }

// partChecksums returns the CRC-32C of each sumSize bytes of a blob, and that of all of it.
func partChecksums(data []byte) (parts []byte, whole uint32) {
	for off := 0; off < len(data); off += sumSize {
		part := data[off:min(off+sumSize, len(data))]
		parts = binary.BigEndian.AppendUint32(parts, crc32.Checksum(part, blob.Castagnoli))
		whole = crc32.Update(whole, blob.Castagnoli, part)
	}
	return parts, whole
}

// verifyChecksums returns ErrCorrupt unless data, read at offset off of a blob, has the blob's
// checksums. off is a multiple of sumSize, and so is the end unless the blob ends there.
func verifyChecksums(data []byte, off int64, sums []byte) error {
	for i := int(off / sumSize); len(data) > 0; i++ {
		part := data[:min(sumSize, len(data))]
		data = data[len(part):]
		if len(sums) < 4*(i+1) || binary.BigEndian.Uint32(sums[4*i:]) != crc32.Checksum(part, blob.Castagnoli) {
			return driver.Errorf(driver.ErrCorrupt, "an object of the blob store does not hold what was put there: its checksum %d differs", i)
		}
	}
	return nil
}

// newBlob is a blob that no chunk refers to yet. With data it lives in its row, which the
// transaction inserts; otherwise it is registered and its object is put.
type newBlob struct {
	id   []byte
	size int64
	sums []byte
	data []byte
}

// putBlob makes a blob of data: few bytes become an inline blob, more are put into the store
// under a registered id.
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

// referenceBlob queues what lets chunks refer to a blob: the row of an inline blob is
// inserted, that of another loses its freed mark. If the sweeper has taken the row, the
// foreign key of the chunks fails the transaction.
func (b *Backend) referenceBlob(tx sqlTx, n *newBlob) {
	if n.data != nil {
		tx.queueExec(`INSERT INTO blobs (org, id, size, data, created) VALUES ($1, $2, $3, $4, {now})`, b.org, n.id, n.size, n.data)
		return
	}
	tx.queueExec(`UPDATE blobs SET freed = NULL, owner = NULL, expires = NULL, size = $3, sums = $4 WHERE org = $1 AND id = $2`, b.org, n.id, n.size, n.sums)
}
