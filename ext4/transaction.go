package ext4

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// transaction is the unit of commit: new versions of whole blocks of metadata. File data
// of the same time is written to the device before it is committed (jbd2's ordered mode).
type transaction struct {
	seq         uint64                // counts transactions of this FS, from 1
	blocks      map[uint64]*block     // changed blocks, by block number
	dirtyGroups map[uint32]groupDirty // groups with changed descriptors, and which bitmaps changed
	freedBlocks busyBlocks            // blocks that the last committed state still uses
	hasData     bool                  // file data was written, which a commit must sync
}

// groupDirty says which bitmaps of a group a transaction changed, whose checksums in the
// group descriptor finalizeTransaction sets.
type groupDirty uint8

// Bits of a groupDirty.
const (
	blockBitmapDirty groupDirty = 1 << iota
	inodeBitmapDirty
)

// newTransaction returns an empty transaction.
func newTransaction(seq uint64) *transaction {
	return &transaction{seq: seq, blocks: map[uint64]*block{}, dirtyGroups: map[uint32]groupDirty{}, freedBlocks: busyBlocks{}}
}

// busyBlocks are free blocks that must not be allocated yet, as a bitmap per group: the
// last committed state still uses them, or recovery could overwrite them from the log.
type busyBlocks map[uint32][]byte

// markBusy marks blocks of a group as busy.
func (y busyBlocks) markBusy(sb *superblock, g uint32, s groupSpan) {
	m := y[g]
	if m == nil {
		m = make([]byte, (sb.blocksPerGroup+7)/8)
		y[g] = m
	}
	setBits(m, uint64(s.at), uint64(s.n))
}

// clearBusy marks n blocks of a group as not busy.
func (y busyBlocks) clearBusy(g, index, n uint32) {
	if m := y[g]; m != nil {
		clearBits(m, uint64(index), uint64(n))
	}
}

// operation is the operation under way, with all that is needed to undo it. There is one
// at a time: mu is held alone.
type operation struct {
	id      uint64       // counts operations
	undoLog []undoRecord // in the order of the changes
	freed   []run        // blocks that it marked as busy
	before  counters     // as they were when it began
	orphans []uint32     // likewise the orphan list
	buffers [][]byte     // reused for copies of blocks
	now     time.Time    // for all times that it sets
}

// undoRecord is the state of one block before the operation.
type undoRecord struct {
	n     uint64
	was   *block // cached version before; nil: not cached
	saved []byte // data before, if the block was already part of the transaction
}

// run is a range of adjacent blocks.
type run struct {
	start uint64
	n     uint32
}

// counters are the totals that the superblock keeps. They are part of what an operation
// undoes.
type counters struct {
	freeBlocks uint64
	freeInodes uint32
	fileBytes  int64 // by how much the total size of regular files has changed since Open
}

// modifyBlock returns a block's data for the operation under way to change. The first
// change in a transaction makes a new version of the block; the first change of a later
// operation in the same transaction saves the old bytes, so that the operation can be
// undone.
func (fs *FS) modifyBlock(n uint64) ([]byte, error) {
	b, err := fs.getBlock(n)
	if err != nil {
		return nil, err
	}
	if b.openTx != nil && b.openTx == fs.tx {
		// Changed in place. The first change by an operation saves the bytes before.
		if b.lastOp != fs.op.id {
			b.lastOp = fs.op.id
			fs.op.undoLog = append(fs.op.undoLog, undoRecord{n, b, fs.op.saveCopy(b.data)})
		}
		return b.data, nil
	}
	return fs.addDirtyBlock(n, b, slices.Clone(b.data)).data, nil
}

// createZeroedBlock returns a zeroed version of block n, whatever n held before, for the
// operation under way to fill.
func (fs *FS) createZeroedBlock(n uint64) []byte {
	b := fs.addDirtyBlock(n, fs.cache.lookupBlock(n), make([]byte, fs.sb.blockSize))
	b.verified.Store(0)
	return b.data
}

// addDirtyBlock makes data the new version of block n in the open transaction, and records
// the old one for undo.
func (fs *FS) addDirtyBlock(n uint64, was *block, data []byte) *block {
	b := &block{data: data, openTx: fs.tx, lastOp: fs.op.id}
	b.pinned.Store(true)
	if was != nil {
		b.inLog = was.pinned.Load() || was.inLog
		b.verified.Store(was.verified.Load())
	}
	fs.op.undoLog = append(fs.op.undoLog, undoRecord{n: n, was: was})
	fs.cache.replaceBlock(n, b)
	fs.tx.blocks[n] = b
	return b
}

// forgetBlock removes a block that no longer is metadata from cache and transaction. If
// the log has an old version of it, recovery could write that over the block's next
// content: the block is held until the next checkpoint. (jbd2 writes revoke records
// instead.)
func (fs *FS) forgetBlock(n uint64) {
	b := fs.cache.lookupBlock(n)
	if b == nil {
		return
	}
	if b.pinned.Load() && b.openTx != fs.tx || b.inLog {
		// After a crash recovery would write this block over its next content.
		g, i := fs.sb.locateBlock(n)
		fs.heldBlocks.markBusy(fs.sb, g, groupSpan{i, 1})
	}
	u := undoRecord{n: n, was: b}
	if b.openTx == fs.tx && b.lastOp != fs.op.id {
		u.saved = fs.op.saveCopy(b.data)
	}
	fs.op.undoLog = append(fs.op.undoLog, u)
	fs.cache.replaceBlock(n, nil)
	delete(fs.tx.blocks, n)
}

