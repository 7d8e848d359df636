package ext4

import (
	"errors"
	"math"
)

// logBlock is a version of a block that is newer than the one in place: in the log, or in
// memory.
type logBlock struct {
	block   uint64 // on the device
	escaped bool   // begins with the journal's magic number, which the log replaces by 0
	data    []byte // its content, if it comes from a side log or from fast commits instead
}

// readLoggedVersion reads a version of a block that is newer than the one in place.
func (fs *FS) readLoggedVersion(l logBlock, data []byte) error {
	if l.data != nil {
		copy(data, l.data)
		return nil
	}
	if err := readFull(fs.dev, data, int64(l.block)*fs.sb.blockSize); err != nil {
		return err
	}
	if l.escaped {
		be.PutUint32(data, journalMagic)
	}
	return nil
}

// logScan is the result of reading a log.
type logScan struct {
	j       *journal
	newest  map[uint64]loggedVersion
	revoked map[uint64]uint32 // block to the last sequence number that revokes it
	next    uint32            // sequence number after the last transaction
	unsound map[uint64]uint32 // block to the last sequence number that has no sound version of it
	last    int64             // commit time of the last transaction, in seconds
	lastAt  uint32            // block of the log where that begins; of an empty one, its start
	end     uint32            // block of the log after it
}

// loggedVersion is the place in the log of a version of a block.
type loggedVersion struct {
	at       uint32 // block of the log
	sequence uint32
	escaped  bool
}

// replayJournal brings the file system to the state of the last complete transaction in
// the log: on the device or, read-only, in memory. Like Linux it reads the log up to the
// first block that is not part of a complete transaction, then the fast commits.
func (fs *FS) replayJournal(force bool) error {
	j, err := fs.openJournal()
	if err != nil {
		return err
	}
	if j.start == 0 {
		return fs.finishReplay(j, nil, 0)
	}
	s, err := fs.scanLog(j)
	if err != nil {
		return err
	}
	newest := map[uint64]logBlock{}
	for n, l := range s.newest {
		newest[n] = logBlock{block: j.deviceBlock(l.at), escaped: l.escaped}
	}
	if err := fs.replayFastCommits(s, newest); err != nil {
		return err
	}
	return fs.finishReplay(j, newest, s.next)
}

// finishReplay applies the newest versions of blocks that a replay found: read-only they stay
// in memory; otherwise they are written in place and the log is emptied. next is the sequence
// number after the last transaction. newest is nil for a log that was empty.
func (fs *FS) finishReplay(j *journal, newest map[uint64]logBlock, next uint32) error {
	fs.cache.blocks = map[uint64]*block{}
	fs.cache.cleanCount = 0
	if fs.opts.ReadOnly {
		if newest == nil {
			return nil
		}
		fs.replayedBlocks = newest
		return fs.reloadSuperblock()
	}
	if newest != nil {
		if err := fs.writeReplayedInPlace(newest); err != nil {
			return err
		}
		j.start, j.sequence = 0, next+1
		// Synced before replayed blocks can be overwritten.
		if err := errors.Join(fs.writeJournalSuperblock(j), fs.dev.Sync()); err != nil {
			return err
		}
	}
	return fs.reloadSuperblock()
}

