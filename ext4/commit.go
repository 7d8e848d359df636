package ext4

import (
	"errors"
	"fmt"
)

// The commit path. Operations collect changed blocks in the open transaction. commitUpTo
// freezes it, so that operations go on in the next one, and appends it to the log, which is
// written front to back. When the log has no room for a transaction, a checkpoint writes all
// logged blocks to their places, and the log begins again at its first block. So at any time
// the log is a row of complete transactions from its first block on, perhaps followed by an
// incomplete one.
//
// A commit costs two syncs: one for file data, descriptor and data blocks, one for the commit
// block, which makes the transaction valid.

// Limits of the log. A transaction, and all blocks that await a checkpoint, are held in
// memory, so they are smaller than a large journal would permit.
const (
	maxTransaction = 8192    // blocks
	maxLogInUse    = 16384   // blocks
	maxWrite       = 1 << 20 // bytes of one write
)

// repairSuperAndPrepareLog prepares the journal for transactions: empty, and in the format in
// which this package writes. Without a journal it only limits the size of transactions, to
// what the side log can hold.
func (fs *FS) repairSuperAndPrepareLog() error {
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
	stale := j.start != 0 // its transactions are replayed by now, or void: needs_recovery was not set
	j.start = 0
	j.head = j.first
	j.upgradeFormat()
	if stale {
		// Old blocks in it must not be taken for continuations of new transactions.
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

// usesJournal reports whether transactions go through the journal. The journal of ext3 is
// left alone when ext3 grows, so that its own driver finds it as it left it.
func (fs *FS) usesJournal() bool {
	return fs.sb.compat&compatJournal != 0 && (fs.sb.incompat&incompatExtents != 0 || !fs.opts.forGrow)
}

// commitUpTo makes transaction seq and all before it durable. Callers that wait for
// commitMu while another commits their transaction find it durable and return: a group
// commit.
func (fs *FS) commitUpTo(seq uint64) error {
	fs.commitMu.Lock()
	defer fs.commitMu.Unlock()
	if fs.committedSeq >= seq {
		return nil
	}
	fs.mu.Lock()
	err := fs.flushDelayedData()
	fs.mu.Unlock()
	if err != nil {
		return err
	}
	return fs.recordWriteFailure(fs.commitOpenTransaction())
}

// recordWriteFailure makes the FS refuse all further changes after a failed commit: the
// state of the device is unknown by then. The log stays as it is, and the next open
// replays it.
func (fs *FS) recordWriteFailure(err error) error {
	if err == nil {
		return nil
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.writeFailure == nil {
		fs.writeFailure = fmt.Errorf("no more changes after a failed write; open the file system again: %w", err)
	}
	return err
}

// commitOpenTransaction commits the open transaction, if it holds anything. commitMu is
// held; mu is not, so operations go on in the next transaction while this one is written.
func (fs *FS) commitOpenTransaction() error {
	t, err := fs.makeRoomAndFreeze()
	if t == nil || err != nil {
		return err
	}
	if err := fs.makeTransactionDurable(t); err != nil {
		return err
	}
	fs.recordCommitted(t)
	return nil
}

// makeTransactionDurable makes a frozen transaction durable: in the journal, in the side log and
// then in place, or only in place, where a crash may leave a part of it.
func (fs *FS) makeTransactionDurable(t *transaction) error {
	switch {
	case fs.journal != nil && len(t.blocks) > 0:
		return fs.writeTransactionToLog(t)
	case fs.journal != nil:
		return fs.dev.Sync() // only file data
	case fs.sideLog != nil && len(t.blocks) > 0:
		if err := fs.writeSideLog(t); err != nil {
			return err
		}
	}
	return fs.writeBlocksInPlace(t.blocks, t.hasData && fs.sideLog == nil)
}

// recordCommitted records that a transaction is durable. With a journal its blocks stay pinned
// in the cache until the next checkpoint; a version of a block that an earlier transaction
// logged is not needed any more.
func (fs *FS) recordCommitted(t *transaction) {
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
}

// makeRoomAndFreeze closes the open transaction, so that it can be written, and opens the
// next one. It checkpoints first when the log has no room for it. It returns nil when
// there is nothing to write. commitMu is held.
//
// While a checkpoint runs mu is released, so the open transaction may grow: its size is
// checked again afterwards.
func (fs *FS) makeRoomAndFreeze() (*transaction, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.writeFailure != nil {
		return nil, fs.writeFailure
	}
	if err := errors.Join(fs.flushDelayedData(), fs.finalizeTransaction()); err != nil {
		return nil, err
	}
	for fs.journal != nil && fs.journal.head+fs.logBlocksNeeded(fs.journal, len(fs.tx.blocks)) > fs.journal.blocks {
		// The checkpoint writes only blocks that were logged before, and these do not change.
		fs.mu.Unlock()
		err := fs.checkpoint()
		fs.mu.Lock()
		if err == nil {
			err = errors.Join(fs.flushDelayedData(), fs.finalizeTransaction())
		}
		if err != nil {
			return nil, err
		}
		if fs.logBlocksNeeded(fs.journal, len(fs.tx.blocks)) > fs.journal.blocks-fs.journal.first {
			return nil, fmt.Errorf("%w: a transaction of %d blocks is larger than the journal", errNoSpace, len(fs.tx.blocks))
		}
	}
	t := fs.tx
	if len(t.blocks) == 0 && !t.hasData {
		// Callers that wait for this transaction have nothing to wait for.
		fs.committedSeq = t.seq
		fs.tx = newTransaction(t.seq + 1)
		return nil, nil
	}
	// From here on its blocks must not change: a change makes a new version of the block.
	for _, b := range t.blocks {
		b.openTx = nil
	}
	fs.committing, fs.tx = t, newTransaction(t.seq+1)
	return t, nil
}

// finalizeTransaction sets the fields of the open transaction that are set only once: the
// checksums of bitmaps and group descriptors, and the superblock with its counts.
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
