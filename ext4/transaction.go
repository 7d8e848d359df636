package ext4

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// transaction is what is committed together: whole blocks of metadata, and the data
// that was written to the device meanwhile.
type transaction struct {
	seq         uint64                // counts transactions of this FS, from 1
	blocks      map[uint64]*block     // changed
	dirtyGroups map[uint32]groupDirty // bitmaps whose checksums are to be set
	freedBlocks busyBlocks            // blocks that the last committed state still uses
	hasData     bool                  // data was written
}

type groupDirty uint8

const (
	blockBitmapDirty groupDirty = 1 << iota
	inodeBitmapDirty
)

func newTransaction(seq uint64) *transaction {
	return &transaction{seq: seq, blocks: map[uint64]*block{}, dirtyGroups: map[uint32]groupDirty{}, freedBlocks: busyBlocks{}}
}

// busyBlocks are free blocks that must not be used yet: a bitmap per group.
type busyBlocks map[uint32][]byte

func (y busyBlocks) markBusy(sb *superblock, g, index, n uint32) {
	m := y[g]
	if m == nil {
		m = make([]byte, (sb.blocksPerGroup+7)/8)
		y[g] = m
	}
	setBits(m, uint64(index), uint64(n))
}

func (y busyBlocks) clearBusy(g, index, n uint32) {
	if m := y[g]; m != nil {
		clearBits(m, uint64(index), uint64(n))
	}
}

// operation is the operation under way. It is undone as a whole when it fails.
type operation struct {
	id      uint64
	undoLog []undoRecord
	freed   []run
	before  counters
	orphans []uint32
	buffers [][]byte // for undo
	now     time.Time
}

// undoRecord is how one block was before the operation.
type undoRecord struct {
	n     uint64
	was   *block // in the cache; nil: not there
	saved []byte // its data, when it was changed in place
}

// run is a number of adjacent blocks.
type run struct {
	start uint64
	n     uint32
}

// counters are the figures of the superblock that change.
type counters struct {
	freeBlocks uint64
	freeInodes uint32
	fileBytes  int64 // change of the sum of the sizes of regular files since opened
}

// modifyBlock returns a block's data, to be changed by the operation under way.
func (fs *FS) modifyBlock(n uint64) ([]byte, error) {
	b, err := fs.getBlock(n)
	if err != nil {
		return nil, err
	}
	if b.openTx != nil && b.openTx == fs.tx {
		if b.lastOp != fs.op.id {
			b.lastOp = fs.op.id
			fs.op.undoLog = append(fs.op.undoLog, undoRecord{n, b, fs.op.saveCopy(b.data)})
		}
		return b.data, nil
	}
	return fs.addDirtyBlock(n, b, slices.Clone(b.data)).data, nil
}

// createZeroedBlock returns a block of zeros in the place of whatever is at n.
func (fs *FS) createZeroedBlock(n uint64) []byte {
	b := fs.addDirtyBlock(n, fs.cache.lookupBlock(n), make([]byte, fs.sb.blockSize))
	b.verified.Store(0)
	return b.data
}

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

// forgetBlock forgets a block of metadata that is no longer used.
func (fs *FS) forgetBlock(n uint64) {
	b := fs.cache.lookupBlock(n)
	if b == nil {
		return
	}
	if b.pinned.Load() && b.openTx != fs.tx || b.inLog {
		// After a crash the log would bring this block back over whatever else came here.
		g, i := fs.sb.locateBlock(n)
		fs.heldBlocks.markBusy(fs.sb, g, i, 1)
	}
	u := undoRecord{n: n, was: b}
	if b.openTx == fs.tx && b.lastOp != fs.op.id {
		u.saved = fs.op.saveCopy(b.data)
	}
	fs.op.undoLog = append(fs.op.undoLog, u)
	fs.cache.replaceBlock(n, nil)
	delete(fs.tx.blocks, n)
}

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

// beginOperation starts an operation. fs.mu is held.
func (fs *FS) beginOperation() {
	o := &fs.op
	o.id++
	o.undoLog, o.freed = o.undoLog[:0], o.freed[:0]
	o.before, o.orphans = fs.counters, fs.orphans
	o.now = fs.now()
}

// endOperation keeps what the operation did, or undoes it when it failed.
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
		for _, r := range o.freed {
			g, i := fs.sb.locateBlock(r.start)
			fs.tx.freedBlocks.clearBusy(g, i, r.n)
		}
		fs.counters, fs.orphans = o.before, o.orphans
		fs.nameChanges++ // directories that it made are gone again
	}
}

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

// reserve is how many blocks an operation may change before it looks whether there
// is room for more.
func (fs *FS) maxOperationBlocks() int { return max(fs.maxTxBlocks/4, 16) }

// operationFull reports whether the operation under way should end here and go on as another.
func (fs *FS) operationFull() bool { return len(fs.op.undoLog) >= fs.maxOperationBlocks() }

// runOperation runs one operation, which either happens as a whole or not at all, and
// returns the transaction that it is part of.
func (fs *FS) runOperation(f func() error) (seq uint64, err error) {
	for tries := 0; ; tries++ {
		seq, err = fs.tryOperation(f)
		if tries > 0 || !errors.Is(err, errNoSpace) || !fs.hasBusyBlocks() {
			return seq, err
		}
		// What was freed lately can be used once it is certain that it stays free.
		if err := fs.commitAndCheckpoint(); err != nil {
			return 0, err
		}
	}
}

func (fs *FS) tryOperation(f func() error) (uint64, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
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
		err = fmt.Errorf("%w: in the journal, for one operation of %d blocks", errNoSpace, len(fs.op.undoLog))
	}
	fs.endOperation(err)
	return fs.tx.seq, err
}

// transactionTooLarge reports whether the open transaction, and the superblock, are more than the
// log can hold.
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

// runDurably runs one operation and, unless in batch mode, makes it durable.
func (fs *FS) runDurably(f func() error) error {
	seq, err := fs.runOperation(f)
	if err != nil || fs.opts.Batch {
		return err
	}
	return fs.commitUpTo(seq)
}

func (fs *FS) checkWritable() error {
	switch {
	case fs.closed:
		return errClosed
	case fs.opts.ReadOnly:
		return ErrReadOnly
	}
	return fs.writeFailure
}

func (fs *FS) hasBusyBlocks() bool {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	return len(fs.tx.freedBlocks) > 0 || len(fs.heldBlocks) > 0 || fs.committing != nil && len(fs.committing.freedBlocks) > 0
}

// Sync makes all that was done before it durable.
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
