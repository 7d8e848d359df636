package ext4

import "errors"

// Linux requires a journal of 1024 blocks, for which the smallest images have no room. If all
// writers of such an image agree on a file beside it, that file replaces the journal: a
// transaction is written there, and synced, before it is written in place, and the next open
// writes it in place again after a crash.
//
// The file holds one transaction: a sector that says how many blocks there are and has
// a checksum of all that follows, and from byte 4096 on their numbers (8 bytes each)
// and their content. Numbers are little-endian. The checksum tells a transaction that
// was written as a whole from one that was not, or has been partly written over.

// SideLog is a log outside of an image that has no journal, most often an [*os.File]. It
// must be given whenever the image is opened, and must be empty before anything other than
// this package writes to the image; [FS.Close] empties it.
type SideLog interface {
	Device
	Truncate(size int64) error
}

// The format of a side log. maxSide bounds one transaction, and with it the memory for a
// replay.
const (
	sideMagic = "ext4side"
	sideBody  = 4096
	sideHead  = 512
	maxSide   = 64 << 20 // bytes of one transaction
)

// replaySideLog replays the transaction in the side log, if there is one, and makes the
// side log the log of this FS if it has no journal.
func (fs *FS) replaySideLog() error {
	log, err := fs.findSideLog()
	if log == nil || err != nil {
		return err
	}
	blocks, err := fs.readSideLog(log)
	if err != nil {
		return err
	}
	if err := fs.writeSideBlocksInPlace(log, blocks); err != nil {
		return err
	}
	if !fs.opts.ReadOnly && !fs.usesJournal() && (!fs.sideLogInImage || fs.opts.forGrow) {
		fs.sideLog = log
	}
	return nil
}

// findSideLog returns the log that stands in for a journal, or nil: that of an unfinished
// growth, inside the image, or the one beside the image.
func (fs *FS) findSideLog() (SideLog, error) {
	if log := fs.findGrowLog(); log != nil {
		fs.sideLogInImage = true
		return log, nil
	}
	if fs.opts.SideLog == nil {
		return nil, nil
	}
	return fs.opts.SideLog()
}

// writeSideBlocksInPlace writes the blocks of a side log's transaction to their places and
// empties the side log. Read-only, it keeps them in memory.
func (fs *FS) writeSideBlocksInPlace(log SideLog, blocks map[uint64][]byte) (err error) {
	if len(blocks) == 0 {
		return nil
	}
	if fs.opts.ReadOnly {
		if fs.replayedBlocks == nil {
			fs.replayedBlocks = map[uint64]logBlock{}
		}
		for n, data := range blocks {
			fs.replayedBlocks[n] = logBlock{data: data}
			fs.cache.replaceBlock(n, nil)
		}
	} else {
		for _, n := range sortedBlockNumbers(blocks) {
			if _, err := fs.dev.WriteAt(blocks[n], int64(n)*fs.sb.blockSize); err != nil {
				return err
			}
		}
		if err := errors.Join(fs.dev.Sync(), log.Truncate(0), log.Sync()); err != nil {
			return err
		}
	}
	raw, ok := blocks[fs.sb.superblockNumber()]
	if !ok {
		return nil
	}
	fs.sb, err = parseSuperblock(raw[fs.sb.superblockOffset():][:superSize], fs.size)
	return err
}

// readSideLog returns the blocks of the transaction in a side log. An incomplete one
// counts as none.
func (fs *FS) readSideLog(log SideLog) (map[uint64][]byte, error) {
	head := make([]byte, sideHead)
	if err := readFull(log, head, 0); err != nil {
		return nil, err
	}
	n, blockSize := int64(le.Uint32(head[8:])), fs.sb.blockSize
	size := n * (8 + blockSize)
	if string(head[:8]) != sideMagic || n == 0 || size > maxSide {
		return nil, nil
	}
	if in, ok := log.(*logInImage); ok && size > in.size-sideBody {
		return nil, nil
	}
	body := make([]byte, size)
	if err := readFull(log, body, sideBody); err != nil {
		return nil, err
	}
	if crc32c(fs.sideLogSeed(head), body) != le.Uint32(head[12:]) {
		return nil, nil
	}
	blocks := make(map[uint64][]byte, n)
	for i := range n {
		at := le.Uint64(body[8*i:])
		if at >= fs.sb.blocks {
			return nil, corruptf("the side log has block %d, which does not exist", at)
		}
		blocks[at] = body[8*n+blockSize*i:][:blockSize:blockSize]
	}
	return blocks, nil
}

// sideLogSeed begins the checksum of a side log with the identity of the file system. For
// a log inside the image it includes fields that Linux changes at mount: once another
// system has used the file system, the log must not be replayed.
func (fs *FS) sideLogSeed(head []byte) uint32 {
	raw := fs.sb.raw
	c := crc32c(crc32c(^uint32(0), raw[sbUUID:sbUUID+16]), head[:12])
	if !fs.sideLogInImage {
		return c
	}
	for _, f := range []struct{ at, n int }{{sbMtime, 4}, {sbMountCount, 2}, {sbState, 2}, {sbLastCheck, 4}} {
		c = crc32c(c, raw[f.at:f.at+f.n])
	}
	return c
}

// writeSideLog makes a transaction durable in the side log: body first, then the header
// with its checksum. Neither is ordered before the other; a torn write fails the checksum.
func (fs *FS) writeSideLog(t *transaction) error {
	list, blockSize := sortedBlockNumbers(t.blocks), int(fs.sb.blockSize)
	n := len(list)
	body := make([]byte, n*(8+blockSize))
	for i, at := range list {
		le.PutUint64(body[8*i:], at)
		copy(body[8*n+blockSize*i:], t.blocks[at].data)
	}
	head := make([]byte, sideHead)
	copy(head, sideMagic)
	le.PutUint32(head[8:], uint32(n))
	le.PutUint32(head[12:], crc32c(fs.sideLogSeed(head), body))
	if t.hasData {
		if err := fs.dev.Sync(); err != nil {
			return err
		}
	}
	if _, err := fs.sideLog.WriteAt(body, sideBody); err != nil {
		return err
	}
	return writeAndSync(fs.sideLog, head, 0)
}
