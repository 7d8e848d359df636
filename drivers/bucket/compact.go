package bucket

import (
	"context"
	"math/rand/v2"

	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/sqldb"
)

const (
	// compactOdds: one commit in so many, at random, checks whether the file should be
	// compacted. So checks cost little, and no state is kept of earlier commits.
	compactOdds = 32
	// compactAt is how many adjacent chunks are merged into one.
	compactAt = 64
)

// compactBestEffort merges, now and then, the many small chunks that small writes and appends
// leave near pos: reading them takes a request for each, and inline blobs would stay in the
// database. What the caller wrote is committed, so a failure is only logged. The caller holds
// commitMu.
func (o *openInode) compactBestEffort(ctx context.Context, fsys *volumeFS, pos int64) {
	if rand.N(compactOdds) != 0 {
		return
	}
	if err := o.compactNear(ctx, fsys, pos); err != nil && ctx.Err() == nil {
		o.fs.b.ns.log.Warn("compacting a file failed", "volume", rows.FormatID([]byte(o.key.vol)), "inode", o.key.ino, "error", err)
	}
}

// compactRows bounds how many chunks are looked at. A file with more single bytes than that
// between pos's chunk boundaries is not compacted.
const compactRows = 4096

// compactNear merges each long run of adjacent chunks in the chunkSize range around pos.
func (o *openInode) compactNear(ctx context.Context, fsys *volumeFS, pos int64) error {
	lo := pos / chunkSize * chunkSize
	var list []chunkRow
	b, vol := o.fs.b, []byte(o.key.vol)
	err := b.ns.db.RunQueries(ctx, sqldb.SelectAll(&list, (*chunkRow).scanDest, `SELECT pos, len, blob, blob_pos FROM chunks
		WHERE org = $1 AND vol = $2 AND ino = $3 AND pos >= $4 AND pos < $5 AND pos + len <= $5 ORDER BY pos LIMIT CAST($6 AS INTEGER)`,
		b.org, vol, o.key.ino, lo, lo+chunkSize, compactRows))
	if err != nil {
		return err
	}
	for len(list) > 0 {
		k := 1
		for k < len(list) && list[k-1].pos+list[k-1].len == list[k].pos {
			k++
		}
		if k >= compactAt {
			if err := o.mergeChunkRange(ctx, fsys, list[0].pos, list[k-1].pos+list[k-1].len); err != nil {
				return err
			}
		}
		list = list[k:]
	}
	return nil
}

// mergeChunkRange merges the chunks of a range that has no holes.
func (o *openInode) mergeChunkRange(ctx context.Context, fsys *volumeFS, pos, end int64) error {
	var run []extent
	b, vol := o.fs.b, []byte(o.key.vol)
	err := b.ns.db.RunQueries(ctx, sqldb.SelectAll(&run, (*extent).scanDest, selectExtents+`
		WHERE c.org = $1 AND c.vol = $2 AND c.ino = $3 AND c.pos >= $4 AND c.pos < $5 ORDER BY c.pos LIMIT CAST($6 AS INTEGER)`,
		b.org, vol, o.key.ino, pos, end, compactRows))
	if err != nil || len(run) < 2 {
		return err
	}
	for i, x := range run {
		last := i == len(run)-1
		if i == 0 && x.pos != pos || last && x.pos+x.len != end || !last && x.pos+x.len != run[i+1].pos {
			return nil // another host has changed it since
		}
	}
	return o.mergeExtents(ctx, fsys, run)
}

// mergeExtents puts the bytes of a run of extents as one blob and commits one chunk in their
// place, unless another host has changed the run since.
func (o *openInode) mergeExtents(ctx context.Context, fsys *volumeFS, run []extent) error {
	b := o.fs.b
	first, last := &run[0], &run[len(run)-1]
	data := make([]byte, last.pos+last.len-first.pos)
	for i := range run {
		ext := &run[i]
		if err := b.readBlobRange(ctx, ext, data[ext.pos-first.pos:][:ext.len], ext.blobPos); err != nil {
			return err
		}
	}
	blob, err := b.putBlob(ctx, data)
	if err != nil {
		return err
	}
	done := false
	err = o.runInodeTx(ctx, fsys, func(tx *volumeTx, row *inode) error {
		var now []chunkRow
		err := tx.RunQueries(sqldb.SelectAll(&now, (*chunkRow).scanDest, `SELECT pos, len, blob, blob_pos FROM chunks
			WHERE vol = $1 AND ino = $2 AND pos >= $3 AND pos <= $4 ORDER BY pos`, tx.vol, row.ino, first.pos, last.pos))
		if done = err == nil && chunksUnchanged(run, now); !done {
			return err
		}
		if _, err := tx.punchHoles(row.ino, byteRange{first.pos, last.pos + last.len}); err != nil {
			return err
		}
		tx.addChunks(row.ino, []newChunk{{first.pos, blob.size, blob, 0}})
		return nil
	})
	if err != nil || !done {
		b.abandonBlobs(ctx, []newChunk{{blob: blob}})
		return err
	}
	o.recordCommit(o.committedSize())
	return nil
}

// chunksUnchanged reports whether chunks that were read now are those that a run was read
// from.
func chunksUnchanged(run []extent, now []chunkRow) bool {
	if len(run) != len(now) {
		return false
	}
	for i, x := range run {
		r := now[i]
		if x.pos != r.pos || x.len != r.len || x.blobPos != r.blobPos || string(x.blob) != string(r.blob) {
			return false
		}
	}
	return true
}
