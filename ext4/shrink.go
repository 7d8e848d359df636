package ext4

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// ShrinkOptions says how to shrink an image. The zero value cuts as much as possible.
type ShrinkOptions struct {
	// Least is the size in bytes below which the file system is not made, rounded up
	// to 4 KiB. It is never made smaller than MinSize.
	Least int64
	// Now tells the time. Default: time.Now.
	Now func() time.Time
}

// ShrinkToFit cuts off free space at the end of the image, and returns the new size of the
// image in bytes. Nothing is moved: the image ends after the last block in use, so a file
// at the end keeps it at its length. Groups of 128 MiB without a file are removed if no
// earlier group's metadata lies in them; groups made by mke2fs 16 at a time. At least as
// many groups stay as the descriptor table has blocks that cannot be removed: all but 64
// times their number with meta_bg, or without resize_inode. For free space elsewhere see
// [FS.Trim].
//
// If the device has a method Truncate(size int64) error, as an [*os.File] has, it gets the
// new size. Nothing else may have the image open. For crashes, and for errors, see [Grow].
func ShrinkToFit(ctx context.Context, dev Device, opts ShrinkOptions) (int64, error) {
	s := &shrinker{grower: grower{ctx: ctx, dev: dev, opts: GrowOptions{Now: opts.Now, NoJournal: true}, shrink: true}}
	if err := s.shrinkImage(opts.Least); err != nil {
		return 0, fmt.Errorf("shrinking: %w", err)
	}
	return int64(s.blocks) * defaultBlock, nil
}

// shrinker shrinks an image, by the steps of a grower in reverse.
type shrinker struct{ grower }

// shrinkImage runs all steps. Each leaves the image in order.
func (s *shrinker) shrinkImage(least int64) error {
	if err := s.openImage(); err != nil {
		return err
	}
	defer func() { s.fs.closeWithoutWriting() }()
	if err := checkResizable(s.fs.sb); err != nil {
		return err
	}
	if err := s.abandonGrow(); err != nil {
		return err
	}
	sb := s.fs.sb
	groups, blocks, err := s.fs.planShrink(uint64(max(least, MinSize)+defaultBlock-1) / defaultBlock)
	if err != nil {
		return err
	}
	s.blocks, s.reservedBefore = blocks, sb.reservedDescs
	s.descRoom = sb.descBlockCount() + sb.reservedDescs
	for s.fs.sb.groups > groups {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		if err := s.removeGroups(groups); err != nil {
			return err
		}
	}
	for _, step := range []func() error{s.cutFreeTail, s.restoreReservedDescs, s.updateOverhead, s.refreshBackups, s.truncateDevice} {
		if err := step(); err != nil {
			return err
		}
	}
	return s.fs.Close()
}

// abandonGrow erases the record of a growth that opening the image could not complete:
// every later open would try again, and undo the shrinking.
func (s *shrinker) abandonGrow() error {
	if s.fs.sb.growMark() == 0 {
		return nil
	}
	if err := s.eraseGrowRecord(); err != nil {
		return err
	}
	return s.reopenImage()
}

