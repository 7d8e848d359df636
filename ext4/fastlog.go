package ext4

import (
	"errors"
	"slices"
)

// replayFastCommits replays the fast commits of a log, and adds the blocks that they
// change to newest. Unless opened read-only, these blocks become the last transaction of
// the log before anything is written in place.
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

// shortenLog checkpoints the whole log and leaves only the last transaction in it: fast
// commits are valid only after the transaction before theirs.
func (fs *FS) shortenLog(s *logScan, newest map[uint64]logBlock) error {
	if err := fs.writeReplayedInPlace(newest); err != nil {
		return err
	}
	clear(newest) // their blocks of the log will be overwritten
	s.j.start, s.j.sequence = s.lastAt, s.next-1
	return errors.Join(fs.writeJournalSuperblock(s.j), fs.dev.Sync())
}

// logAppender appends a transaction to a log that has to be replayed.
type logAppender struct {
	fs     *FS
	j      *journal
	at     uint32 // next block of the log
	sum    uint32 // of the blocks so far, with checksums of version 1
	number uint32 // of the transaction
}

// errLogFull is returned when the log has no room for the blocks that fast commits change.
var errLogFull = unsupportedf("replaying fast commits without room in the journal for the blocks that they change; run e2fsck, or mount it once")

// appendTransaction adds a transaction to a log that is to be replayed, in the log's own
// format, and makes it durable. errLogFull: there is no room for it.
func (fs *FS) appendTransaction(s *logScan, blocks map[uint64][]byte) error {
	j := s.j
	room := j.blocks - j.first
	if s.next != j.sequence {
		room = (j.start + room - s.end) % room // 0 if the log is full to its last block
	}
	if fs.logBlocksNeeded(j, len(blocks)) > room {
		return errLogFull
	}
	w := &logAppender{fs: fs, j: j, at: s.end, sum: ^uint32(0), number: s.next}
	perDescriptor := fs.tagsPerDescriptor(j)
	for list := sortedBlockNumbers(blocks); len(list) > 0; {
		part := list[:min(len(list), perDescriptor)]
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
	now := fs.now()
	sec := max(now.Unix(), s.last) // commit times must not go back: recovery compares them
	commit := j.newCommitBlock(fs.sb.blockSize, s.next, sec, now.Nanosecond(), w.sum)
	return errors.Join(w.writeBlock(commit[:512]), fs.dev.Sync())
}

// writeBlock writes to the current block of the log.
func (w *logAppender) writeBlock(b []byte) error {
	_, err := w.fs.dev.WriteAt(b, int64(w.j.deviceBlock(w.at))*w.fs.sb.blockSize)
	return err
}

// writeDescriptor writes a descriptor block and the blocks that it lists.
func (w *logAppender) writeDescriptor(list []uint64, blocks map[uint64][]byte) error {
	images := make([][]byte, 0, len(list))
	for _, n := range list {
		images = append(images, slices.Clone(blocks[n]))
	}
	desc := make([]byte, w.fs.sb.blockSize)
	w.j.fillDescriptor(desc, w.number, list, images)
	var err error
	for _, b := range append([][]byte{desc}, images...) {
		if w.j.bodyChecksum {
			w.sum = crc32BigEndian(w.sum, b)
		}
		err = errors.Join(err, w.writeBlock(b))
		w.at = w.j.nextBlock(w.at)
	}
	return err
}
