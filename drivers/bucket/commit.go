package bucket

import (
	"context"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/sqldb"
)

// maxFileSize is the largest file, in bytes: that of ext4 with blocks of 4 KiB.
const maxFileSize = 1<<44 - 1

var errTooLarge = driver.Errorf(driver.ErrInvalid, "a file can have at most %d bytes", int64(maxFileSize))

// recordCommit notes a commit of this process to the file: its new size, and that cached
// windows and rows that were read before are stale.
func (o *openInode) recordCommit(size int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.size = size
	o.epoch++
	o.fs.b.commitCount.Add(1)
}

// runInodeTx runs fn in a transaction on the volume, with the inode's row as it is under the
// lock of the volume. fn may run several times.
func (o *openInode) runInodeTx(ctx context.Context, fsys *volumeFS, fn func(tx *volumeTx, row *inode) error) error {
	return o.fs.b.runVolumeTx(ctx, fsys, nil, func(tx *volumeTx) error {
		var row inode
		if err := tx.RunQueries(tx.inodeQuery(&row, o.key.ino)); err != nil {
			return err
		}
		return fn(tx, &row)
	})
}

// commitAppend adds p at the end that the file has when it is committed, and returns where
// that was. Many bytes are put as blobs before the transaction; few go into a row with it.
func (o *openInode) commitAppend(ctx context.Context, fsys *volumeFS, p []byte) (int64, error) {
	if len(p) > maxAppend {
		return 0, driver.Errorf(driver.ErrInvalid, "%d bytes are too many to append in one step; at most %d", len(p), maxAppend)
	}
	b := o.fs.b
	var blobs []newChunk
	var err error
	if len(p) > b.ns.opts.Inline {
		if blobs, err = b.putDirtyRanges(ctx, dirtyRanges{{0, p}}); err != nil {
			return 0, err
		}
	} else if err := b.ns.reserves.takeInlineBytes(ctx, b.org, int64(b.ns.opts.Inline)); err != nil {
		return 0, err // up to Inline bytes, since the file's tail may be written again
	}
	o.commitMu.Lock()
	defer o.commitMu.Unlock()
	var at int64
	err = o.runInodeTx(ctx, fsys, func(tx *volumeTx, row *inode) error {
		at = row.size
		if at > maxFileSize-int64(len(p)) {
			return errTooLarge
		}
		chunks := make([]newChunk, len(blobs))
		for i, c := range blobs {
			chunks[i] = c
			chunks[i].pos += at
		}
		if len(blobs) == 0 && len(p) > 0 {
			last, err := tx.newInlineTail(row, p)
			if err != nil {
				return err
			}
			chunks = []newChunk{last}
		}
		tx.addChunks(row.ino, chunks)
		tx.sizeDelta += int64(len(p))
		tx.QueueExec(`UPDATE inodes SET size = $3, alloc = alloc + $4, mtime = $5, ctime = $5 WHERE vol = $1 AND ino = $2`,
			tx.vol, row.ino, at+int64(len(p)), int64(len(p)), tx.now)
		return nil
	})
	if err != nil {
		b.abandonBlobs(ctx, blobs)
		return 0, err
	}
	o.recordCommit(at + int64(len(p)))
	o.compactBestEffort(ctx, fsys, at)
	return at, nil
}

// maxAppend bounds one append, in bytes: they are put before the file's end is known.
const maxAppend = 1 << 30

// newInlineTail returns a chunk that appends p to the file. If the file ends with a chunk
// whose blob is inline, and both fit into one, the new chunk replaces it: else a log of short
// lines would be a blob per line.
func (tx *volumeTx) newInlineTail(row *inode, p []byte) (newChunk, error) {
	var r chunkRow
	var data []byte
	var found bool
	err := tx.RunQueries(sqldb.SelectOne(&found, append(r.scanDest(), &data), `SELECT c.pos, c.len, c.blob, c.blob_pos, b.data
		FROM chunks c JOIN blobs b ON b.org = c.org AND b.id = c.blob
		WHERE c.vol = $1 AND c.ino = $2 AND c.pos + c.len = $3 AND c.pos > $4 AND b.data IS NOT NULL`,
		tx.vol, row.ino, row.size, row.size-chunkSize))
	if err != nil {
		return newChunk{}, err
	}
	if !found || r.len+int64(len(p)) > int64(tx.b.ns.opts.Inline) || r.blobPos+r.len > int64(len(data)) {
		return inlineChunk(row.size, p), nil
	}
	tx.QueueExec(`DELETE FROM chunks WHERE vol = $1 AND ino = $2 AND pos = $3`, tx.vol, row.ino, r.pos)
	both := append(append(make([]byte, 0, int(r.len)+len(p)), data[r.blobPos:r.blobPos+r.len]...), p...)
	return inlineChunk(r.pos, both), nil
}

// inlineChunk returns a chunk whose bytes live in the row of their blob.
func inlineChunk(pos int64, data []byte) newChunk {
	n := int64(len(data))
	return newChunk{pos, n, &newBlob{id: newID(), size: n, data: data}, 0}
}

// flushAndTruncate commits the bytes that were written before, then sets the size.
func (o *openInode) flushAndTruncate(ctx context.Context, fsys *volumeFS, size int64) error {
	if size < 0 {
		return negativeError(size)
	}
	if size > maxFileSize {
		return errTooLarge
	}
	if err := o.flushBeforeWrite(ctx, fsys); err != nil {
		return err
	}
	return o.commitSize(ctx, fsys, size, true)
}

// commitSize sets the size of the file in a transaction. Unless shrink is set it only grows it.
func (o *openInode) commitSize(ctx context.Context, fsys *volumeFS, size int64, shrink bool) error {
	o.commitMu.Lock()
	defer o.commitMu.Unlock()
	var got int64
	err := o.runInodeTx(ctx, fsys, func(tx *volumeTx, row *inode) error {
		got = size
		if !shrink {
			got = max(row.size, size)
		}
		tx.sizeDelta += got - row.size
		alloc := row.alloc
		if got < row.size {
			freed, err := tx.truncateChunks(row.ino, got)
			if err != nil {
				return err
			}
			alloc -= freed
		}
		tx.QueueExec(`UPDATE inodes SET size = $3, alloc = $4, mtime = $5, ctime = $5 WHERE vol = $1 AND ino = $2`, tx.vol, row.ino, got, alloc, tx.now)
		return nil
	})
	if err != nil {
		return err
	}
	o.recordCommit(got)
	return nil
}

// commitHole makes a range of the file a hole in a transaction. The size stays.
func (o *openInode) commitHole(ctx context.Context, fsys *volumeFS, off, length int64) error {
	o.commitMu.Lock()
	defer o.commitMu.Unlock()
	var size int64
	err := o.runInodeTx(ctx, fsys, func(tx *volumeTx, row *inode) error {
		size = row.size
		end := row.size
		if length < row.size-min(off, row.size) {
			end = off + length
		}
		if off >= end {
			return nil
		}
		freed, err := tx.punchHoles(row.ino, byteRange{off, end})
		if err != nil {
			return err
		}
		tx.QueueExec(`UPDATE inodes SET alloc = alloc - $3, mtime = $4, ctime = $4 WHERE vol = $1 AND ino = $2`, tx.vol, row.ino, freed, tx.now)
		return nil
	})
	if err != nil {
		return err
	}
	o.recordCommit(size)
	return nil
}
