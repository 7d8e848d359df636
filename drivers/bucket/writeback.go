package bucket

import (
	"context"
	"errors"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/budget"
)

// Write-back: WriteAt only buffers. The buffered bytes of an open inode are dirty until they
// are flushed, that is, put as blobs and committed as chunks. Sync and Close flush; so do a
// full buffer, and every call that has the database look at the volume. A flush that fails
// for a reason that may pass leaves the bytes dirty, for the next one to try again. A flush
// that can never succeed drops them, and each handle that may have written them reports the
// loss once, from Sync or Close.

const (
	// maxDirtyPerFile is how many dirty bytes of one file trigger a flush.
	maxDirtyPerFile = 32 << 20
	// maxDirtyTotal is how many dirty bytes of all files of the namespace in this process
	// make every write flush its file.
	maxDirtyTotal = 256 << 20
)

// bufferWrite adds p to the dirty ranges. flushNow reports that the caller should flush them,
// because a limit is reached or the organisation has no memory left for more. Bytes that were
// written under other rights are flushed first: one commit has one writer's rights.
func (o *openInode) bufferWrite(ctx context.Context, fsys *volumeFS, p []byte, off int64) (flushNow bool, err error) {
	for {
		o.mu.Lock()
		// Twice the limit: flushes have failed so far. The buffer must not grow without bounds.
		mustFlush := o.dirtyBytes >= 2*maxDirtyPerFile || len(o.dirty) > 0 && !mayShareCommit(o.dirtyFS, fsys)
		if !mustFlush {
			flushNow = o.addDirty(fsys, p, off)
		}
		o.mu.Unlock()
		if !mustFlush {
			return flushNow, nil
		}
		if err := o.flushBeforeWrite(ctx, fsys); err != nil {
			return false, err
		}
	}
}

// addDirty adds p to the dirty ranges, and reports whether a limit is reached. The caller
// holds mu.
func (o *openInode) addDirty(fsys *volumeFS, p []byte, off int64) (flushNow bool) {
	o.dirty, o.dirtyFS = o.dirty.overwrite(off, p), fsys
	o.dirtyMtime = time.Now().UnixNano()
	o.dirtyBytes += int64(len(p))
	total := fsys.b.ns.dirtyBytes.Add(int64(len(p)))
	reserved := o.reserveDirtyMemory(int64(len(p)))
	return o.dirtyBytes >= maxDirtyPerFile || total >= maxDirtyTotal || !reserved
}

// reserveDirtyMemory takes memory for more dirty bytes out of the organisation's budget. It
// returns false if there is none; the bytes are then held without being counted, until the
// flush that the caller is told to make. The caller holds mu.
func (o *openInode) reserveDirtyMemory(size int64) bool {
	m := o.fs.b.memory
	if m == nil {
		return true
	}
	if m.Dirty.Load()+size > m.Part(dirtyMemoryPart) || !m.Try(budget.Buffer, size) {
		return false
	}
	m.Dirty.Add(size)
	o.dirtyMemory += size
	return true
}

// releaseDirtyMemory returns memory that reserveDirtyMemory took to the budget.
func (o *openInode) releaseDirtyMemory(size int64) {
	if m := o.fs.b.memory; m != nil {
		m.Dirty.Add(-size)
		m.Release(size)
	}
}

// dirtyMemoryPart: a quarter of an organisation's memory may be dirty. The more files are
// written to at once, the sooner each is flushed.
const dirtyMemoryPart = 4

// mayShareCommit reports whether the writes of two FSes may share a commit: they are made
// under the same attachment, and are equally durable.
func mayShareCommit(a, b *volumeFS) bool {
	return string(a.attachment) == string(b.attachment) && a.opts.Batch == b.opts.Batch
}

// flushBeforeWrite flushes the dirty bytes before fsys changes the file. If another FS wrote
// them and has lost the right to commit them, fsys is not to blame: the bytes are dropped, the
// handles of that FS report it, and fsys goes on.
func (o *openInode) flushBeforeWrite(ctx context.Context, fsys *volumeFS) error {
	o.mu.Lock()
	byAnother := o.dirtyFS != nil && !mayShareCommit(o.dirtyFS, fsys)
	o.mu.Unlock()
	err := o.flushDirty(ctx)
	if byAnother && isPermanentCommitError(err) {
		return nil
	}
	return err
}

