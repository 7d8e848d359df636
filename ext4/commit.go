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
	for fs.journal != nil && fs.journal.head+fs.logBlocksNeeded(fs.journal, len(fs.tx.blocks)) > fs.journal.blocks {
		fs.mu.Unlock()
		err := fs.checkpoint()
		fs.mu.Lock()
		if err == nil {
			err = errors.Join(fs.flushDelayedDataLocked(), fs.finalizeTransaction())
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