// writeReplayedInPlace copies blocks from the log to their places. The superblock is the
// last, and keeps the flag needs_recovery: until the log is emptied a crash must lead to
// another replay.
func (fs *FS) writeReplayedInPlace(newest map[uint64]logBlock) error {
	super := fs.sb.superblockNumber()
	buf := make([]byte, fs.sb.blockSize)
	put := func(n uint64) error {
		if err := fs.readLoggedVersion(newest[n], buf); err != nil {
			return err
		}
		if n != super {
			_, err := fs.dev.WriteAt(buf, int64(n)*fs.sb.blockSize)
			return err
		}
		// The flag must stay until the log is empty.
		raw := buf[fs.sb.superblockOffset():][:superSize]
		sb, err := parseSuperblock(raw, fs.size)
		if err != nil {
			return err
		}
		le.PutUint32(raw[sbIncompat:], le.Uint32(raw[sbIncompat:])|incompatRecover)
		sb.setChecksum(raw)
		_, err = fs.dev.WriteAt(raw, superOffset)
		return err
	}
	for _, n := range sortedBlockNumbers(newest) {
		if n != super {
			if err := put(n); err != nil {
				return err
			}
		}
	}
	if err := fs.dev.Sync(); err != nil {
		return err
	}
	if _, ok := newest[super]; ok {
		if err := put(super); err != nil {
			return err
		}
	}
	return fs.dev.Sync()
}

// reloadSuperblock reads the superblock again after a replay. If it still is damaged, the
// backup that was found stays in use.
func (fs *FS) reloadSuperblock() error {
	buf := make([]byte, fs.sb.blockSize)
	if err := fs.readBlockUncached(fs.sb.superblockNumber(), buf); err != nil {
		return err
	}
	sb, err := parseSuperblock(buf[fs.sb.superblockOffset():][:superSize], fs.size)
	if err != nil {
		if isCorrupt(err) {
			return nil
		}
		return err
	}
	if sb.blockSize != fs.sb.blockSize {
		return corruptf("the superblock in the log has another block size")
	}
	fs.sb = sb
	if fs.opts.allowDamaged {
		return nil
	}
	return fs.checkMayOpen()
}

// scanLog reads the log and finds the newest version of each block in it, minding revokes.
func (fs *FS) scanLog(j *journal) (*logScan, error) {
	scan := &logScan{
		j: j, newest: map[uint64]loggedVersion{}, revoked: map[uint64]uint32{}, unsound: map[uint64]uint32{},
		next: j.sequence, last: math.MinInt64, lastAt: j.start,
	}
	pos, budget := j.start, int(j.blocks)+1
	for {
		txn, after, err := fs.scanTransaction(scan, pos, &budget)
		if err == nil && txn != nil && txn.badChecksum {
			err = fs.checkAfterBadTransaction(scan, after, &budget)
			txn = nil
		}
		if err != nil {
			return nil, err
		}
		if txn == nil {
			break
		}
		for _, b := range txn.revoked {
			scan.revoked[b] = scan.next
		}
		if len(scan.revoked) > maxRevokes {
			return nil, unsupportedf("a journal that revokes more than %d blocks; run e2fsck", maxRevokes)
		}
		for n, l := range txn.blocks {
			scan.newest[n] = l
		}
		for _, n := range txn.unsound {
			scan.unsound[n] = scan.next
		}
		if len(scan.newest)+len(scan.unsound) > maxLogged {
			return nil, unsupportedf("a journal with more than %d blocks to be replayed; run e2fsck", maxLogged)
		}
		scan.next++
		scan.lastAt, pos = pos, after
	}
	scan.end = pos
	for n, sequence := range scan.unsound {
		if r, ok := scan.revoked[n]; !ok || int32(sequence-r) > 0 {
			return nil, corruptf("block %d in transaction %d of the journal has a wrong checksum", n, sequence)
		}
	}
	// A block is not replayed from a transaction that is not newer than its revocation.
	for n, l := range scan.newest {
		if r, ok := scan.revoked[n]; ok && int32(l.sequence-r) <= 0 {
			delete(scan.newest, n)
		}
	}
	return scan, nil
}

// logTransaction is a transaction as it is read from the log.
type logTransaction struct {
	blocks      map[uint64]loggedVersion
	revoked     []uint64
	unsound     []uint64 // blocks whose logged version has a wrong checksum: fine if revoked later
	sum         uint32   // of version 1
	badChecksum bool     // a checksum is wrong, which with asynchronous commits is the end of the log
}

