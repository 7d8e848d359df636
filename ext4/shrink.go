package ext4

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// ShrinkOptions says how to make an image smaller. The zero value cuts all that can be
// cut.
type ShrinkOptions struct {
	// Least is the size in bytes below which the file system is not made, rounded up
	// to 4 KiB. It is never made smaller than MinSize.
	Least int64
	// Now tells the time. Default: time.Now.
	Now func() time.Time
}

// ShrinkToFit cuts off what is free at the end of the image, and returns how large the
// image is then in bytes. Nothing is moved: the image ends after the last block that is
// in use, so a file at the end keeps it as long as it is. Groups of 128 MiB without a
// file go as a whole when nothing before them belongs to them; of those that mke2fs
// made, 16 by 16. At least as many groups stay as the table of descriptors has blocks
// that cannot be taken away: all but 64 times the number of them where there is
// meta_bg, or no resize_inode. Take [FS.Trim] for free space before the end.
//
// If the device has a method Truncate(size int64) error, as an [*os.File], it gets the
// size returned. Nobody may have the image open. What [Grow] says of crashes, and of
// errors, holds here too.
func ShrinkToFit(ctx context.Context, dev Device, opts ShrinkOptions) (int64, error) {
	s := &shrinker{grower: grower{ctx: ctx, dev: dev, opts: GrowOptions{Now: opts.Now, NoJournal: true}, shrink: true}}
	if err := s.shrink(opts.Least); err != nil {
		return 0, fmt.Errorf("shrinking: %w", err)
	}
	return int64(s.blocks) * defaultBlock, nil
}

// ShrunkSize returns how large [ShrinkToFit] would make the image now, in bytes.
func (fs *FS) ShrunkSize() (int64, error) {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	if fs.closed {
		return 0, errClosed
	}
	if err := resizable(fs.sb); err != nil {
		return 0, err
	}
	_, blocks, err := fs.cut(MinSize / defaultBlock)
	return int64(blocks) * defaultBlock, err
}

// shrinker makes an image smaller, by the steps of a grower, backwards.
type shrinker struct{ grower }

func (s *shrinker) shrink(least int64) error {
	if err := s.open(); err != nil {
		return err
	}
	defer func() { s.fs.abandon() }()
	if err := resizable(s.fs.sb); err != nil {
		return err
	}
	if err := s.giveUpGrowth(); err != nil {
		return err
	}
	sb := s.fs.sb
	groups, blocks, err := s.fs.cut(uint64(max(least, MinSize)+defaultBlock-1) / defaultBlock)
	if err != nil {
		return err
	}
	s.blocks, s.kept = blocks, sb.reserved
	s.room = sb.descBlocks() + sb.reserved
	for s.fs.sb.groups > groups {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		if err := s.dropGroups(groups); err != nil {
			return err
		}
	}
	for _, step := range []func() error{s.cutTail, s.keepAgain, s.fixOverhead, s.refreshBackups, s.truncate} {
		if err := step(); err != nil {
			return err
		}
	}
	return s.fs.Close()
}

// giveUpGrowth ends the record of a growth that opening the image could not complete:
// every later open would try again, and take back what was cut off.
func (s *shrinker) giveUpGrowth() error {
	if s.fs.sb.growMark() == 0 {
		return nil
	}
	if err := s.unmark(); err != nil {
		return err
	}
	return s.reopen()
}

// cut returns with how many groups, and blocks, the file system can do, of which there
// shall be at least some.
func (fs *FS) cut(least uint64) (groups uint32, blocks uint64, err error) {
	sb := fs.sb
	groups = sb.groups
	var away []run // metadata of groups that go, in groups before them
	for k := sb.groups - 1; k >= fs.firstToGo() && sb.groupStart(k) >= least; k-- {
		d, err := fs.desc(k)
		if err != nil {
			return 0, 0, err
		}
		own := make([]byte, sb.blockSize)
		fs.initialBitmap(k, d, own)
		away = sb.markAway(k, d, own, away)
		in, err := fs.inUse(k, d, own)
		if err != nil {
			return 0, 0, err
		}
		if in {
			break
		}
		if len(away) == 0 {
			groups = k
		}
	}
	return groups, fs.lastUse(groups, least), nil
}

