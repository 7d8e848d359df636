package bucket

import (
	"context"

	"github.com/volehq/vole/internal/sqldb"
	"golang.org/x/sync/errgroup"
)

// newChunk is a chunk that a transaction inserts: a range of a file, and the range of a blob
// that holds its bytes.
type newChunk struct {
	pos, len int64
	blob     *newBlob
	blobPos  int64
}

// putDirtyRanges makes blobs of ranges, several at a time, and returns their chunks. Small
// ranges share a blob: a request for each would take longer than all their bytes. If any blob
// fails, those that were put are given up.
func (b *Backend) putDirtyRanges(ctx context.Context, list dirtyRanges) ([]newChunk, error) {
	var parts []newChunk
	var blobs []*newBlob // only data is set until they are put
	for _, p := range list {
		for data, pos := p.data, p.pos; len(data) > 0; {
			var blob *newBlob
			if n := len(blobs); n > 0 && (len(blobs[n-1].data)+len(data) <= chunkSize) {
				blob = blobs[n-1]
			} else {
				blob = &newBlob{}
				blobs = append(blobs, blob)
			}
			k := min(len(data), chunkSize)
			parts = append(parts, newChunk{pos, int64(k), blob, int64(len(blob.data))})
			if len(blob.data) == 0 {
				blob.data = data[:k:k] // full capacity: append copies it if another range joins
			} else {
				blob.data = append(blob.data, data[:k]...)
			}
			data, pos = data[k:], pos+int64(k)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(b.ns.blobParallelism)
	for _, x := range blobs {
		g.Go(func() error {
			put, err := b.putBlob(ctx, x.data)
			if err == nil {
				*x = *put
			}
			return err
		})
	}
	err := g.Wait()
	if err != nil {
		b.abandonBlobs(ctx, parts)
	}
	return parts, err
}

// addChunks queues the insertion of chunks over ranges that are holes. Chunks that share a
// blob are adjacent in the list.
func (tx *volumeTx) addChunks(ino int64, parts []newChunk) {
	var used *newBlob
	for _, p := range parts {
		if p.blob != used {
			tx.b.referenceBlob(tx, p.blob)
			used = p.blob
		}
		tx.insertChunkRow(ino, chunkRow{p.pos, p.len, p.blob.id, p.blobPos})
	}
}

// chunkRow is one row of chunks.
type chunkRow struct {
	pos, len int64
	blob     []byte
	blobPos  int64
}

func (r *chunkRow) scanDest() []any { return []any{&r.pos, &r.len, &r.blob, &r.blobPos} }

// byteRange is the range [pos, end) of a file.
type byteRange struct{ pos, end int64 }

// punchHoles makes ranges of a file holes, and returns how many bytes were allocated there.
// The ranges ascend. All are passed at once, because reads do not see what is queued, and two
// ranges may be in one chunk.
func (tx *volumeTx) punchHoles(ino int64, holes ...byteRange) (freed int64, err error) {
	lists := make([][]chunkRow, len(holes))
	asks := make([]sqldb.Query, len(holes))
	for i, h := range holes {
		asks[i] = sqldb.SelectAll(&lists[i], (*chunkRow).scanDest, `SELECT pos, len, blob, blob_pos FROM chunks
			WHERE vol = $1 AND ino = $2 AND pos > $3 AND pos < $4 AND pos + len > $5 ORDER BY pos`, tx.vol, ino, h.pos-chunkSize, h.end, h.pos)
	}
	if err := tx.RunQueries(asks...); err != nil {
		return 0, err
	}
	last := int64(-1)
	for i, list := range lists {
		for _, r := range list {
			if r.pos > last { // else the previous range has cut it, too
				freed += tx.punchChunk(ino, r, holes[i:])
				last = r.pos
			}
		}
	}
	return freed, nil
}

// punchChunk removes ranges from one chunk: chunks for the remaining parts replace it. It
// returns how many bytes are gone.
func (tx *volumeTx) punchChunk(ino int64, r chunkRow, holes []byteRange) (freed int64) {
	tx.QueueExec(`DELETE FROM chunks WHERE vol = $1 AND ino = $2 AND pos = $3`, tx.vol, ino, r.pos)
	keep := func(pos, end int64) {
		if pos < end {
			tx.insertChunkRow(ino, chunkRow{pos, end - pos, r.blob, r.blobPos + pos - r.pos})
		}
	}
	at, end := r.pos, r.pos+r.len
	for _, h := range holes {
		if h.pos >= end {
			break
		}
		keep(at, h.pos)
		freed += min(h.end, end) - max(h.pos, r.pos)
		at = h.end
	}
	keep(at, end)
	return freed
}

// insertChunkRow queues the insertion of a chunk of a blob that this transaction references,
// or another chunk already refers to.
func (tx *volumeTx) insertChunkRow(ino int64, r chunkRow) {
	tx.QueueExec(`INSERT INTO chunks (vol, ino, pos, len, org, blob, blob_pos) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		tx.vol, ino, r.pos, r.len, tx.b.org, r.blob, r.blobPos)
}

// truncateChunks removes what a file has from pos on, and returns how many bytes were
// allocated there.
func (tx *volumeTx) truncateChunks(ino, pos int64) (freed int64, err error) {
	var r chunkRow
	var crosses bool
	err = tx.RunQueries(
		sqldb.SelectOne(&crosses, r.scanDest(), `SELECT pos, len, blob, blob_pos FROM chunks
			WHERE vol = $1 AND ino = $2 AND pos > $3 AND pos < $4 AND pos + len > $4`, tx.vol, ino, pos-chunkSize, pos),
		sqldb.SelectAggregate([]any{&freed}, `SELECT CAST(coalesce(sum(len), 0) AS BIGINT) FROM chunks
			WHERE vol = $1 AND ino = $2 AND pos >= $3`, tx.vol, ino, pos))
	tx.deleteChunksFrom(ino, pos)
	if crosses {
		tx.QueueExec(`UPDATE chunks SET len = $4 WHERE vol = $1 AND ino = $2 AND pos = $3`, tx.vol, ino, r.pos, pos-r.pos)
		freed += r.pos + r.len - pos
	}
	return freed, err
}