// isPermanentCommitError reports whether a commit will fail the same way for ever: the right
// to write has ended or passed to another, or the file is gone.
func isPermanentCommitError(err error) bool {
	return errors.Is(err, driver.ErrClosed) || errors.Is(err, driver.ErrInUse) || errors.Is(err, driver.ErrNotExist) || errors.Is(err, driver.ErrNotFound)
}

// flushBatch is what one flush commits.
type flushBatch struct {
	ranges dirtyRanges
	bytes  int64     // that were counted as dirty, at least those of ranges
	memory int64     // reserved for them
	fs     *volumeFS // that wrote them, under whose rights they are committed
	mtime  int64     // of the last write, in nanoseconds since 1970
}

// flushDirty commits the dirty ranges. Flushes of a file take turns; writes go on during
// them, into new dirty ranges.
func (o *openInode) flushDirty(ctx context.Context) error {
	o.commitMu.Lock()
	defer o.commitMu.Unlock()
	batch := o.beginFlush()
	if len(batch.ranges) == 0 {
		return nil
	}
	err := o.commitDirtyRanges(ctx, batch.fs, batch.ranges, batch.mtime)
	o.endFlush(batch, err, isPermanentCommitError(err) && ctx.Err() == nil)
	return err
}

// beginFlush moves the dirty ranges to flushing, where reads still see them. Their memory
// stays reserved until endFlush. The caller holds commitMu.
func (o *openInode) beginFlush() flushBatch {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flushing = o.dirty
	batch := flushBatch{ranges: o.flushing, bytes: o.dirtyBytes, memory: o.dirtyMemory, fs: o.dirtyFS, mtime: o.dirtyMtime}
	o.dirtyMemory = 0 // the batch has it
	o.resetDirty()
	return batch
}

// endFlush settles a flush that ended with err: committed bytes are forgotten, lost ones are
// recorded for the handles to report, and others become dirty again, beneath what has been
// written since. The caller holds commitMu.
func (o *openInode) endFlush(batch flushBatch, err error, lost bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flushing = nil
	o.releaseDirtyMemory(batch.memory)
	switch {
	case lost:
		o.recordLoss(err, batch.fs)
	case err != nil:
		if len(o.dirty) == 0 {
			o.dirtyFS = batch.fs
		}
		o.dirty = o.dirty.mergeOver(batch.ranges)
		o.dirtyBytes += batch.bytes
		o.fs.b.ns.dirtyBytes.Add(batch.bytes)
		o.reserveDirtyMemory(batch.memory)
	}
}

// recordLoss notes a write-back error: bytes that writer wrote will never be committed. The
// caller holds mu.
func (o *openInode) recordLoss(err error, writer *volumeFS) {
	o.lostErr, o.failedWriter = err, writer
	o.lossCount++
}

// discardDirtyAsLost drops the dirty ranges, and records their loss with its reason.
func (o *openInode) discardDirtyAsLost(why error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.dirty) == 0 {
		return
	}
	o.resetDirty()
	o.recordLoss(why, o.dirtyFS)
}

// resetDirty empties the dirty ranges and returns their memory. The caller holds mu.
func (o *openInode) resetDirty() {
	o.fs.b.ns.dirtyBytes.Add(-o.dirtyBytes)
	o.releaseDirtyMemory(o.dirtyMemory)
	o.dirty, o.dirtyBytes, o.dirtyMemory = nil, 0, 0
}

// commitDirtyRanges puts ranges as blobs, and in one transaction lets the file's chunks refer
// to them. The blobs of a transaction that fails are given up. The caller holds commitMu.
func (o *openInode) commitDirtyRanges(ctx context.Context, fsys *volumeFS, ranges dirtyRanges, mtime int64) error {
	chunks, err := o.fs.b.putDirtyRanges(ctx, ranges)
	if err != nil {
		return err
	}
	var size int64
	err = o.runInodeTx(ctx, fsys, func(tx *volumeTx, row *inode) error {
		size = row.size
		if end := ranges.end(); end > row.size {
			tx.sizeDelta += end - row.size
			size = end
		}
		alloc := row.alloc
		overwritten := make([]byteRange, len(chunks))
		for i, c := range chunks {
			overwritten[i] = byteRange{c.pos, c.pos + c.len}
			alloc += c.len
		}
		freed, err := tx.punchHoles(row.ino, overwritten...)
		if err != nil {
			return err
		}
		tx.addChunks(row.ino, chunks)
		tx.QueueExec(`UPDATE inodes SET size = $3, alloc = $4, mtime = $5, ctime = $6 WHERE vol = $1 AND ino = $2`,
			tx.vol, row.ino, size, alloc-freed, mtime, tx.now)
		return nil
	})
	if err != nil {
		o.fs.b.abandonBlobs(ctx, chunks)
		return err
	}
	o.recordCommit(size)
	o.compactBestEffort(ctx, fsys, ranges[len(ranges)-1].pos)
	return nil
}

