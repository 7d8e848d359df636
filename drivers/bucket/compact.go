package bucket

import (
	"context"
	"math/rand/v2"
)

const (
	// compactOdds: one commit in so many looks whether the file should be compacted, so
	// that the look costs little and needs no memory of commits before.
	compactOdds = 32
	// compactAt is how many chunks next to one another are made one.
	compactAt = 64
)

// maybeCompact makes one chunk of each run of many that a file has come to consist of near
// pos, by small writes or appends: reading them would take a request for each, and many
// small blobs would stay in the database. The caller holds commit.
func (n *openInode) maybeCompact(ctx context.Context, f *volumeFS, pos int64) error {
	if rand.N(compactOdds) != 0 {
		return nil
	}
	return n.compactNear(ctx, f, pos)
}

// compactRows bounds how many chunks are looked at: a file of more lone bytes than
// that stays as it is.
const compactRows = 4096

func (n *openInode) compactNear(ctx context.Context, f *volumeFS, pos int64) error {
	lo := pos / chunkSize * chunkSize
	var list []chunkRow
	b, vol := n.fs.b, []byte(n.key.vol)
	err := b.ns.db.runQueries(ctx, selectAll(&list, (*chunkRow).scanDest, `SELECT pos, len, blob, blob_pos FROM chunks
		WHERE org = $1 AND vol = $2 AND ino = $3 AND pos >= $4 AND pos < $5 AND pos + len <= $5 ORDER BY pos LIMIT CAST($6 AS INTEGER)`,
		b.org, vol, n.key.ino, lo, lo+chunkSize, compactRows))
	if err != nil {
		return err
	}
	for len(list) > 0 {
		k := 1
		for k < len(list) && list[k-1].pos+list[k-1].len == list[k].pos {
			k++
		}
		if k >= compactAt {
			if err := n.mergeChunkRange(ctx, f, list[0].pos, list[k-1].pos+list[k-1].len); err != nil {
				return err
			}
		}
		list = list[k:]
	}
	return nil
}

// mergeChunkRange merges the chunks of a range without holes.
func (n *openInode) mergeChunkRange(ctx context.Context, f *volumeFS, pos, end int64) error {
	var run []extent
	b, vol := n.fs.b, []byte(n.key.vol)
	err := b.ns.db.runQueries(ctx, selectAll(&run, (*extent).scanDest, selectExtents+`
		WHERE c.org = $1 AND c.vol = $2 AND c.ino = $3 AND c.pos >= $4 AND c.pos < $5 ORDER BY c.pos LIMIT CAST($6 AS INTEGER)`,
		b.org, vol, n.key.ino, pos, end, compactRows))
	if err != nil || len(run) < 2 {
		return err
	}
	for i, x := range run {
		last := i == len(run)-1
		if i == 0 && x.pos != pos || last && x.pos+x.len != end || !last && x.pos+x.len != run[i+1].pos {
			return nil // it has changed meanwhile
		}
	}
	return n.mergeExtents(ctx, f, run)
}

// mergeExtents puts the bytes of a run into one blob and commits that in its place, unless
// the run has changed meanwhile.
func (n *openInode) mergeExtents(ctx context.Context, f *volumeFS, run []extent) error {
	b := n.fs.b
	first, last := &run[0], &run[len(run)-1]
	data := make([]byte, last.pos+last.len-first.pos)
	for i := range run {
		x := &run[i]
		if err := b.readBlobRange(ctx, x, data[x.pos-first.pos:][:x.len], x.blobPos); err != nil {
			return err
		}
	}
	blob, err := b.putBlob(ctx, data)
	if err != nil {
		return err
	}
	done := false
	err = n.runInodeTx(ctx, f, func(tx *volumeTx, i *inode) error {
		var now []chunkRow
		err := tx.runQueries(selectAll(&now, (*chunkRow).scanDest, `SELECT pos, len, blob, blob_pos FROM chunks
			WHERE vol = $1 AND ino = $2 AND pos >= $3 AND pos <= $4 ORDER BY pos`, tx.vol, i.ino, first.pos, last.pos))
		if done = err == nil && chunksUnchanged(run, now); !done {
			return err
		}
		if _, err := tx.punchHoles(i.ino, byteRange{first.pos, last.pos + last.len}); err != nil {
			return err
		}
		tx.addChunks(i.ino, []newChunk{{first.pos, blob.size, blob, 0}})
		return nil
	})
	if err != nil || !done {
		b.abandonBlobs(ctx, []newChunk{{blob: blob}})
		return err
	}
	n.recordCommit(n.committedSize())
	return nil
}

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