// saveCopy copies a block's data into a buffer of the operation, for undo.
func (o *operation) saveCopy(data []byte) []byte {
	var buf []byte
	if k := len(o.buffers); k > 0 {
		buf, o.buffers = o.buffers[k-1], o.buffers[:k-1]
	} else {
		buf = make([]byte, len(data))
	}
	copy(buf, data)
	return buf
}

// beginOperation starts an operation. mu is held alone.
func (fs *FS) beginOperation() {
	o := &fs.op
	o.id++
	o.undoLog, o.freed = o.undoLog[:0], o.freed[:0]
	o.before, o.orphans = fs.counters, fs.orphans
	o.now = fs.now()
}

// endOperation keeps the changes of the operation or, if err is not nil, undoes them all
// in reverse order.
func (fs *FS) endOperation(err error) {
	o := &fs.op
	for i := len(o.undoLog) - 1; i >= 0; i-- {
		u := o.undoLog[i]
		if err != nil {
			fs.restoreBlock(u)
		}
		if u.saved != nil && len(o.buffers) < 256 {
			o.buffers = append(o.buffers, u.saved)
		}
		o.undoLog[i] = undoRecord{}
	}
	if err != nil {
		// The bitmaps are restored by now: the blocks are in use again, and not busy.
		for _, r := range o.freed {
			g, i := fs.sb.locateBlock(r.start)
			fs.tx.freedBlocks.clearBusy(g, i, r.n)
		}
		fs.counters, fs.orphans = o.before, o.orphans
		fs.nameChanges++ // directories that it made are gone again
	}
}

// restoreBlock undoes the change of one block.
func (fs *FS) restoreBlock(u undoRecord) {
	if u.saved != nil {
		copy(u.was.data, u.saved)
	}
	fs.cache.replaceBlock(u.n, u.was)
	if u.was != nil && u.was.openTx == fs.tx {
		fs.tx.blocks[u.n] = u.was
	} else {
		delete(fs.tx.blocks, u.n)
	}
}

// maxOperationBlocks is how many blocks an operation may change before it has to end and
// go on as another one: large truncations, and the like.
func (fs *FS) maxOperationBlocks() int { return max(fs.maxTxBlocks/4, 16) }

// operationFull reports whether the operation under way has reached maxOperationBlocks.
func (fs *FS) operationFull() bool { return len(fs.op.undoLog) >= fs.maxOperationBlocks() }

// runOperation runs f as one operation, which takes effect as a whole or not at all, and
// returns the sequence number of its transaction. f may run twice: when there is no free
// block, blocks freed lately become usable by a checkpoint, and f is tried once more.
func (fs *FS) runOperation(f func() error) (seq uint64, err error) {
	for tries := 0; ; tries++ {
		seq, err = fs.tryOperation(f)
		if tries > 0 || !errors.Is(err, errNoSpace) || !fs.hasBusyBlocks() {
			return seq, err
		}
		// Blocks that were freed lately can be used once that is committed and checkpointed.
		if err := fs.commitAndCheckpoint(); err != nil {
			return 0, err
		}
	}
}

// tryOperation runs f as one operation in the open transaction. It first commits that
// transaction if it could become too large.
func (fs *FS) tryOperation(f func() error) (uint64, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	// An operation may exceed its limit by some blocks before it notices: leave room for two.
	for len(fs.tx.blocks)+2*fs.maxOperationBlocks() > fs.maxTxBlocks {
		seq := fs.tx.seq
		fs.mu.Unlock()
		err := fs.commitUpTo(seq)
		fs.mu.Lock()
		if err != nil {
			return 0, err
		}
	}
	if err := fs.checkWritable(); err != nil {
		return 0, err
	}
	fs.beginOperation()
	err := f()
	if err == nil && fs.transactionTooLarge() {
		err = fmt.Errorf("%w: the journal is too small for an operation that changes %d blocks", errNoSpace, len(fs.op.undoLog))
	}
	fs.endOperation(err)
	return fs.tx.seq, err
}

// transactionTooLarge reports whether the log cannot hold the open transaction with the
// superblock added.
func (fs *FS) transactionTooLarge() bool {
	n := len(fs.tx.blocks) + 1
	switch {
	case fs.journal != nil:
		return fs.logBlocksNeeded(fs.journal, n) > fs.journal.blocks-fs.journal.first
	case fs.sideLog != nil:
		return n > 2*fs.maxTxBlocks
	}
	return false
}

// runDurably runs f as one operation and, unless in batch mode, commits it.
func (fs *FS) runDurably(f func() error) error {
	return fs.runAndReclaim(func() (uint32, error) { return 0, f() })
}

// checkWritable returns why nothing can be changed, if so: closed, read-only, or a failed
// write.
func (fs *FS) checkWritable() error {
	switch {
	case fs.closed:
		return errClosed
	case fs.opts.ReadOnly:
		return ErrReadOnly
	}
	return fs.writeFailure
}

// hasBusyBlocks reports whether there are free blocks that a checkpoint would make usable.
func (fs *FS) hasBusyBlocks() bool {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	return len(fs.tx.freedBlocks) > 0 || len(fs.heldBlocks) > 0 || fs.committing != nil && len(fs.committing.freedBlocks) > 0
}

// Sync makes everything that was done before it durable.
func (fs *FS) Sync(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	fs.mu.RLock()
	seq, closed, ro := fs.tx.seq, fs.closed, fs.opts.ReadOnly
	fs.mu.RUnlock()
	if closed {
		return errClosed
	}
	if ro {
		return nil
	}
	return fs.commitUpTo(seq)
}
