package ext4

import "errors"

// checkpoint writes all blocks that await one to their places and empties the log.
// commitMu is held, and no transaction is being written.
func (fs *FS) checkpoint() error {
	j := fs.journal
	if j == nil || j.start == 0 {
		return nil
	}
	if err := fs.writeBlocksInPlace(fs.awaitingCheckpoint, false); err != nil {
		return err
	}
	j.start, j.head = 0, j.first
	if err := fs.writeJournalSuperblock(j); err != nil {
		return err
	}
	if err := fs.dev.Sync(); err != nil {
		return err
	}
	fs.releaseCheckpointed()
	return nil
}

// releaseCheckpointed unpins the blocks that a checkpoint wrote, and allows blocks to be
// used again whose old versions were in the log. Blocks of file data that were in
// transactions leave the cache: from now on they are read from the device.
func (fs *FS) releaseCheckpointed() {
	for n, b := range fs.awaitingCheckpoint {
		fs.cache.unpin(n, b)
	}
	clear(fs.awaitingCheckpoint)
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.heldBlocks = busyBlocks{}
	for n := range fs.journaledTails {
		if b := fs.cache.lookupBlock(n); b == nil || !b.pinned.Load() {
			fs.cache.replaceBlock(n, nil)
			delete(fs.journaledTails, n)
		}
	}
}

// writeBlocksInPlace writes blocks to their places, adjacent ones in one write, and syncs.
// Of the superblock only the first sector is written. dataFirst syncs file data before:
// without a log no metadata may point to blocks that are not written yet.
func (fs *FS) writeBlocksInPlace(blocks map[uint64]*block, dataFirst bool) error {
	if dataFirst {
		if err := fs.dev.Sync(); err != nil {
			return err
		}
	}
	list := sortedBlockNumbers(blocks)
	super := fs.sb.superblockNumber()
	buf := make([]byte, 0, maxWrite)
	for i := 0; i < len(list); {
		n := list[i]
		if n == super {
			// Only the first sector ever changes: see balanceSuperChecksum.
			raw := blocks[n].data[fs.sb.superblockOffset():][:superSize]
			if _, err := fs.dev.WriteAt(raw[:512], superOffset); err != nil {
				return err
			}
			fs.superOnDevice = append(fs.superOnDevice[:0], raw...)
			i++
			continue
		}
		buf = buf[:0]
		k := i
		for ; k < len(list) && list[k] == n+uint64(k-i) && list[k] != super && len(buf)+int(fs.sb.blockSize) <= maxWrite; k++ {
			buf = append(buf, blocks[list[k]].data...)
		}
		if _, err := fs.dev.WriteAt(buf, int64(n)*fs.sb.blockSize); err != nil {
			return err
		}
		i = k
	}
	return fs.dev.Sync()
}

// commitAndCheckpoint commits and empties the log. Afterwards no block is busy: every
// block that was freed can be used again.
func (fs *FS) commitAndCheckpoint() error {
	fs.commitMu.Lock()
	defer fs.commitMu.Unlock()
	return fs.commitAndCheckpointLocked()
}

// commitAndCheckpointLocked is commitAndCheckpoint with commitMu held.
func (fs *FS) commitAndCheckpointLocked() error {
	err := fs.commitOpenTransaction()
	if err == nil {
		err = fs.checkpoint()
	}
	return fs.recordWriteFailure(err)
}

// commitAndEmptyLog commits, empties the log and clears the flag needs_recovery, as an
// unmount does.
func (fs *FS) commitAndEmptyLog() error {
	fs.commitMu.Lock()
	defer fs.commitMu.Unlock()
	err := fs.commitAndCheckpointLocked()
	if err != nil {
		return err
	}
	if fs.sideLog != nil {
		err = errors.Join(fs.sideLog.Truncate(0), fs.sideLog.Sync())
	}
	if fs.journal != nil && fs.needsRecovery {
		// Not synced: if a crash undoes this, the next open finds an empty log.
		err = fs.writeNeedsRecovery(fs.superOnDevice, false)
		fs.needsRecovery = false
	}
	fs.releaseCheckpointed()
	if err == nil && fs.opts.Discard {
		fs.discardFreedGroups()
	}
	return fs.recordWriteFailure(err)
}

// discardFreedGroups punches holes for the free blocks of all groups in which blocks were
// freed. The log is empty, so recovery cannot need them. Best effort: what fails is left
// to Trim.
func (fs *FS) discardFreedGroups() {
	for g := range fs.groupsToDiscard {
		if _, err := fs.trimGroup(g); err != nil {
			break
		}
	}
	clear(fs.groupsToDiscard)
}
