package bucket

import (
	"context"
	"errors"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/budget"
)

const (
	// maxDirtyPerFile is how much may have been written to a file before it is committed.
	maxDirtyPerFile = 32 << 20
	// maxDirtyTotal is how much to all files of the process, before that of each that is
	// written to is committed.
	maxDirtyTotal = 256 << 20
)

// bufferWrite keeps what is written until it is committed; full says that it should be now.
func (n *openInode) bufferWrite(ctx context.Context, f *volumeFS, p []byte, off int64) (full bool, err error) {
	for {
		n.mu.Lock()
		if n.dirtyBytes >= 2*maxDirtyPerFile {
			// It could not be committed before, and does not grow without bounds.
			n.mu.Unlock()
			if err := n.flushBeforeWrite(ctx, f); err != nil {
				return false, err
			}
			continue
		}
		if len(n.dirty) == 0 || sameWriteRights(n.dirtyFS, f) {
			n.dirty, n.dirtyFS = n.dirty.overwrite(off, p), f
			n.dirtyMtime = time.Now().UnixNano()
			n.dirtyBytes += int64(len(p))
			all := f.b.ns.dirtyBytes.Add(int64(len(p)))
			room := n.reserveDirtyMemory(int64(len(p)))
			full = n.dirtyBytes >= maxDirtyPerFile || all >= maxDirtyTotal || !room
			n.mu.Unlock()
			return full, nil
		}
		n.mu.Unlock()
		if err := n.flushBeforeWrite(ctx, f); err != nil {
			return false, err
		}
	}
}

// reserveDirtyMemory takes memory for n bytes more that are not committed; false: there is none. The
// caller holds mu.
func (n *openInode) reserveDirtyMemory(size int64) bool {
	m := n.fs.b.memory
	if m == nil {
		return true
	}
	if m.Dirty.Load()+size > m.Part(dirtyMemoryPart) || !m.Try(budget.Buffer, size) {
		return false
	}
	m.Dirty.Add(size)
	n.dirtyMemory += size
	return true
}

// releaseDirtyMemory gives the memory of bytes back that hold took.
func (n *openInode) releaseDirtyMemory(size int64) {
	if m := n.fs.b.memory; m != nil {
		m.Dirty.Add(-size)
		m.Release(size)
	}
}

// dirtyMemoryPart is the part of an organisation's memory that may be written and not committed:
// the more files are written to at once, the sooner each is committed.
const dirtyMemoryPart = 4

// sameWriteRights reports whether what two FSes write may go into one commit.
func sameWriteRights(a, b *volumeFS) bool {
	return string(a.attachment) == string(b.attachment) && a.opts.Batch == b.opts.Batch
}

// flushBeforeWrite commits what was written before f goes on. That another may not commit what
// it wrote is not f's trouble: it is lost, and its own handles are told.
func (n *openInode) flushBeforeWrite(ctx context.Context, f *volumeFS) error {
	n.mu.Lock()
	others := n.dirtyFS != nil && !sameWriteRights(n.dirtyFS, f)
	n.mu.Unlock()
	err := n.flushDirty(ctx)
	if others && isPermanentCommitError(err) {
		return nil
	}
	return err
}

// isPermanentCommitError reports whether what a commit refused will be refused for ever: the right to
// write has ended or is another's, or the file is gone.
func isPermanentCommitError(err error) bool {
	return errors.Is(err, driver.ErrClosed) || errors.Is(err, driver.ErrInUse) || errors.Is(err, driver.ErrNotExist) || errors.Is(err, driver.ErrNotFound)
}

// discardDirty gives up what was written and not committed. Every handle that may have written
// it is told once, by Sync or Close.
func (n *openInode) discardDirty(why error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.dirty) == 0 {
		return
	}
	n.clearDirty()
	n.lostErr, n.failedWriter = why, n.dirtyFS
	n.lossCount++
}