// firstToGo returns the first group that could be cut off.
func (fs *FS) firstToGo() uint32 {
	sb := fs.sb
	stay := sb.descBlocks() - 1
	switch {
	case sb.metaBG != ^uint32(0):
		stay = max(min(sb.metaBG, sb.descBlocks()), 1) - 1
	case sb.compat&compatResizeInode != 0:
		stay = 0
	}
	return stay*sb.descsPerBlock() + 1
}

// markAway adds to the list of metadata that lies before its group that of group k, and
// takes out of it, and marks in the bitmap, what lies in k.
func (s *super) markAway(k uint32, d desc, own []byte, away []run) []run {
	away = append(slices.Clone(away), run{d.blockBitmap(), 1}, run{d.inodeBitmap(), 1}, run{d.inodeTable(), uint32(s.tableBlocks())})
	lo := s.groupStart(k)
	left := away[:0]
	for _, r := range away {
		a, b := max(r.start, lo), min(r.start+uint64(r.n), lo+uint64(s.perGroup))
		if a < b {
			setBits(own, a-lo, b-a)
		}
		if r.start < lo {
			left = append(left, r)
		}
	}
	return left
}

// inUse reports whether a group has a file, or a block in use that is not in a bitmap.
func (fs *FS) inUse(k uint32, d desc, own []byte) (bool, error) {
	if d.freeInodes() != fs.sb.inodesPer {
		return true, nil
	}
	b, err := fs.readBitmap(k, d, false)
	if err != nil || b == nil {
		return false, err
	}
	for i := range b {
		if b[i]&^own[i] != 0 {
			return true, nil
		}
	}
	return false, nil
}

// leastGroup is how many blocks a last group keeps that has nothing in use.
const leastGroup = 64

// lastUse returns where a file system of so many groups can end, but not below least.
func (fs *FS) lastUse(groups uint32, least uint64) uint64 {
	sb := fs.sb
	k := groups - 1
	end := sb.groupStart(k) + uint64(sb.groupLen(k))
	d, err := fs.desc(k)
	if err != nil {
		return end
	}
	m, err := fs.freeMap(k, d)
	if err != nil {
		return end
	}
	used := uint32(leastGroup)
	for at := m.next(0, true); at < m.len; {
		used = max(used, m.next(at, false))
		at = m.next(used, true)
	}
	return min(max(sb.groupStart(k)+uint64(used), least), end)
}

// dropGroups cuts off groups until there are so many, or as many as one step can.
func (s *shrinker) dropGroups(groups uint32) error {
	sb := s.fs.sb
	per := sb.descsPerBlock()
	if sb.metaBG == ^uint32(0) && sb.compat&compatResizeInode != 0 {
		need := (groups + per - 1) / per
		if need < sb.descBlocks() {
			// The blocks of descriptors that fall free are kept, but not listed.
			if err := s.keepBare(0); err != nil {
				return err
			}
			groups = max(groups, (sb.descBlocks()-min(keptBare, sb.descBlocks()-1))*per)
		} else if s.newCopies(groups, sb.groups) {
			if err := s.keepBare(min(keptBare, sb.reserved)); err != nil {
				return err
			}
		}
	}
	// e2fsck wants a bitmap of the last group, even if it follows from the descriptor.
	if err := s.materialize(groups - 1); err != nil {
		return err
	}
	sb = s.fs.sb
	raw := slices.Clone(sb.raw)
	putBlocks(raw, sb, uint64(groups)*defaultPer)
	le.PutUint32(raw[sbInodes:], groups*sb.inodesPer)
	if need := (groups + per - 1) / per; sb.metaBG == ^uint32(0) && need < sb.descBlocks() {
		le.PutUint16(raw[sbReservedGDT:], uint16(sb.reserved+sb.descBlocks()-need))
	}
	free := s.fs.counters
	for k := groups; k < sb.groups; k++ {
		d, err := s.fs.desc(k)
		if err != nil {
			return err
		}
		free.freeBlocks -= uint64(d.freeBlocks())
		free.freeInodes -= d.freeInodes()
	}
	putFree(raw, sb, free)
	return s.switchSuper(raw)
}