// planShrink returns how many groups, and blocks, the file system needs, with least blocks
// at least.
func (fs *FS) planShrink(least uint64) (groups uint32, blocks uint64, err error) {
	sb := fs.sb
	groups = sb.groups
	var away []run // metadata of groups that go, in groups before them
	for k := sb.groups - 1; k >= fs.firstRemovableGroup() && sb.groupStart(k) >= least; k-- {
		d, err := fs.readGroupDesc(k)
		if err != nil {
			return 0, 0, err
		}
		own := make([]byte, sb.blockSize)
		fs.sb.fillInitialBlockBitmap(k, d, own)
		away = sb.markForeignMetadata(k, d, own, away)
		in, err := fs.isGroupInUse(k, d, own)
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
	return groups, fs.lastUsedBlock(groups, least), nil
}

// firstRemovableGroup returns the first group that could be removed.
func (fs *FS) firstRemovableGroup() uint32 {
	sb := fs.sb
	stay := sb.descBlockCount() - 1
	switch {
	case sb.firstMetaBG != ^uint32(0):
		stay = max(min(sb.firstMetaBG, sb.descBlockCount()), 1) - 1
	case sb.compat&compatResizeInode != 0:
		stay = 0
	}
	return stay*sb.descsPerBlock() + 1
}

// markForeignMetadata adds the metadata of group k to away, the metadata of later groups
// that lies before them. It removes from the list, and marks in the bitmap own, what lies
// in k.
func (s *superblock) markForeignMetadata(k uint32, d groupDesc, own []byte, away []run) []run {
	away = append(slices.Clone(away), run{d.blockBitmap(), 1}, run{d.inodeBitmap(), 1}, run{d.inodeTable(), uint32(s.inodeTableBlocks())})
	lo := s.groupStart(k)
	left := away[:0]
	for _, r := range away {
		a, b := max(r.start, lo), min(r.start+uint64(r.n), lo+uint64(s.blocksPerGroup))
		if a < b {
			setBits(own, a-lo, b-a)
		}
		if r.start < lo {
			left = append(left, r)
		}
	}
	return left
}

// isGroupInUse reports whether a group has inodes in use, or blocks in use outside the
// bitmap own.
func (fs *FS) isGroupInUse(k uint32, d groupDesc, own []byte) (bool, error) {
	if d.freeInodes() != fs.sb.inodesPerGroup {
		return true, nil
	}
	b, err := fs.readGroupBitmap(k, d, false)
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

// leastGroup is how many blocks an empty last group keeps.
const leastGroup = 64

// lastUsedBlock returns where a file system of so many groups can end, but at least least.
func (fs *FS) lastUsedBlock(groups uint32, least uint64) uint64 {
	sb := fs.sb
	k := groups - 1
	end := sb.groupStart(k) + uint64(sb.groupBlockCount(k))
	d, err := fs.readGroupDesc(k)
	if err != nil {
		return end
	}
	m, err := fs.groupFreeMap(k, d)
	if err != nil {
		return end
	}
	used := uint32(leastGroup)
	for at := m.nextBlock(0, true); at < m.len; {
		used = max(used, m.nextBlock(at, false))
		at = m.nextBlock(used, true)
	}
	return min(max(sb.groupStart(k)+uint64(used), least), end)
}

// removeGroups removes groups until there are so many, or as many as one step can.
func (s *shrinker) removeGroups(groups uint32) error {
	sb := s.fs.sb
	per := sb.descsPerBlock()
	if sb.firstMetaBG == ^uint32(0) && sb.compat&compatResizeInode != 0 {
		need := (groups + per - 1) / per
		if need < sb.descBlockCount() {
			// The blocks of descriptors that fall free are kept, but not listed.
			if err := s.reserveUnlisted(0); err != nil {
				return err
			}
			groups = max(groups, (sb.descBlockCount()-min(maxUnlistedDescs, sb.descBlockCount()-1))*per)
		} else if s.hasBackupGroup(groups, sb.groups) {
			if err := s.reserveUnlisted(min(maxUnlistedDescs, sb.reservedDescs)); err != nil {
				return err
			}
		}
	}
	// e2fsck wants a bitmap of the last group, even if it follows from the descriptor.
	if err := s.writeUninitBitmap(groups - 1); err != nil {
		return err
	}
	sb = s.fs.sb
	raw := slices.Clone(sb.raw)
	putBlockCount(raw, sb, uint64(groups)*defaultPer)
	le.PutUint32(raw[sbInodes:], groups*sb.inodesPerGroup)
	if need := (groups + per - 1) / per; sb.firstMetaBG == ^uint32(0) && need < sb.descBlockCount() {
		le.PutUint16(raw[sbReservedGDT:], uint16(sb.reservedDescs+sb.descBlockCount()-need))
	}
	free := s.fs.counters
	for k := groups; k < sb.groups; k++ {
		d, err := s.fs.readGroupDesc(k)
		if err != nil {
			return err
		}
		free.freeBlocks -= uint64(d.freeBlocks())
		free.freeInodes -= d.freeInodes()
	}
	putFreeCounts(raw, sb, free)
	return s.switchSuperblock(raw)
}

// putBlockCount puts the number of blocks into a superblock, and limits the blocks
// reserved for root to half of it.
func putBlockCount(raw []byte, sb *superblock, n uint64) {
	reserved := min(sb.splitCount(sbReservedLo, sbReservedHi), n/2)
	le.PutUint32(raw[sbBlocksLo:], uint32(n))
	le.PutUint32(raw[sbReservedLo:], uint32(reserved))
	if sb.incompat&incompat64bit != 0 {
		le.PutUint32(raw[sbBlocksHi:], uint32(n>>32))
		le.PutUint32(raw[sbReservedHi:], uint32(reserved>>32))
	}
}

// putFreeCounts puts free counts into a superblock.
func putFreeCounts(raw []byte, sb *superblock, c counters) {
	le.PutUint32(raw[sbFreeBlocksLo:], uint32(c.freeBlocks))
	if sb.incompat&incompat64bit != 0 {
		le.PutUint32(raw[sbFreeBlocksHi:], uint32(c.freeBlocks>>32))
	}
	le.PutUint32(raw[sbFreeInodes:], c.freeInodes)
}

// cutFreeTail removes the free blocks at the end of the last group.
func (s *shrinker) cutFreeTail() error {
	sb := s.fs.sb
	if s.blocks >= sb.blocks {
		return nil
	}
	last := sb.groups - 1
	from, n := uint32(s.blocks-sb.groupStart(last)), uint32(sb.blocks-s.blocks)
	if s.fs.journal == nil {
		d, err := s.fs.readGroupDesc(last)
		if err != nil {
			return err
		}
		if home, _ := sb.locateBlock(d.blockBitmap()); home == last {
			return s.cutTailWithoutLog(last, from, n)
		}
	}
	return s.changeAndReopen(func(fs *FS) error {
		if err := fs.markBlocksUsed(last, from, n); err != nil {
			return err
		}
		putBlockCount(fs.sb.raw, fs.sb, s.blocks)
		fs.sb.blocks = s.blocks
		return nil
	})
}

// cutTailWithoutLog is cutFreeTail for an image without a log. First the tail is marked as
// used, where a crash costs no more than space, then it is removed. The new bitmap takes
// one of the free blocks, which stays.
func (s *shrinker) cutTailWithoutLog(last, from, n uint32) error {
	if n < 2 {
		s.blocks = s.fs.sb.blocks
		return nil
	}
	if err := s.claimTailWithoutLog(last, from, n); err != nil {
		return err
	}
	if err := s.fs.recountFree(); err != nil {
		return err
	}
	raw := slices.Clone(s.fs.sb.raw)
	putBlockCount(raw, s.fs.sb, s.blocks)
	putFreeCounts(raw, s.fs.sb, s.fs.counters)
	return s.switchSuperblock(raw)
}

// claimTailWithoutLog marks n blocks as used. The first of them becomes the bitmap and
// stays.
func (s *shrinker) claimTailWithoutLog(last, from, n uint32) error {
	if err := s.writeUninitBitmap(last); err != nil {
		return err
	}
	d, err := s.fs.readGroupDesc(last)
	if err != nil {
		return err
	}
	bitmap, err := s.fs.readBlockBitmap(last, d)
	if err != nil {
		return err
	}
	m := slices.Clone(bitmap)
	_, replaced := s.fs.sb.locateBlock(d.blockBitmap())
	clearBits(m, uint64(replaced), 1)
	setBits(m, uint64(from), uint64(n))
	s.blocks++
	at := s.fs.sb.groupStart(last) + uint64(from)
	if err := writeAndSync(s.dev, m, int64(at)*defaultBlock); err != nil {
		return err
	}
	return s.switchBlockBitmap(last, at, 1-int64(n))
}

// truncateDevice makes the device as long as the file system, if it can.
func (s *shrinker) truncateDevice() error {
	t, ok := s.dev.(truncater)
	if !ok {
		return nil
	}
	return t.Truncate(int64(s.blocks) * defaultBlock)
}