// clearDirty takes what was written off the books. The caller holds mu.
func (n *openInode) clearDirty() {
	n.fs.b.ns.dirtyBytes.Add(-n.dirtyBytes)
	n.releaseDirtyMemory(n.dirtyMemory)
	n.dirty, n.dirtyBytes, n.dirtyMemory = nil, 0, 0
}

// maxFileSize is the largest file: what ext4 takes with blocks of 4 KiB.
const maxFileSize = 1<<44 - 1

var errTooLarge = driver.Errorf(driver.ErrInvalid, "a file has at most %d bytes", int64(maxFileSize))

// readInode reads the inode as it is now.
func (n *openInode) readInode(ctx context.Context) (inode, error) {
	vol := []byte(n.key.vol)
	for {
		var i inode
		var found bool
		n.mu.Lock()
		epoch := n.epoch
		n.mu.Unlock()
		err := n.fs.b.ns.db.runQueries(ctx, selectOne(&found, i.scanDest(), `SELECT `+inodeCols+` FROM inodes i JOIN volumes v ON v.id = i.vol
		WHERE v.org = $1 AND i.vol = $2 AND i.ino = $3 AND v.state <> 'removing'`, n.fs.b.org, vol, n.key.ino))
		if err != nil {
			return i, err
		}
		if !found {
			return i, n.fs.b.missingInodeError(ctx, vol)
		}
		n.mu.Lock()
		same := n.epoch == epoch // else what was laid over it may be in neither
		n.applyDirty(&i)
		n.mu.Unlock()
		if same {
			return i, nil
		}
	}
}

// missingInodeError tells a removed file from one of a removed volume.
func (b *Backend) missingInodeError(ctx context.Context, vol []byte) error {
	if _, err := b.getVolume(ctx, driver.ByID(formatID(vol))); err != nil {
		return err
	}
	return driver.Errorf(driver.ErrNotExist, "the file was removed")
}

// flushDirty commits what was written.
func (n *openInode) flushDirty(ctx context.Context) error {
	n.commitMu.Lock()
	defer n.commitMu.Unlock()
	n.mu.Lock()
	n.flushing = n.dirty
	list, bytes, held, f, mtime := n.flushing, n.dirtyBytes, n.dirtyMemory, n.dirtyFS, n.dirtyMtime
	n.dirtyMemory = 0 // until it is sent
	n.clearDirty()
	n.mu.Unlock()
	if len(list) == 0 {
		return nil
	}
	err := n.commitDirtyRanges(ctx, f, list, mtime)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.flushing = nil
	n.releaseDirtyMemory(held)
	switch {
	case isPermanentCommitError(err) && ctx.Err() == nil:
		n.lostErr, n.failedWriter = err, f
		n.lossCount++
	case err != nil:
		if len(n.dirty) == 0 {
			n.dirtyFS = f
		}
		n.dirty = n.dirty.mergeOver(list)
		n.dirtyBytes += bytes
		n.fs.b.ns.dirtyBytes.Add(bytes)
		n.reserveDirtyMemory(held)
	}
	return err
}

// commitDirtyRanges makes blobs of pieces and commits them. The caller holds commit.
func (n *openInode) commitDirtyRanges(ctx context.Context, f *volumeFS, list dirtyRanges, mtime int64) error {
	parts, err := n.fs.b.putDirtyRanges(ctx, list)
	if err != nil {
		return err
	}
	var size int64
	err = n.runInodeTx(ctx, f, func(tx *volumeTx, i *inode) error {
		size = i.size
		if end := list.end(); end > i.size {
			tx.sizeDelta += end - i.size
			size = end
		}
		alloc := i.alloc
		holes := make([]byteRange, len(parts))
		for j, p := range parts {
			holes[j] = byteRange{p.pos, p.pos + p.len}
			alloc += p.len
		}
		freed, err := tx.punchHoles(i.ino, holes...)
		if err != nil {
			return err
		}
		tx.addChunks(i.ino, parts)
		tx.queueExec(`UPDATE inodes SET size = $3, alloc = $4, mtime = $5, ctime = $6 WHERE vol = $1 AND ino = $2`,
			tx.vol, i.ino, size, alloc-freed, mtime, tx.now)
		return nil
	})
	if err != nil {
		n.fs.b.abandonBlobs(ctx, parts)
		return err
	}
	n.recordCommit(size)
	n.compactBestEffort(ctx, f, list[len(list)-1].pos)
	return nil
}