// putBlocks puts the number of blocks into a superblock, and has no more than half of
// them kept for root.
func putBlocks(raw []byte, sb *super, n uint64) {
	reserved := min(sb.count64(sbReservedLo, sbReservedHi), n/2)
	le.PutUint32(raw[sbBlocksLo:], uint32(n))
	le.PutUint32(raw[sbReservedLo:], uint32(reserved))
	if sb.incompat&incompat64bit != 0 {
		le.PutUint32(raw[sbBlocksHi:], uint32(n>>32))
		le.PutUint32(raw[sbReservedHi:], uint32(reserved>>32))
	}
}

// putFree puts the counts of what is free into a superblock.
func putFree(raw []byte, sb *super, c counters) {
	le.PutUint32(raw[sbFreeBlocksLo:], uint32(c.freeBlocks))
	if sb.incompat&incompat64bit != 0 {
		le.PutUint32(raw[sbFreeBlocksHi:], uint32(c.freeBlocks>>32))
	}
	le.PutUint32(raw[sbFreeInodes:], c.freeInodes)
}

// cutTail cuts off the free end of the last group.
func (s *shrinker) cutTail() error {
	sb := s.fs.sb
	if s.blocks >= sb.blocks {
		return nil
	}
	last := sb.groups - 1
	from, n := uint32(s.blocks-sb.groupStart(last)), uint32(sb.blocks-s.blocks)
	if s.fs.journal == nil {
		own, err := s.ownMap(last)
		if err != nil {
			return err
		}
		if own {
			return s.cutBareTail(last, from, n)
		}
	}
	return s.change(func(fs *FS) error {
		if err := fs.markUsed(last, from, n); err != nil {
			return err
		}
		putBlocks(fs.sb.raw, fs.sb, s.blocks)
		fs.sb.blocks = s.blocks
		return nil
	})
}

// cutBareTail is cutTail for an image without a log: first all of the tail counts as in
// use, which is a loss of space and no more, then it goes. The new bitmap needs a free
// block that stays, so one more than the least does.
func (s *shrinker) cutBareTail(last, from, n uint32) error {
	if n < 2 {
		s.blocks = s.fs.sb.blocks
		return nil
	}
	if err := s.claimBareTail(last, from, n); err != nil {
		return err
	}
	raw := slices.Clone(s.fs.sb.raw)
	putBlocks(raw, s.fs.sb, s.blocks)
	return s.switchCounted(raw)
}

// claimBareTail marks n blocks as used, the first of which becomes the bitmap and stays.
func (s *shrinker) claimBareTail(last, from, n uint32) error {
	if err := s.materialize(last); err != nil {
		return err
	}
	m, err := s.bitmapCopy(last)
	if err != nil {
		return err
	}
	if err := s.freeOldMap(last, m); err != nil {
		return err
	}
	setBits(m, uint64(from), uint64(n))
	s.blocks++
	at := s.fs.sb.groupStart(last) + uint64(from)
	if err := s.putSynced(m, int64(at)*defaultBlock); err != nil {
		return err
	}
	return s.useMap(last, at, 1-int64(n))
}

// truncate makes the device as long as the file system, if it can.
func (s *shrinker) truncate() error {
	t, ok := s.dev.(truncater)
	if !ok {
		return nil
	}
	return t.Truncate(int64(s.blocks) * defaultBlock)
}
