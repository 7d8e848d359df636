package ext4

import (
	"context"
	"errors"
	"io"
)

// A growth is recorded in the superblock while it runs: its target size, and where an image
// without a journal has a log until then. The next open for writing after a crash finds the
// record, and completes the growth first.
//
// The log has the format of a [SideLog]. It lies in blocks that the growth adds: beyond the
// old end until they are part of the file system, and then in free blocks at its new end. If
// the growth is too small for that, the log lies beyond the new end, on a device that can be
// extended for the time.

// sbGrowMark is the offset of the record in the superblock's first sector. The field
// belongs to a feature that was never merged into Linux (s_snapshot_r_blocks_count).
const sbGrowMark = 0x188

// The bits of a growMark, and the sizes of the log.
const (
	markLogShift = 48
	markBlocks   = 1<<47 - 1 // mask: blocks of the device that the growth fills
	markBehind   = 1 << 47   // the log lies after these blocks, not at their end
	markLogMask  = 1<<14 - 1 // blocks of the log
	markClean    = 1 << 62   // the file system was marked as clean before
	markNoLog    = 1 << 63   // GrowOptions.NoJournal
	leastGrowLog = 128       // blocks, enough for all that one step changes
	mostGrowLog  = 2048      // blocks
)

// growMark is the record of a growth. The zero value means that there is none.
type growMark uint64

// growMark reads the record.
func (s *superblock) growMark() growMark { return growMark(le.Uint64(s.raw[sbGrowMark:])) }

// targetBlocks returns how many blocks the device has once the growth is complete.
func (m growMark) targetBlocks() uint64 { return uint64(m) & markBlocks }

// logRange returns the blocks of the device that hold the log; n is 0 if there is none.
func (m growMark) logRange() (start, n uint64) {
	n = uint64(m) >> markLogShift & markLogMask
	if m&markBehind != 0 {
		return m.targetBlocks(), n
	}
	if n > m.targetBlocks() {
		return 0, 0
	}
	return m.targetBlocks() - n, n
}

// UnfinishedGrow reports whether a growth of the file system on dev was interrupted.
// [Open], for writing, completes it. A growth for which the device is too short now does
// not count: Open forgets it.
func UnfinishedGrow(dev Device) (bool, error) {
	sb, err := readMarkedSuper(dev)
	return sb != nil && sb.canCompleteGrow(deviceSize(dev)), err
}

// canCompleteGrow reports whether a recorded growth can go on, on a device of size bytes
// (0: unknown).
func (s *superblock) canCompleteGrow(size int64) bool {
	m := s.growMark()
	end := int64(m.targetBlocks()) * s.blockSize
	return m.targetBlocks() >= s.blocks && end <= MaxSize && (size == 0 || end <= size)
}

// readMarkedSuper reads a superblock with the record of a growth; nil if it has none.
func readMarkedSuper(dev io.ReaderAt) (*superblock, error) {
	raw := make([]byte, superSize)
	if err := readFull(dev, raw, superOffset); err != nil {
		return nil, err
	}
	if le.Uint16(raw[sbMagic:]) != superMagic || le.Uint64(raw[sbGrowMark:]) == 0 {
		return nil, nil
	}
	sb, err := parseSuperblock(raw, 0)
	if err != nil {
		return nil, nil // Open says why
	}
	return sb, nil
}

// completeGrow completes a growth that a crash interrupted. If it fails, the file system
// is used at its present size: it is in order, and the next open tries again.
func completeGrow(dev Device, opts OpenOptions) error {
	sb, err := readMarkedSuper(dev)
	if sb == nil || err != nil {
		return err
	}
	if sb.canCompleteGrow(opts.Size) {
		m := sb.growMark()
		_, err := Grow(context.Background(), dev, int64(m.targetBlocks())*sb.blockSize,
			GrowOptions{NoJournal: m&markNoLog != 0, Now: opts.Now, SideLog: opts.SideLog})
		if err == nil || !errors.Is(err, errInvalid) {
			return nil
		}
	}
	return forgetGrow(dev, opts)
}

// forgetGrow erases the record of a growth that cannot go on, because the size of the
// device or of the file system has changed since. The transaction in its log is replayed.
func forgetGrow(dev Device, opts OpenOptions) error {
	opts.forGrow = true
	fs, err := Open(dev, opts)
	if err != nil {
		return err
	}
	if err := fs.commitAndEmptyLog(); err != nil {
		return err
	}
	return (&grower{dev: dev, fs: fs}).eraseGrowRecord()
}