// compactBestEffort compacts where that is due. What was written is committed, so a failure is
// nobody's loss.
func (n *openInode) compactBestEffort(ctx context.Context, f *volumeFS, pos int64) {
	if err := n.maybeCompact(ctx, f, pos); err != nil && ctx.Err() == nil {
		n.fs.b.ns.log.Warn("compacting a file failed", "volume", formatID([]byte(n.key.vol)), "inode", n.key.ino, "error", err)
	}
}

// recordCommit notes the size that a change gave the file, and that its chunks are others.
func (n *openInode) recordCommit(size int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.size = size
	n.epoch++
	n.fs.b.commitCount.Add(1)
}

// runInodeTx runs fn on the file's row in a transaction.
func (n *openInode) runInodeTx(ctx context.Context, f *volumeFS, fn func(tx *volumeTx, i *inode) error) error {
	return n.fs.b.runVolumeTx(ctx, f, nil, func(tx *volumeTx) error {
		var i inode
		var found bool
		if err := tx.runQueries(tx.inodeQuery(&found, &i, n.key.ino)); err != nil {
			return err
		}
		if !found {
			return driver.Errorf(driver.ErrNotExist, "the file was removed on another host")
		}
		return fn(tx, &i)
	})
}

// appendBytes adds p at the end of the file, wherever that is.
func (n *openInode) appendBytes(ctx context.Context, f *volumeFS, p []byte) (int64, error) {
	if len(p) > maxAppend {
		return 0, driver.Errorf(driver.ErrInvalid, "%d bytes are too many to append in one step; at most %d", len(p), maxAppend)
	}
	b := n.fs.b
	var blobs []newChunk
	var err error
	if len(p) > b.ns.opts.Inline {
		if blobs, err = b.putDirtyRanges(ctx, dirtyRanges{{0, p}}); err != nil {
			return 0, err
		}
	} else if err := b.ns.reserves.takeInlineBytes(ctx, b.org, int64(b.ns.opts.Inline)); err != nil {
		return 0, err // what is there already may be written once more
	}
	n.commitMu.Lock()
	defer n.commitMu.Unlock()
	var at int64
	err = n.runInodeTx(ctx, f, func(tx *volumeTx, i *inode) error {
		at = i.size
		if at > maxFileSize-int64(len(p)) {
			return errTooLarge
		}
		parts := make([]newChunk, len(blobs))
		for j, x := range blobs {
			parts[j] = x
			parts[j].pos += at
		}
		if len(blobs) == 0 && len(p) > 0 {
			last, err := tx.mergeIntoInlineTail(i, p)
			if err != nil {
				return err
			}
			parts = []newChunk{last}
		}
		tx.addChunks(i.ino, parts)
		tx.sizeDelta += int64(len(p))
		tx.queueExec(`UPDATE inodes SET size = $3, alloc = alloc + $4, mtime = $5, ctime = $5 WHERE vol = $1 AND ino = $2`,
			tx.vol, i.ino, at+int64(len(p)), int64(len(p)), tx.now)
		return nil
	})
	if err != nil {
		b.abandonBlobs(ctx, blobs)
		return 0, err
	}
	n.recordCommit(at + int64(len(p)))
	n.compactBestEffort(ctx, f, at)
	return at, nil
}

// maxAppend bounds what is put before the file's end is known, in bytes.
const maxAppend = 1 << 30

