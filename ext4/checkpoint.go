package ext4

import "errors"

// checkpoint brings all logged blocks home and empties the log. commitMu is held, and
// no transaction is being written.
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

// writeBlocksInPlace writes blocks to their places, and syncs them.
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

// commitAndCheckpoint commits and brings everything home, after which no block is busy.
func (fs *FS) commitAndCheckpoint() error {
	fs.commitMu.Lock()
	defer fs.commitMu.Unlock()
	err := fs.commitOpenTransaction()
	if err == nil {
		err = fs.checkpoint()
	}
	return fs.recordWriteFailure(err)
}

// commitAndEmptyLog commits, empties the log, and takes the mark away that it is in use.
func (fs *FS) commitAndEmptyLog() error {
	fs.commitMu.Lock()
	defer fs.commitMu.Unlock()
	if err := fs.commitOpenTransaction(); err != nil {
		return fs.recordWriteFailure(err)
	}
	j := fs.journal
	if j != nil && j.start != 0 {
		if err := fs.writeBlocksInPlace(fs.awaitingCheckpoint, false); err != nil {
			return fs.recordWriteFailure(err)
		}
		j.start, j.head = 0, j.first
		// Synced before the superblock says that there is nothing in it.
		if err := errors.Join(fs.writeJournalSuperblock(j), fs.dev.Sync()); err != nil {
			return fs.recordWriteFailure(err)
		}
	}
	var err error
	if fs.sideLog != nil {
		err = errors.Join(fs.sideLog.Truncate(0), fs.sideLog.Sync())
	}
	if j != nil && fs.needsRecovery {
		// If a crash undoes this, who opens the image next finds the log empty.
		err = fs.writeNeedsRecovery(fs.superOnDevice, false)
		fs.needsRecovery = false
	}
	fs.releaseCheckpointed()
	if err == nil && fs.opts.Discard {
		fs.discardFreedGroups()
	}
	return fs.recordWriteFailure(err)
}

// discardFreedGroups gives the storage of blocks back that were freed. The log is empty, so
// nothing brings them back. It is a courtesy: what fails stays for Trim.
func (fs *FS) discardFreedGroups() {
	for g := range fs.groupsToDiscard {
		if _, err := fs.trimGroup(g); err != nil {
			break
		}
	}
	clear(fs.groupsToDiscard)
}