// checkAfterBadTransaction judges a log with asynchronous commits in which a transaction
// has a wrong checksum. It is the end of the log, except with checksums of version 1 and
// another transaction after it: then jbd2 takes it for damage.
func (fs *FS) checkAfterBadTransaction(s *logScan, after uint32, budget *int) error {
	if !s.j.bodyChecksum {
		return nil
	}
	s.next++
	txn, _, err := fs.scanTransaction(s, after, budget)
	s.next--
	if err == nil && txn != nil {
		err = corruptf("transaction %d in the journal has a wrong checksum", s.next)
	}
	return err
}

// scanTransaction reads the transaction with sequence number s.next from block pos of the
// log on. It returns nil if the log has no complete one there. budget bounds the blocks
// read.
func (fs *FS) scanTransaction(s *logScan, pos uint32, budget *int) (*logTransaction, uint32, error) {
	j, t := s.j, &logTransaction{blocks: map[uint64]loggedVersion{}, sum: ^uint32(0)}
	buf, data := make([]byte, fs.sb.blockSize), make([]byte, fs.sb.blockSize)
	doubt := false // a checksum was wrong: damage, unless the transaction was not committed
	for ; *budget > 0; pos = j.nextBlock(pos) {
		*budget--
		if err := fs.readLogBlock(j, pos, buf); err != nil {
			return nil, 0, err
		}
		// Blocks of an older round of the log have other sequence numbers.
		if be.Uint32(buf) != journalMagic || be.Uint32(buf[8:]) != s.next {
			return nil, 0, nil
		}
		switch be.Uint32(buf[4:]) {
		case jblockDescriptor:
			doubt = doubt || !j.verifyTailChecksum(buf)
			j.addToBodyChecksum(&t.sum, buf)
			for _, tg := range j.parseTags(buf) {
				pos = j.nextBlock(pos)
				if *budget--; *budget <= 0 {
					return nil, 0, nil
				}
				if err := fs.readLogBlock(j, pos, data); err != nil {
					return nil, 0, err
				}
				if j.blockChecksums && j.dataChecksum(s.next, data) != tg.sum || tg.to >= fs.sb.blocks {
					t.unsound = append(t.unsound, tg.to)
				}
				j.addToBodyChecksum(&t.sum, data)
				t.blocks[tg.to] = loggedVersion{pos, s.next, tg.flags&jTagEscaped != 0}
			}
		case jblockRevoke:
			doubt = doubt || !j.verifyTailChecksum(buf)
			list, err := j.parseRevokes(buf)
			doubt = doubt || err != nil
			if t.revoked = append(t.revoked, list...); len(t.revoked) > maxRevokes {
				return nil, 0, unsupportedf("a journal that revokes more than %d blocks; run e2fsck", maxRevokes)
			}
		case jblockCommit:
			return fs.scanCommitBlock(s, t, buf, doubt, j.nextBlock(pos))
		default:
			return nil, 0, nil
		}
	}
	return nil, 0, nil
}

// scanCommitBlock decides whether a transaction that ends with this commit block is valid.
// doubt: a checksum before it was wrong.
func (fs *FS) scanCommitBlock(s *logScan, t *logTransaction, commit []byte, doubt bool, after uint32) (*logTransaction, uint32, error) {
	when := int64(be.Uint64(commit[48:])) // in seconds, as jbd2 compares them
	sealed := s.j.verifyCommitChecksum(commit) && s.j.verifyBodyChecksum(t.sum, commit)
	switch {
	case (doubt || !sealed) && (s.j.blockChecksums || s.j.bodyChecksum) && when < s.last:
		return nil, 0, nil // left over from an older round of the log
	case !doubt && !sealed && s.j.incompat&jAsyncCommit != 0:
		t.badChecksum = true
		return t, after, nil
	case doubt || !sealed:
		return nil, 0, corruptf("transaction %d in the journal has a wrong checksum", s.next)
	}
	s.last = when
	return t, after, nil
}
