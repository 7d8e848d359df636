package ext4

import (
	"errors"
	"fmt"
)

// The log is written front to back. When the next transaction does not fit, all that
// is in the log is first brought home and the log begins anew: a checkpoint. So at any
// time the log is a row of complete transactions from its first block on, and perhaps
// one that is incomplete.
//
// A transaction costs two syncs: one for file data and the body, one for the commit
// block, without which the body counts for nothing.

const (
	maxTransaction = 8192  // blocks
	maxLogInUse    = 16384 // blocks, which are also held in memory until the checkpoint
	maxWrite       = 1 << 20
)

// openLogForWriting prepares the log for transactions.
func (fs *FS) openLogForWriting() error {
	fs.maxTxBlocks = maxTransaction
	fs.needsRecovery = fs.sb.incompat&incompatRecover != 0
	if err := fs.repairPrimarySuper(); err != nil {
		return err
	}
	j, err := fs.openJournal()
	if err != nil {
		return err
	}
	if j == nil || !fs.usesJournal() {
		room := int64(maxSide) / 2
		if in, ok := fs.sideLog.(*logInImage); ok {
			room = in.size - sideBody
		}
		fs.maxTxBlocks = min(fs.maxTxBlocks, int(room/(fs.sb.blockSize+8)))
		return nil
	}
	stale := j.start != 0 // what was in it is replayed by now, unless the superblock said that it was nothing
	j.start = 0
	j.head = j.first
	j.upgradeFormat()
	if stale {
		// What lies in it must not seem to go on what is written now.
		j.sequence += j.blocks
		if err := errors.Join(fs.writeJournalSuperblock(j), fs.dev.Sync()); err != nil {
			return err
		}
	}
	j.blocks = min(j.blocks, j.first+maxLogInUse)
	usable := int(j.blocks - j.first)
	fs.maxTxBlocks = min(maxTransaction, usable*15/16-4)
	if usable < 128 {
		return unsupportedf("writing with a journal of %d blocks; it can be read only", usable)
	}
	fs.journal = j
	return nil
}

// usesJournal reports whether changes go through a journal. Those of ext3 are left as they
// are when such a file system grows, so that its own driver can go on with them.
func (fs *FS) usesJournal() bool {
	return fs.sb.compat&compatJournal != 0 && (fs.sb.incompat&incompatExtents != 0 || !fs.opts.forGrow)
}

// repairPrimarySuper writes the first superblock when it was its copy that was read, and
// remembers what is on the device.
func (fs *FS) repairPrimarySuper() error {
	fs.superOnDevice = make([]byte, superSize)
	if err := readFull(fs.dev, fs.superOnDevice, superOffset); err != nil {
		return err
	}
	if _, err := parseSuperblock(fs.superOnDevice, fs.size); err == nil {
		return nil
	}
	raw := fs.sb.raw
	le.PutUint16(raw[sbGroupNumber:], 0)
	le.PutUint32(raw[sbFreeBlocksLo:], uint32(fs.counters.freeBlocks))
	le.PutUint32(raw[sbFreeInodes:], fs.counters.freeInodes)
	if fs.sb.incompat&incompat64bit != 0 {
		le.PutUint32(raw[sbFreeBlocksHi:], uint32(fs.counters.freeBlocks>>32))
	}
	if fs.sb.metadataCsum {
		le.PutUint32(raw[sbChecksum:], superblockChecksum(raw))
	}
	copy(fs.superOnDevice, raw)
	if _, err := fs.dev.WriteAt(raw, superOffset); err != nil {
		return err
	}
	return fs.dev.Sync()
}

// tagsPerDescriptor returns how many blocks one descriptor in the log can list.
func (fs *FS) tagsPerDescriptor() int { return (int(fs.sb.blockSize) - jHeaderSize - 4 - 16) / 16 }

// logBlocksNeeded returns how much of the log a transaction of n blocks takes.
func (fs *FS) logBlocksNeeded(n int) uint32 {
	per := fs.tagsPerDescriptor()
	return uint32(n + (n+per-1)/per + 1)
}