// overlayDirty makes a row show what this process has written to the file and not committed.
// commitsBefore is commitCount from before the row was read. If it has changed, a flush has
// ended since, and its bytes may be neither in the row nor dirty: the row is read again.
func (b *Backend) overlayDirty(ctx context.Context, vol []byte, row *inode, commitsBefore int64) error {
	if !row.isRegular() {
		return nil
	}
	b.mu.Lock()
	o := b.openInodes[inodeKey{string(vol), row.ino}]
	b.mu.Unlock()
	if o == nil {
		return nil
	}
	if b.commitCount.Load() == commitsBefore {
		o.mu.Lock()
		o.applyDirty(row)
		o.mu.Unlock()
		if b.commitCount.Load() == commitsBefore {
			return nil
		}
	}
	now, err := o.readInode(ctx)
	if errors.Is(err, driver.ErrNotExist) {
		return nil // removed since: the row is as it was
	}
	if err == nil {
		*row = now
	}
	return err
}

// applyDirty gives a row the size and times that it will have once the dirty and flushing
// ranges are committed. The caller holds mu.
func (o *openInode) applyDirty(row *inode) {
	if len(o.dirty) == 0 && len(o.flushing) == 0 {
		return
	}
	row.size = max(row.size, o.dirty.end(), o.flushing.end())
	row.mtime = o.dirtyMtime
	row.ctime = max(row.ctime, o.dirtyMtime)
}

// acquireUncommittedInodes acquires the open inodes of a volume (nil: of all volumes) that have
// bytes which are not committed. The caller releases each.
func (b *Backend) acquireUncommittedInodes(vol []byte) []*openInode {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []*openInode
	for key, o := range b.openInodes {
		if (vol == nil || key.vol == string(vol)) && o.hasUncommitted() {
			o.refCount++
			list = append(list, o)
		}
	}
	return list
}

// hasUncommitted reports whether the file has bytes that are not committed.
func (o *openInode) hasUncommitted() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.dirty) > 0 || len(o.flushing) > 0
}

// hasUncommittedInodes reports whether any file of a volume has bytes that are not committed.
func (b *Backend) hasUncommittedInodes(vol []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, o := range b.openInodes {
		if key.vol == string(vol) && o.hasUncommitted() {
			return true
		}
	}
	return false
}

// flushVolumeBestEffort flushes the files of a volume (nil: of all volumes), so that the database
// shows what this process has written. A flush that fails is only logged: it is the error of
// the Sync and Close of its own handles, not of the call that looks at the volume.
func (b *Backend) flushVolumeBestEffort(ctx context.Context, vol []byte) error {
	if err := b.flushVolume(ctx, vol); err != nil {
		b.ns.log.WarnContext(ctx, "cannot flush files of a volume yet", "volume", rows.FormatID(vol), "error", err)
	}
	return ctx.Err()
}

// flushVolume flushes the files of a volume, and fails unless all that was written to it is
// committed. Files that were removed since do not count.
func (b *Backend) flushVolume(ctx context.Context, vol []byte) error {
	var errs []error
	for _, o := range b.acquireUncommittedInodes(vol) {
		if err := o.flushDirty(ctx); err != nil && !errors.Is(err, driver.ErrNotFound) && !errors.Is(err, driver.ErrNotExist) {
			errs = append(errs, err)
		}
		errs = append(errs, b.releaseAndReapInode(ctx, o))
	}
	return errors.Join(errs...)
}

// discardVolumeDirtyAsLost drops the dirty bytes of a volume that has been removed.
func (b *Backend) discardVolumeDirtyAsLost(vol []byte) {
	for _, o := range b.acquireUncommittedInodes(vol) {
		o.discardDirtyAsLost(driver.ErrNotFound)
		_ = b.releaseAndReapInode(context.Background(), o)
	}
}