// mergeIntoInlineTail makes a blob of few bytes and, where the file ends with a blob that is in
// its row too, of that one's: a log of short lines is not a blob for each.
func (tx *volumeTx) mergeIntoInlineTail(i *inode, p []byte) (newChunk, error) {
	var r chunkRow
	var data []byte
	var found bool
	err := tx.runQueries(selectOne(&found, append(r.scanDest(), &data), `SELECT c.pos, c.len, c.blob, c.blob_pos, b.data
		FROM chunks c JOIN blobs b ON b.org = c.org AND b.id = c.blob
		WHERE c.vol = $1 AND c.ino = $2 AND c.pos + c.len = $3 AND c.pos > $4 AND b.data IS NOT NULL`,
		tx.vol, i.ino, i.size, i.size-chunkSize))
	if err != nil {
		return newChunk{}, err
	}
	if !found || r.len+int64(len(p)) > int64(tx.b.ns.opts.Inline) || r.blobPos+r.len > int64(len(data)) {
		return inlineChunk(i.size, p), nil
	}
	tx.queueExec(`DELETE FROM chunks WHERE vol = $1 AND ino = $2 AND pos = $3`, tx.vol, i.ino, r.pos)
	both := append(append(make([]byte, 0, int(r.len)+len(p)), data[r.blobPos:r.blobPos+r.len]...), p...)
	return inlineChunk(r.pos, both), nil
}

// inlineChunk is a part whose bytes are to live in their blob's row.
func inlineChunk(pos int64, data []byte) newChunk {
	n := int64(len(data))
	return newChunk{pos, n, &newBlob{id: newID(), size: n, data: data}, 0}
}

// flushAndTruncate sets the size, after all that was written before.
func (n *openInode) flushAndTruncate(ctx context.Context, f *volumeFS, size int64) error {
	if size < 0 {
		return negativeError(size)
	}
	if size > maxFileSize {
		return errTooLarge
	}
	if err := n.flushBeforeWrite(ctx, f); err != nil {
		return err
	}
	return n.commitSize(ctx, f, size, true)
}

// commitSize sets the size, or makes the file at least that large.
func (n *openInode) commitSize(ctx context.Context, f *volumeFS, size int64, shrink bool) error {
	n.commitMu.Lock()
	defer n.commitMu.Unlock()
	var got int64
	err := n.runInodeTx(ctx, f, func(tx *volumeTx, i *inode) error {
		got = size
		if !shrink {
			got = max(i.size, size)
		}
		tx.sizeDelta += got - i.size
		alloc := i.alloc
		if got < i.size {
			freed, err := tx.truncateChunks(i.ino, got)
			if err != nil {
				return err
			}
			alloc -= freed
		}
		tx.queueExec(`UPDATE inodes SET size = $3, alloc = $4, mtime = $5, ctime = $5 WHERE vol = $1 AND ino = $2`, tx.vol, i.ino, got, alloc, tx.now)
		return nil
	})
	if err != nil {
		return err
	}
	n.recordCommit(got)
	return nil
}

// commitHole makes a range a hole.
func (n *openInode) commitHole(ctx context.Context, f *volumeFS, off, length int64) error {
	n.commitMu.Lock()
	defer n.commitMu.Unlock()
	var size int64
	err := n.runInodeTx(ctx, f, func(tx *volumeTx, i *inode) error {
		size = i.size
		end := i.size
		if length < i.size-min(off, i.size) {
			end = off + length
		}
		if off >= end {
			return nil
		}
		freed, err := tx.punchHoles(i.ino, byteRange{off, end})
		if err != nil {
			return err
		}
		tx.queueExec(`UPDATE inodes SET alloc = alloc - $3, mtime = $4, ctime = $4 WHERE vol = $1 AND ino = $2`, tx.vol, i.ino, freed, tx.now)
		return nil
	})
	if err != nil {
		return err
	}
	n.recordCommit(size)
	return nil
}