// commitUpTo makes the transaction seq and all before it durable.
func (fs *FS) commitUpTo(seq uint64) error {
	fs.commitMu.Lock()
	defer fs.commitMu.Unlock()
	if fs.committedSeq >= seq {
		return nil
	}
	if err := fs.flushDelayedData(); err != nil {
		return err
	}
	return fs.recordWriteFailure(fs.commitOpenTransaction())
}

// flushDelayedData writes data that was held back. When that fails, for want of space
// say, nothing is lost yet, and the next commit tries again.
func (fs *FS) flushDelayedData() error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.flushDelayedDataLocked()
}

// recordWriteFailure remembers why a commit failed: what is on the device is then no longer known,
// and the log is left for the next who opens it.
func (fs *FS) recordWriteFailure(err error) error {
	if err == nil {
		return nil
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.writeFailure == nil {
		fs.writeFailure = fmt.Errorf("the file system stopped after a failed write; open it again: %w", err)
	}
	return err
}

// commitOpenTransaction commits the open transaction. commitMu is held.
func (fs *FS) commitOpenTransaction() error {
	t, err := fs.freezeTransaction()
	if t == nil || err != nil {
		return err
	}
	if fs.journal == nil {
		if fs.sideLog != nil && len(t.blocks) > 0 {
			err = fs.writeSideLog(t)
		}
		if err == nil {
			err = fs.writeBlocksInPlace(t.blocks, t.hasData && fs.sideLog == nil)
		}
	} else if len(t.blocks) > 0 {
		err = fs.writeTransactionToLog(t)
	} else {
		err = fs.dev.Sync()
	}
	if err != nil {
		return err
	}
	fs.mu.Lock()
	fs.committing = nil
	fs.mu.Unlock()
	fs.committedSeq = t.seq
	for g := range t.freedBlocks {
		fs.groupsToDiscard[g] = true
	}
	for n, b := range t.blocks {
		if fs.journal == nil {
			fs.cache.unpin(n, b)
			continue
		}
		if old := fs.awaitingCheckpoint[n]; old != nil && old != b {
			fs.cache.unpin(n, old)
		}
		fs.awaitingCheckpoint[n] = b
	}
	if fs.journal == nil {
		fs.releaseCheckpointed()
	}
	return nil
}

// freezeTransaction ends the open transaction, so that it can be written, and opens another.
// It returns nil when there is nothing to write.
func (fs *FS) freezeTransaction() (*transaction, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.writeFailure != nil {
		return nil, fs.writeFailure
	}
	if err := errors.Join(fs.flushDelayedDataLocked(), fs.finalizeTransaction()); err != nil {
		return nil, err
	}
	for fs.journal != nil && fs.journal.head+fs.logBlocksNeeded(len(fs.tx.blocks)) > fs.journal.blocks {
		fs.mu.Unlock()
		err := fs.checkpoint()
		fs.mu.Lock()
		if err == nil {
			err = errors.Join(fs.flushDelayedDataLocked(), fs.finalizeTransaction())
		}
		if err != nil {
			return nil, err
		}
		if fs.logBlocksNeeded(len(fs.tx.blocks)) > fs.journal.blocks-fs.journal.first {
			return nil, fmt.Errorf("%w: a transaction of %d blocks is larger than the journal", errNoSpace, len(fs.tx.blocks))
		}
	}
	t := fs.tx
	if len(t.blocks) == 0 && !t.hasData {
		fs.committedSeq = t.seq
		fs.tx = newTransaction(t.seq + 1)
		return nil, nil
	}
	for _, b := range t.blocks {
		b.openTx = nil
	}
	fs.committing, fs.tx = t, newTransaction(t.seq+1)
	return t, nil
}

// finalizeTransaction sets what is set once for a transaction: the checksums of bitmaps
// and descriptors, and the superblock.
func (fs *FS) finalizeTransaction() error {
	if len(fs.tx.blocks) == 0 {
		return nil
	}
	fs.beginOperation()
	err := fs.setGroupChecksums()
	if err == nil {
		err = fs.finalizeSuperblock()
	}
	fs.endOperation(nil)
	return err
}

func (fs *FS) finalizeSuperblock() error {
	b, err := fs.modifyBlock(fs.sb.superblockNumber())
	if err != nil {
		return err
	}
	raw, old := b[fs.sb.superblockOffset():][:superSize], fs.sb.raw
	c := fs.counters
	le.PutUint32(old[sbFreeBlocksLo:], uint32(c.freeBlocks))
	if fs.sb.incompat&incompat64bit != 0 {
		le.PutUint32(old[sbFreeBlocksHi:], uint32(c.freeBlocks>>32))
	}
	le.PutUint32(old[sbFreeInodes:], c.freeInodes)
	le.PutUint32(old[sbWtime:], uint32(fs.now().Add(-clockTick).Unix()))
	var first uint32
	if len(fs.orphans) > 0 {
		first = fs.orphans[0]
	}
	le.PutUint32(old[sbLastOrphan:], first)
	le.PutUint32(old[sbIncompat:], le.Uint32(old[sbIncompat:])|incompatRecover)
	if fs.journal == nil {
		le.PutUint32(old[sbIncompat:], le.Uint32(old[sbIncompat:])&^incompatRecover)
	}
	fs.balanceSuperChecksum(old)
	copy(raw, old)
	return nil
}

// balanceSuperChecksum keeps the checksum of the superblock right without changing it: it gives
// four unused bytes the value that makes the sum come out as before. So an update
// changes the first of the superblock's two sectors only, and cannot be torn.
func (fs *FS) balanceSuperChecksum(raw []byte) {
	if !fs.sb.metadataCsum {
		return
	}
	before := crc32c(^uint32(0), raw[:sbSnapshotID])
	after := le.Uint32(raw[sbChecksum:])
	for i := sbChecksum - 1; i >= sbSnapshotID+4; i-- {
		after = reverseCRCByte(after, raw[i])
	}
	for range 4 {
		after = reverseCRCByte(after, 0)
	}
	le.PutUint32(raw[sbSnapshotID:], before^after)
}

// reverseCRCByte takes one byte back out of a checksum's register.
func reverseCRCByte(register uint32, b byte) uint32 {
	i := reverseCRCTable[register>>24]
	return (register^castagnoli[i])<<8 | uint32(i^b)
}

// reverseCRCTable finds the entry of the checksum's table with a given highest byte.
var reverseCRCTable = func() (t [256]byte) {
	for i, v := range castagnoli {
		t[v>>24] = byte(i)
	}
	return t
}()

// writeNeedsRecovery writes the superblock's first sector as it was last committed, with or
// without the mark that the log is in use.
func (fs *FS) writeNeedsRecovery(raw []byte, inUse bool) error {
	s := append([]byte(nil), raw...)
	v := le.Uint32(s[sbIncompat:]) &^ incompatRecover
	if inUse {
		v |= incompatRecover
	}
	le.PutUint32(s[sbIncompat:], v)
	fs.balanceSuperChecksum(s)
	_, err := fs.dev.WriteAt(s[:512], superOffset)
	return err
}

func (fs *FS) writeJournalSuperblock(j *journal) error {
	j.updateSuperblock()
	_, err := fs.dev.WriteAt(j.rawSuper[:512], int64(j.deviceBlock(0))*fs.sb.blockSize)
	return err
}

// writeTransactionToLog appends a transaction to the log, and syncs it.
func (fs *FS) writeTransactionToLog(t *transaction) error {
	j := fs.journal
	if !fs.needsRecovery {
		if err := fs.writeNeedsRecovery(fs.superOnDevice, true); err != nil {
			return err
		}
		fs.needsRecovery = true
	}
	pos, err := fs.writeDescriptorsAndBlocks(t)
	if err != nil {
		return err
	}
	if err := fs.dev.Sync(); err != nil {
		return err
	}
	// Only now that the file system's superblock surely says so may the log not be empty.
	if j.start == 0 {
		j.start = j.first
		if err := fs.writeJournalSuperblock(j); err != nil {
			return err
		}
	}
	// The rest of the commit block is zeros, written with the body: so what a crash
	// leaves of it is one whole sector, or nothing.
	if _, err := fs.dev.WriteAt(fs.newCommitBlock()[:512], int64(j.deviceBlock(pos))*fs.sb.blockSize); err != nil {
		return err
	}
	if err := fs.dev.Sync(); err != nil {
		return err
	}
	j.head = pos + 1
	j.sequence++
	return nil
}

// logSeq is the sequence number of the transaction that is being written.
func (fs *FS) putLogHeader(b []byte, kind uint32) {
	be.PutUint32(b, journalMagic)
	be.PutUint32(b[4:], kind)
	be.PutUint32(b[8:], fs.journal.sequence)
}

func (fs *FS) newCommitBlock() []byte {
	b := make([]byte, fs.sb.blockSize)
	fs.putLogHeader(b, jblockCommit)
	now := fs.now()
	be.PutUint64(b[48:], uint64(now.Unix()))
	be.PutUint32(b[56:], uint32(now.Nanosecond()))
	be.PutUint32(b[16:], crc32c(fs.journal.seed, b))
	return b
}

// writeDescriptorsAndBlocks writes a transaction's descriptors and blocks, and zeros where the commit
// block goes, which it returns.
func (fs *FS) writeDescriptorsAndBlocks(t *transaction) (commit uint32, err error) {
	j, pos := fs.journal, fs.journal.head
	out := fs.newLogWriter(pos, int(fs.logBlocksNeeded(len(t.blocks)))+1)
	var seq [4]byte
	be.PutUint32(seq[:], j.sequence)
	base := crc32c(j.seed, seq[:])
	for list := sortedBlockNumbers(t.blocks); len(list) > 0; {
		part := list[:min(len(list), fs.tagsPerDescriptor())]
		list = list[len(part):]
		desc := out.addBlock()
		fs.putLogHeader(desc, jblockDescriptor)
		off := jHeaderSize
		for i, n := range part {
			data := out.addBlock()
			copy(data, t.blocks[n].data)
			var flags uint32
			if be.Uint32(data) == journalMagic {
				be.PutUint32(data, 0)
				flags |= jTagEscaped
			}
			if i > 0 {
				flags |= jTagSameUUID
			}
			if i == len(part)-1 {
				flags |= jTagLast
			}
			be.PutUint32(desc[off:], uint32(n))
			be.PutUint32(desc[off+4:], flags)
			be.PutUint32(desc[off+8:], uint32(n>>32))
			be.PutUint32(desc[off+12:], crc32c(base, data))
			if off += 16; i == 0 {
				copy(desc[off:], j.rawSuper[jsbUUID:jsbUUID+16])
				off += 16
			}
		}
		be.PutUint32(desc[len(desc)-4:], crc32c(j.seed, desc))
		if err := out.flushBlocks(false); err != nil {
			return 0, err
		}
	}
	out.addBlock()
	if err := out.flushBlocks(true); err != nil {
		return 0, err
	}
	return out.pos - 1, nil
}

// logWriter collects blocks of the log for large writes.
type logWriter struct {
	fs  *FS
	pos uint32 // of the first block in buf, then of the next one
	buf []byte
}

// newLogWriter begins to write n blocks. commitMu is held, and guards the buffer.
func (fs *FS) newLogWriter(pos uint32, n int) logWriter {
	if need := min(n*int(fs.sb.blockSize), 2*maxWrite); cap(fs.logBuf) < need {
		fs.logBuf = make([]byte, 0, need)
	}
	return logWriter{fs: fs, pos: pos, buf: fs.logBuf[:0]}
}

// addBlock returns a block of zeros, valid until flush.
func (w *logWriter) addBlock() []byte {
	n, end := len(w.buf), len(w.buf)+int(w.fs.sb.blockSize)
	w.buf = w.buf[:end]
	b := w.buf[n:end:end]
	clear(b)
	return b
}

// flushBlocks writes what was added when it is much, or always.
func (w *logWriter) flushBlocks(always bool) error {
	bs := int(w.fs.sb.blockSize)
	if !always && len(w.buf)+(w.fs.tagsPerDescriptor()+2)*bs <= cap(w.buf) {
		return nil
	}
	for b := w.buf; len(b) > 0; {
		n := uint32(1)
		at := w.fs.journal.deviceBlock(w.pos)
		for int(n)*bs < len(b) && w.fs.journal.deviceBlock(w.pos+n) == at+uint64(n) {
			n++
		}
		if _, err := w.fs.dev.WriteAt(b[:int(n)*bs], int64(at)*int64(bs)); err != nil {
			return err
		}
		b, w.pos = b[int(n)*bs:], w.pos+n
	}
	w.buf = w.buf[:0]
	return nil
}
