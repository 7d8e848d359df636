package ext4

import "math"

// Blocks of the log as they are written. Their format is that of include/linux/jbd2.h;
// journal.go has what reads it.

// putHeader begins a block of the log: magic number, kind, and the transaction's number.
func (j *journal) putHeader(b []byte, kind, sequence uint32) {
	be.PutUint32(b, journalMagic)
	be.PutUint32(b[4:], kind)
	be.PutUint32(b[8:], sequence)
}

// putTag writes one entry of a descriptor block.
func (j *journal) putTag(b []byte, t tag) {
	be.PutUint32(b, uint32(t.to))
	if j.incompat&jCsumV3 != 0 {
		be.PutUint32(b[4:], t.flags)
		be.PutUint32(b[12:], t.sum)
	} else {
		be.PutUint16(b[4:], uint16(t.sum))
		be.PutUint16(b[6:], uint16(t.flags))
	}
	if j.incompat&j64bit != 0 {
		be.PutUint32(b[8:], uint32(t.to>>32))
	}
}

// fillDescriptor turns the zeros of desc into the descriptor block of the given blocks;
// images are their new content, which follows it in the log. An image that begins with
// the journal's magic number is escaped in place, so that recovery does not take it for a
// block of the log.
func (j *journal) fillDescriptor(desc []byte, sequence uint32, blocks []uint64, images [][]byte) {
	j.putHeader(desc, jblockDescriptor, sequence)
	off := jHeaderSize
	for k, n := range blocks {
		t := tag{to: n}
		if be.Uint32(images[k]) == journalMagic {
			be.PutUint32(images[k], 0)
			t.flags |= jTagEscaped
		}
		if k > 0 {
			t.flags |= jTagSameUUID
		}
		if k == len(blocks)-1 {
			t.flags |= jTagLast
		}
		t.sum = j.dataChecksum(sequence, images[k])
		j.putTag(desc[off:], t)
		if off += j.tagSize(); k == 0 {
			off += copy(desc[off:], j.rawSuper[jsbUUID:jsbUUID+16])
		}
	}
	if j.blockChecksums {
		be.PutUint32(desc[len(desc)-4:], crc32c(j.seed, desc))
	}
}

// newCommitBlock returns the block that makes a transaction valid. bodySum is the checksum
// of version 1 over all of the transaction's blocks before it.
func (j *journal) newCommitBlock(blockSize int64, sequence uint32, sec int64, nsec int, bodySum uint32) []byte {
	b := make([]byte, blockSize)
	j.putHeader(b, jblockCommit, sequence)
	be.PutUint64(b[48:], uint64(sec))
	be.PutUint32(b[56:], uint32(nsec))
	switch {
	case j.blockChecksums:
		be.PutUint32(b[16:], crc32c(j.seed, b))
	case j.bodyChecksum:
		b[12], b[13] = 1, 4 // JBD2_CRC32_CHKSUM, of 4 bytes
		be.PutUint32(b[16:], bodySum)
	}
	return b
}

// tagsPerDescriptor returns how many blocks one descriptor block can list: after the header
// and the UUID, and before the checksum.
func (fs *FS) tagsPerDescriptor(j *journal) int {
	return (int(fs.sb.blockSize) - jHeaderSize - 4 - 16) / j.tagSize()
}

// logBlocksNeeded returns how many blocks of the log a transaction of n blocks takes:
// themselves, their descriptor blocks, and the commit block.
func (fs *FS) logBlocksNeeded(j *journal, n int) uint32 {
	per := fs.tagsPerDescriptor(j)
	return uint32(n + (n+per-1)/per + 1)
}

// writeJournalSuperblock writes the first sector of the journal's superblock, with the
// start and the sequence number of the log. The caller syncs.
func (fs *FS) writeJournalSuperblock(j *journal) error {
	be.PutUint32(j.rawSuper[jsbSequence:], j.sequence)
	be.PutUint32(j.rawSuper[jsbStart:], j.start)
	if j.blockChecksums {
		be.PutUint32(j.rawSuper[jsbChecksum:], j.superblockChecksum())
	}
	_, err := fs.dev.WriteAt(j.rawSuper[:512], int64(j.deviceBlock(0))*fs.sb.blockSize)
	return err
}

