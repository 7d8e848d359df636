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
	seq    uint64                // counts transactions of this FS, from 1
	blocks map[uint64]*block     // changed
	groups map[uint32]groupDirty // bitmaps whose checksums are to be set
	freed  busyBlocks            // blocks that the last committed state still uses
	data   bool                  // data was written
}

type groupDirty uint8

const (
	blockBitmapDirty groupDirty = 1 << iota
	inodeBitmapDirty
)

func newTransaction(seq uint64) *transaction {
	return &transaction{seq: seq, blocks: map[uint64]*block{}, groups: map[uint32]groupDirty{}, freed: busyBlocks{}}
}

// busyBlocks are free blocks that must not be used yet: a bitmap per group.
type busyBlocks map[uint32][]byte

func (y busyBlocks) mark(sb *super, g, index, n uint32) {
	m := y[g]
	if m == nil {
		m = make([]byte, (sb.perGroup+7)/8)
		y[g] = m
	}
	setBits(m, uint64(index), uint64(n))
}

func (y busyBlocks) unmark(g, index, n uint32) {
	if m := y[g]; m != nil {
		clearBits(m, uint64(index), uint64(n))
	}
}

// op is the operation under way. It is undone as a whole when it fails.
type op struct {
	id      uint64
	undo    []undo
	freed   []run
	before  counters
	orphans []uint32
	buffers [][]byte // for undo
	now     time.Time
}

// undo is how one block was before the operation.
type undo struct {
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

// mod returns a block's data, to be changed by the operation under way.
func (fs *FS) mod(n uint64) ([]byte, error) {
	b, err := fs.get(n)
	if err != nil {
		return nil, err
	}
	if b.tx != nil && b.tx == fs.tx {
		if b.op != fs.op.id {
			b.op = fs.op.id
			fs.op.undo = append(fs.op.undo, undo{n, b, fs.op.save(b.data)})
		}
		return b.data, nil
	}
	return fs.put(n, b, slices.Clone(b.data)).data, nil
}

// fresh returns a block of zeros in the place of whatever is at n.
func (fs *FS) fresh(n uint64) []byte {
	b := fs.put(n, fs.cache.get(n), make([]byte, fs.sb.blockSize))
	b.passed.Store(0)
	return b.data
}

func (fs *FS) put(n uint64, was *block, data []byte) *block {
	b := &block{data: data, tx: fs.tx, op: fs.op.id}
	b.pinned.Store(true)
	if was != nil {
		b.inLog = was.pinned.Load() || was.inLog
		b.passed.Store(was.passed.Load())
	}
	fs.op.undo = append(fs.op.undo, undo{n: n, was: was})
	fs.cache.set(n, b)
	fs.tx.blocks[n] = b
	return b
}

// drop forgets a block of metadata that is no longer used.
func (fs *FS) drop(n uint64) {
	b := fs.cache.get(n)
	if b == nil {
		return
	}
	if b.pinned.Load() && b.tx != fs.tx || b.inLog {
		// After a crash the log would bring this block back over whatever else came here.
		g, i := fs.sb.groupOf(n)
		fs.held.mark(fs.sb, g, i, 1)
	}
	u := undo{n: n, was: b}
	if b.tx == fs.tx && b.op != fs.op.id {
		u.saved = fs.op.save(b.data)
	}
	fs.op.undo = append(fs.op.undo, u)
	fs.cache.set(n, nil)
	delete(fs.tx.blocks, n)
}

func (o *op) save(data []byte) []byte {
	var buf []byte
	if k := len(o.buffers); k > 0 {
		buf, o.buffers = o.buffers[k-1], o.buffers[:k-1]
	} else {
		buf = make([]byte, len(data))
	}
	copy(buf, data)
	return buf
}

// begin starts an operation. fs.mu is held.
func (fs *FS) begin() {
	o := &fs.op
	o.id++
	o.undo, o.freed = o.undo[:0], o.freed[:0]
	o.before, o.orphans = fs.counters, fs.orphans
	o.now = fs.now()
}

// end keeps what the operation did, or undoes it when it failed.
func (fs *FS) end(err error) {
	o := &fs.op
	for i := len(o.undo) - 1; i >= 0; i-- {
		u := o.undo[i]
		if err != nil {
			fs.restore(u)
		}
		if u.saved != nil && len(o.buffers) < 256 {
			o.buffers = append(o.buffers, u.saved)
		}
		o.undo[i] = undo{}
	}
	if err != nil {
		for _, r := range o.freed {
			g, i := fs.sb.groupOf(r.start)
			fs.tx.freed.unmark(g, i, r.n)
		}
		fs.counters, fs.orphans = o.before, o.orphans
		fs.moves++ // directories that it made are gone again
	}
}

func (fs *FS) restore(u undo) {
	if u.saved != nil {
		copy(u.was.data, u.saved)
	}
	fs.cache.set(u.n, u.was)
	if u.was != nil && u.was.tx == fs.tx {
		fs.tx.blocks[u.n] = u.was
	} else {
		delete(fs.tx.blocks, u.n)
	}
}

// reserve is how many blocks an operation may change before it looks whether there
// is room for more.
func (fs *FS) opLimit() int { return max(fs.txLimit/4, 16) }

// opFull reports whether the operation under way should end here and go on as another.
func (fs *FS) opFull() bool { return len(fs.op.undo) >= fs.opLimit() }

// update runs one operation, which either happens as a whole or not at all, and
// returns the transaction that it is part of.
func (fs *FS) update(f func() error) (seq uint64, err error) {
	for tries := 0; ; tries++ {
		seq, err = fs.tryUpdate(f)
		if tries > 0 || !errors.Is(err, errNoSpace) || !fs.hasBusy() {
			return seq, err
		}
		// What was freed lately can be used once it is certain that it stays free.
		if err := fs.flush(); err != nil {
			return 0, err
		}
	}
}

func (fs *FS) tryUpdate(f func() error) (uint64, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for len(fs.tx.blocks)+2*fs.opLimit() > fs.txLimit {
		seq := fs.tx.seq
		fs.mu.Unlock()
		err := fs.commit(seq)
		fs.mu.Lock()
		if err != nil {
			return 0, err
		}
	}
	if err := fs.mayWrite(); err != nil {
		return 0, err
	}
	fs.begin()
	err := f()
	if err == nil && fs.tooLarge() {
		err = fmt.Errorf("%w: in the journal, for one operation of %d blocks", errNoSpace, len(fs.op.undo))
	}
	fs.end(err)
	return fs.tx.seq, err
}

// tooLarge reports whether the open transaction, and the superblock, are more than the
// log can hold.
func (fs *FS) tooLarge() bool {
	n := len(fs.tx.blocks) + 1
	switch {
	case fs.journal != nil:
		return fs.logBlocks(n) > fs.journal.blocks-fs.journal.first
	case fs.side != nil:
		return n > 2*fs.txLimit
	}
	return false
}

// change runs one operation and, unless in batch mode, makes it durable.
func (fs *FS) change(f func() error) error {
	seq, err := fs.update(f)
	if err != nil || fs.opts.Batch {
		return err
	}
	return fs.commit(seq)
}

func (fs *FS) mayWrite() error {
	switch {
	case fs.closed:
		return errClosed
	case fs.opts.ReadOnly:
		return ErrReadOnly
	}
	return fs.failed
}

func (fs *FS) hasBusy() bool {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	return len(fs.tx.freed) > 0 || len(fs.held) > 0 || fs.committing != nil && len(fs.committing.freed) > 0
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
	return fs.commit(seq)
}
