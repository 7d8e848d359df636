package ext4

import (
	"errors"
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
	need := fs.logBlocksNeeded(j, len(blocks))
	if need > room {
		return errLogFull
	}
	w := fs.newLogWriter(j, s.end, s.next, need)
	commitPos, err := w.writeBody(sortedBlockNumbers(blocks), func(n uint64) []byte { return blocks[n] })
	if err != nil {
		return err
	}
	return w.writeCommitBlock(commitPos, s.last)
}
