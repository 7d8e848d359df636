package ext4

import "errors"

// replayFastCommits replays the fast commits of a log, and adds the blocks that they change
// to the newest versions of blocks. Unless the file system is opened read-only, these become
// the last transaction of the log before anything is written to its place.
func (fs *FS) replayFastCommits(s *logScan, newest map[uint64]logBlock) error {
	tags, err := fs.readFastCommits(s.j, s.next)
	if len(tags) == 0 || err != nil {
		return err
	}
	changed, err := fs.replayFastTags(tags, newest, s.last)
	if err != nil {
		return err
	}
	if !fs.opts.ReadOnly && len(changed) > 0 {
		err := fs.appendTransaction(s, changed)
		if errors.Is(err, errLogFull) && s.lastAt != s.j.start {
			if err = fs.shortenLog(s, newest); err == nil {
				err = fs.appendTransaction(s, changed)
			}
		}
		if err != nil {
			return err
		}
		s.next++
	}
	for n, data := range changed {
		newest[n] = logBlock{data: data}
	}
	return nil
}

// shortenLog checkpoints all that is in a log and leaves the last transaction in it, because
// fast commits are valid only after the transaction before theirs.
func (fs *FS) shortenLog(s *logScan, newest map[uint64]logBlock) error {
	if err := fs.writeReplayedInPlace(newest); err != nil {
		return err
	}
	clear(newest) // their blocks of the log will be overwritten
	s.j.start, s.j.sequence = s.lastAt, s.next-1
	return errors.Join(fs.writeJournalSuperblock(s.j), fs.dev.Sync())
}

// logAppender appends a transaction to a log that is to be replayed.
type logAppender struct {
	fs     *FS
	j      *journal
	at     uint32 // next block of the log
	sum    uint32 // of the blocks so far, with checksums of version 1
	number uint32 // of the transaction
}

var errLogFull = unsupportedf("a journal with fast commits to be replayed and no room for what they change; run e2fsck, or mount it once")

// appendTransaction adds a transaction to a log, in the form that the log has.
func (fs *FS) appendTransaction(s *logScan, blocks map[uint64][]byte) error {
	j := s.j
	room := j.blocks - j.first
	if s.next != j.sequence {
		room = (j.start + room - s.end) % room // 0 if the log is full to its last block
	}
	per := (int(fs.sb.blockSize) - jHeaderSize - 4 - 16) / j.tagSize()
	if need := len(blocks) + (len(blocks)+per-1)/per + 1; need > int(room) {
		return errLogFull
	}
	w := &logAppender{fs: fs, j: j, at: s.end, sum: ^uint32(0), number: s.next}
	for list := sortedBlockNumbers(blocks); len(list) > 0; {
		part := list[:min(len(list), per)]
		list = list[len(part):]
		if err := w.writeDescriptor(part, blocks); err != nil {
			return err
		}
	}
	// Only the first sector of the commit block counts, and a sector is written as a whole
	// or not at all; the rest is zeroed before.
	if err := errors.Join(w.writeBlock(make([]byte, fs.sb.blockSize)), fs.dev.Sync()); err != nil {
		return err
	}
	return errors.Join(w.writeBlock(w.newCommitBlock(s.last)[:512]), fs.dev.Sync())
}

// writeBlock writes to the next block of the log.
func (w *logAppender) writeBlock(b []byte) error {
	_, err := w.fs.dev.WriteAt(b, int64(w.j.deviceBlock(w.at))*w.fs.sb.blockSize)
	return err
}

func (w *logAppender) newHeaderBlock(kind uint32) []byte {
	b := make([]byte, w.fs.sb.blockSize)
	be.PutUint32(b, journalMagic)
	be.PutUint32(b[4:], kind)
	be.PutUint32(b[8:], w.number)
	return b
}

// writeDescriptor writes a descriptor and the blocks that it lists.
func (w *logAppender) writeDescriptor(list []uint64, blocks map[uint64][]byte) error {
	j, desc, off := w.j, w.newHeaderBlock(jblockDescriptor), jHeaderSize
	images := make([][]byte, 0, len(list))
	for k, n := range list {
		data, t := append([]byte(nil), blocks[n]...), tag{to: n}
		if be.Uint32(data) == journalMagic {
			be.PutUint32(data, 0)
			t.flags |= jTagEscaped
		}
		if k > 0 {
			t.flags |= jTagSameUUID
		}
		if k == len(list)-1 {
			t.flags |= jTagLast
		}
		t.sum = j.dataChecksum(w.number, data)
		j.putTag(desc[off:], t)
		if off += j.tagSize(); k == 0 {
			copy(desc[off:], j.rawSuper[jsbUUID:jsbUUID+16])
			off += 16
		}
		images = append(images, data)
	}
	if j.blockChecksums {
		be.PutUint32(desc[len(desc)-4:], crc32c(j.seed, desc))
	}
	var err error
	for _, b := range append([][]byte{desc}, images...) {
		if j.bodyChecksum {
			w.sum = crc32BigEndian(w.sum, b)
		}
		err = errors.Join(err, w.writeBlock(b))
		w.at = j.nextBlock(w.at)
	}
	return err
}

// newCommitBlock returns the block that makes the transaction valid. last is the time of the
// transaction before, which it must not precede.
func (w *logAppender) newCommitBlock(last int64) []byte {
	b := w.newHeaderBlock(jblockCommit)
	now := w.fs.now()
	be.PutUint64(b[48:], uint64(max(now.Unix(), last)))
	be.PutUint32(b[56:], uint32(now.Nanosecond()))
	switch {
	case w.j.blockChecksums:
		be.PutUint32(b[16:], crc32c(w.j.seed, b))
	case w.j.bodyChecksum:
		b[12], b[13] = 1, 4
		be.PutUint32(b[16:], w.sum)
	}
	return b
}

// putTag writes an entry of a descriptor.
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