// writeTransactionToLog appends a transaction to the log and makes it durable. The order of
// the writes is what makes it atomic:
//
//  1. the file system's superblock says that the log is in use (needs_recovery);
//  2. descriptor and data blocks are written, and synced with all file data;
//  3. the journal's superblock says where the log begins, if it was empty;
//  4. the commit block is written and synced. From then on recovery replays it.
func (fs *FS) writeTransactionToLog(t *transaction) error {
	j := fs.journal
	if !fs.needsRecovery {
		if err := fs.writeNeedsRecovery(fs.superOnDevice, true); err != nil {
			return err
		}
		fs.needsRecovery = true
	}
	w := fs.newLogWriter(j, j.head, j.sequence, fs.logBlocksNeeded(j, len(t.blocks)))
	commitPos, err := w.writeBody(sortedBlockNumbers(t.blocks), func(n uint64) []byte { return t.blocks[n].data })
	if err != nil {
		return err
	}
	// Not before the sync: a log that is not empty must not outlive the superblock's flag.
	if j.start == 0 {
		j.start = j.first
		if err := fs.writeJournalSuperblock(j); err != nil {
			return err
		}
	}
	if err := w.writeCommitBlock(commitPos, math.MinInt64); err != nil {
		return err
	}
	j.head = commitPos + 1
	j.sequence++
	return nil
}

// logWriter writes one transaction to the log, and collects blocks in order to write many
// at once.
type logWriter struct {
	fs       *FS
	j        *journal
	sequence uint32 // of the transaction
	pos      uint32 // place in the log of the first block in buf
	next     uint32 // place of the block that is added next
	buf      []byte // FS.logBuf
	sum      uint32 // of the blocks so far, with checksums of version 1
}

// newLogWriter returns a writer of a transaction of n blocks of the log from pos on.
// commitMu is held, or the FS is being opened: all log writers use one buffer.
func (fs *FS) newLogWriter(j *journal, pos, sequence, n uint32) *logWriter {
	if need := int(min(int64(n+1)*fs.sb.blockSize, 2*maxWrite)); cap(fs.logBuf) < need {
		fs.logBuf = make([]byte, 0, need)
	}
	return &logWriter{fs: fs, j: j, sequence: sequence, pos: pos, next: pos, buf: fs.logBuf[:0], sum: ^uint32(0)}
}

// writeBody writes the descriptor blocks and the blocks of a transaction, and zeros where
// the commit block goes, whose place in the log it returns. All of them are durable then.
func (w *logWriter) writeBody(list []uint64, content func(n uint64) []byte) (commitPos uint32, err error) {
	perDescriptor := w.fs.tagsPerDescriptor(w.j)
	images := make([][]byte, 0, perDescriptor)
	for len(list) > 0 {
		part := list[:min(len(list), perDescriptor)]
		list = list[len(part):]
		desc := w.addBlock()
		images = images[:0]
		for _, n := range part {
			image := w.addBlock()
			copy(image, content(n))
			images = append(images, image)
		}
		w.j.fillDescriptor(desc, w.sequence, part, images)
		w.j.addToBodyChecksum(&w.sum, desc)
		for _, image := range images {
			w.j.addToBodyChecksum(&w.sum, image)
		}
		if err := w.flushBlocks(false); err != nil {
			return 0, err
		}
	}
	commitPos = w.next
	w.addBlock()
	if err := w.flushBlocks(true); err != nil {
		return 0, err
	}
	return commitPos, w.fs.dev.Sync()
}

// writeCommitBlock writes the commit block, and makes it durable. Its rest is zeros, written
// with the body: a crash leaves one whole sector of it, or none. earliest is the commit time
// of the transaction before, in seconds: recovery compares them, so they must not go back.
func (w *logWriter) writeCommitBlock(pos uint32, earliest int64) error {
	now := w.fs.now()
	commit := w.j.newCommitBlock(w.fs.sb.blockSize, w.sequence, max(now.Unix(), earliest), now.Nanosecond(), w.sum)
	return writeAndSync(w.fs.dev, commit[:512], int64(w.j.deviceBlock(pos))*w.fs.sb.blockSize)
}

// addBlock returns the next block, of zeros, for the caller to fill before flushBlocks.
func (w *logWriter) addBlock() []byte {
	n, end := len(w.buf), len(w.buf)+int(w.fs.sb.blockSize)
	w.buf = w.buf[:end]
	w.next = w.j.nextBlock(w.next)
	b := w.buf[n:end:end]
	clear(b)
	return b
}

// flushBlocks writes the collected blocks when there is no room for another descriptor
// with all its blocks, or always. Blocks that are adjacent on the device are one write.
func (w *logWriter) flushBlocks(always bool) error {
	blockSize := int(w.fs.sb.blockSize)
	if !always && len(w.buf)+(w.fs.tagsPerDescriptor(w.j)+2)*blockSize <= cap(w.buf) {
		return nil
	}
	for b := w.buf; len(b) > 0; {
		n := 1
		at := w.j.deviceBlock(w.pos)
		w.pos = w.j.nextBlock(w.pos)
		for n*blockSize < len(b) && w.j.deviceBlock(w.pos) == at+uint64(n) {
			w.pos = w.j.nextBlock(w.pos)
			n++
		}
		if _, err := w.fs.dev.WriteAt(b[:n*blockSize], int64(at)*int64(blockSize)); err != nil {
			return err
		}
		b = b[n*blockSize:]
	}
	w.buf = w.buf[:0]
	return nil
}