// recordGrow records the growth in the superblock, and gives an image without a journal a
// log.
func (g *grower) recordGrow() error {
	sb, old := g.fs.sb, g.fs.sb.growMark()
	raw := append([]byte(nil), sb.raw...)
	state := le.Uint16(raw[sbState:])
	m := growMark(uint64(g.size)/uint64(sb.blockSize)) | old&markClean
	if g.opts.NoJournal {
		m |= markNoLog
	}
	if old == 0 && state&stateClean != 0 {
		m |= markClean
	}
	if g.fs.journal == nil && (g.fs.sideLog == nil || g.fs.sideLogInImage) {
		var err error
		if m, err = g.makeGrowLog(m, old); err != nil {
			return err
		}
		// Until the growth is complete e2fsck has a reason to look at the image.
		le.PutUint16(raw[sbState:], state&^stateClean)
	}
	le.PutUint64(raw[sbGrowMark:], uint64(m))
	return g.switchSuperblock(raw)
}

// makeGrowLog finds a place for the log of an image without a journal, and empties it.
func (g *grower) makeGrowLog(m, old growMark) (growMark, error) {
	blockSize := g.fs.sb.blockSize
	long, have := g.size+mostGrowLog*blockSize, deviceSize(g.dev)
	if n := min(g.spareAddedBlocks(m.targetBlocks()), mostGrowLog); n >= leastGrowLog {
		m |= growMark(n << markLogShift)
	} else if t, ok := g.dev.(truncater); ok && (have == g.size || have == long && old&markBehind != 0) {
		if err := t.Truncate(long); err != nil {
			return 0, err
		}
		m |= mostGrowLog<<markLogShift | markBehind
		g.deviceExtended = true
	} else {
		return m, nil
	}
	start, _ := m.logRange()
	return m, writeAndSync(g.dev, make([]byte, sideHead), int64(start)*blockSize)
}

// spareAddedBlocks returns how many blocks at the end of a device of end blocks the growth
// adds and does not use itself.
func (g *grower) spareAddedBlocks(end uint64) uint64 {
	sb := g.fs.sb
	from := sb.blocks
	if k := sb.groupsForBlocks(g.blocks) - 1; g.blocks > sb.blocks && k >= sb.groups {
		from = sb.groupStart(k) + g.minLastGroupBlocks(k) - leastFree
	}
	return end - min(from, end)
}

// eraseGrowRecord erases the record of the growth once everything is done.
func (g *grower) eraseGrowRecord() error {
	m := g.fs.sb.growMark()
	if t, ok := g.dev.(truncater); ok && g.deviceExtended {
		if err := t.Truncate(g.size); err != nil {
			return err
		}
	}
	raw := append([]byte(nil), g.fs.sb.raw...)
	if m&markClean != 0 {
		le.PutUint16(raw[sbState:], le.Uint16(raw[sbState:])|stateClean)
	}
	clear(raw[sbGrowMark:][:8])
	return g.switchSuperblock(raw)
}

// findGrowLog returns the log inside the image that its superblock records; nil if none.
func (fs *FS) findGrowLog() SideLog {
	start, n := fs.sb.growMark().logRange()
	blockSize := uint64(fs.sb.blockSize)
	if n == 0 || fs.size > 0 && (start+n)*blockSize > uint64(fs.size) {
		return nil
	}
	return &logInImage{fs.dev, int64(start * blockSize), int64(n * blockSize)}
}

// logInImage is a SideLog in a range of the image.
type logInImage struct {
	dev       Device
	off, size int64
}

// ReadAt implements io.ReaderAt; reads do not leave the range.
func (l *logInImage) ReadAt(p []byte, off int64) (int, error) {
	n := max(min(int64(len(p)), l.size-off), 0)
	got, err := l.dev.ReadAt(p[:n], l.off+off)
	if err == nil && got < len(p) {
		err = io.EOF
	}
	return got, err
}

// WriteAt implements io.WriterAt; ENOSPC beyond the range.
func (l *logInImage) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > l.size {
		return 0, errNoSpace
	}
	return l.dev.WriteAt(p, l.off+off)
}

func (l *logInImage) Sync() error { return l.dev.Sync() }

// Truncate empties the log by zeroing its header.
func (l *logInImage) Truncate(int64) error {
	_, err := l.dev.WriteAt(make([]byte, sideHead), l.off)
	return err
}
