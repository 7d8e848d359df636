package ext4

import "errors"

// checkpoint brings all logged blocks home and empties the log. commitMu is held, and
// no transaction is being written.
func (fs *FS) checkpoint() error {
	j := fs.journal
	if j == nil || j.start == 0 {
		return nil
	}
	if err := fs.writeHome(fs.logged, false); err != nil {
		return err
	}
	j.start, j.head = 0, j.first
	if err := fs.writeJournalSuper(j); err != nil {
		return err
	}
	if err := fs.dev.Sync(); err != nil {
		return err
	}
	fs.afterCheckpoint()
	return nil
}

func (fs *FS) afterCheckpoint() {
	for n, b := range fs.logged {
		fs.cache.unpin(n, b)
	}
	clear(fs.logged)
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.held = busyBlocks{}
	for n := range fs.tails {
		if b := fs.cache.get(n); b == nil || !b.pinned.Load() {
			fs.cache.set(n, nil)
			delete(fs.tails, n)
		}
	}
}

// writeHome writes blocks to their places, and syncs them.
func (fs *FS) writeHome(blocks map[uint64]*block, dataFirst bool) error {
	if dataFirst {
		if err := fs.dev.Sync(); err != nil {
			return err
		}
	}
	list := sortedBlocks(blocks)
	super := fs.sb.superBlock()
	buf := make([]byte, 0, maxWrite)
	for i := 0; i < len(list); {
		n := list[i]
		if n == super {
			raw := blocks[n].data[fs.sb.superIn():][:superSize]
			if _, err := fs.dev.WriteAt(raw[:512], superOffset); err != nil {
				return err
			}
			fs.diskSuper = append(fs.diskSuper[:0], raw...)
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

// flush commits and brings everything home, after which no block is busy.
func (fs *FS) flush() error {
	fs.commitMu.Lock()
	defer fs.commitMu.Unlock()
	err := fs.commitOpen()
	if err == nil {
		err = fs.checkpoint()
	}
	return fs.fail(err)
}

// shutdown commits, empties the log, and takes the mark away that it is in use.
func (fs *FS) shutdown() error {
	fs.commitMu.Lock()
	defer fs.commitMu.Unlock()
	if err := fs.commitOpen(); err != nil {
		return fs.fail(err)
	}
	j := fs.journal
	if j != nil && j.start != 0 {
		if err := fs.writeHome(fs.logged, false); err != nil {
			return fs.fail(err)
		}
		j.start, j.head = 0, j.first
		// Synced before the superblock says that there is nothing in it.
		if err := errors.Join(fs.writeJournalSuper(j), fs.dev.Sync()); err != nil {
			return fs.fail(err)
		}
	}
	var err error
	if fs.side != nil {
		err = errors.Join(fs.side.Truncate(0), fs.side.Sync())
	}
	if j != nil && fs.flagged {
		// If a crash undoes this, who opens the image next finds the log empty.
		err = fs.writeFlag(fs.diskSuper, false)
		fs.flagged = false
	}
	fs.afterCheckpoint()
	if err == nil && fs.opts.Discard {
		fs.discardFreed()
	}
	return fs.fail(err)
}

// discardFreed gives the storage of blocks back that were freed. The log is empty, so
// nothing brings them back. It is a courtesy: what fails stays for Trim.
func (fs *FS) discardFreed() {
	for g := range fs.discards {
		if _, err := fs.trimGroup(g); err != nil {
			break
		}
	}
	clear(fs.discards)
}
