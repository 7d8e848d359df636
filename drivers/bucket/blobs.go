package bucket

import (
	"context"

	"github.com/volehq/vole/drivers/bucket/internal/blob"
	"github.com/volehq/vole/internal/sqldb"
)

const (
	// chunkSize is the most bytes of one chunk, which refers to one blob.
	chunkSize = blob.MaxSize
	// sumSize is how many bytes of a blob one checksum covers. Reads are aligned to it.
	sumSize = blob.SumSize
)

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
	n.sums, whole = blob.Checksums(data)
	var err error
	if n.id, err = b.ns.reserves.takeBlobID(ctx, b.org, n.size); err != nil {
		return nil, err
	}
	return n, b.putObject(ctx, n.id, data, whole)
}

// referenceBlob queues what lets chunks refer to a blob: the row of an inline blob is
// inserted, that of another loses its freed mark. If the sweeper has taken the row, the
// foreign key of the chunks fails the transaction.
func (b *Backend) referenceBlob(tx sqldb.Tx, n *newBlob) {
	if n.data != nil {
		tx.QueueExec(`INSERT INTO blobs (org, id, size, data, created) VALUES ($1, $2, $3, $4, {now})`, b.org, n.id, n.size, n.data)
		return
	}
	tx.QueueExec(`UPDATE blobs SET freed = NULL, owner = NULL, expires = NULL, size = $3, sums = $4 WHERE org = $1 AND id = $2`, b.org, n.id, n.size, n.sums)
}
