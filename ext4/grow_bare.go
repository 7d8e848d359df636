package ext4

import (
	"slices"
)

// An image without a log can be changed in one instant only by one sector. So its last
// group is made longer like this:
//
//  1. A bitmap for the longer group is written behind the old end.
//  2. The superblock gets the new end. The old bitmap says that all behind the old end
//     is in use, which is a loss of space and no more.
//  3. The group's descriptor, which is part of one sector, gets the new bitmap.
//  4. The superblock gets the new count of free blocks.
//
// A mark in the superblock tells from 2 to 4 where the old end was, so that the space
// is not lost when a crash comes between.

// sbGrownFrom is where the mark is: the block at which the last group ended. The field
// is of a feature that was never merged (s_snapshot_r_blocks_count).
const sbGrownFrom = 0x188

// fillBareGroup is fillLastGroup for an image without a log.
func (g *grower) fillBareGroup(end uint64) error {
	sb := g.fs.sb
	last := sb.groups - 1
	if err := g.materialize(last); err != nil {
		return err
	}
	sb = g.fs.sb
	from := sb.groupLen(last)
	if err := g.writeTailMap(last, from, uint32(end-sb.groupStart(last))); err != nil {
		return err
	}
	raw := slices.Clone(sb.raw)
	le.PutUint64(raw[sbGrownFrom:], sb.blocks)
	putBlocks(raw, sb, end)
	if err := g.switchSuper(raw); err != nil {
		return err
	}
	return g.finishBareGroup()
}

// finishBareGroup does the steps from the third on, if there is the mark.
func (g *grower) finishBareGroup() error {
	sb := g.fs.sb
	from := le.Uint64(sb.raw[sbGrownFrom:])
	if from == 0 || g.fs.journal != nil {
		return nil
	}
	if from > sb.first && from < sb.blocks {
		k, index := sb.groupOf(from)
		d, err := g.fs.desc(k)
		if err != nil {
			return err
		}
		if d.blockBitmap() != from {
			if err := g.writeTailMap(k, index, sb.groupLen(k)); err != nil {
				return err
			}
			if err := g.useMap(k, from, int64(sb.groupLen(k)-index)); err != nil {
				return err
			}
		}
	}
	raw := slices.Clone(g.fs.sb.raw)
	le.PutUint64(raw[sbGrownFrom:], 0)
	return g.switchCounted(raw)
}

// writeTailMap writes, into the block index from of a group, a bitmap that says that the
// blocks after that one are free up to index end, as is the block of the old bitmap.
func (g *grower) writeTailMap(k, from, end uint32) error {
	m, err := g.bitmapCopy(k)
	if err != nil {
		return err
	}
	clearBits(m, uint64(from)+1, uint64(end-from)-1)
	setBits(m, uint64(from), 1)
	setBits(m, uint64(end), uint64(len(m)*8)-uint64(end))
	if err := g.freeOldMap(k, m); err != nil {
		return err
	}
	return g.putSynced(m, int64(g.fs.sb.groupStart(k)+uint64(from))*g.fs.sb.blockSize)
}

// ownMap reports whether a group has the bitmap of its blocks itself.
func (g *grower) ownMap(k uint32) (bool, error) {
	d, err := g.fs.desc(k)
	if err != nil {
		return false, err
	}
	home, _ := g.fs.sb.groupOf(d.blockBitmap())
	return home == k, nil
}

// freeOldMap frees, in a bitmap of a group, the block of the one that it replaces.
func (g *grower) freeOldMap(k uint32, m []byte) error {
	d, err := g.fs.desc(k)
	if err == nil {
		_, index := g.fs.sb.groupOf(d.blockBitmap())
		clearBits(m, uint64(index), 1)
	}
	return err
}

// bitmapCopy returns a copy of the bitmap of a group's blocks.
func (g *grower) bitmapCopy(k uint32) ([]byte, error) {
	d, err := g.fs.desc(k)
	if err != nil {
		return nil, err
	}
	b, err := g.fs.readBitmap(k, d, false)
	if err != nil {
		return nil, err
	}
	if b != nil {
		return slices.Clone(b), nil
	}
	m := make([]byte, g.fs.sb.blockSize)
	g.fs.initialBitmap(k, d, m)
	return m, nil
}

func (g *grower) putSynced(b []byte, off int64) error {
	if _, err := g.dev.WriteAt(b, off); err != nil {
		return err
	}
	return g.dev.Sync()
}

// materialize writes the bitmap of a group that has none yet.
func (g *grower) materialize(k uint32) error {
	d, err := g.fs.desc(k)
	if err != nil || !g.fs.virgin(d) {
		return err
	}
	m, err := g.bitmapCopy(k)
	if err != nil {
		return err
	}
	if err := g.putSynced(m, int64(d.blockBitmap())*g.fs.sb.blockSize); err != nil {
		return err
	}
	return g.useMap(k, d.blockBitmap(), 0)
}

// useMap makes the block at the bitmap of a group's blocks, and adds to its count of
// free ones: one write of the sector that has the descriptor.
func (g *grower) useMap(k uint32, at uint64, free int64) error {
	sb := g.fs.sb
	m := make([]byte, g.fs.sb.blockSize)
	if err := readFull(g.dev, m, int64(at)*g.fs.sb.blockSize); err != nil {
		return err
	}
	block, off := sb.descAt(k)
	b, err := g.fs.get(block)
	if err != nil {
		return err
	}
	sector := slices.Clone(b.data[off/512*512:][:512])
	d := desc(sector[off%512:][:sb.descSize])
	le.PutUint32(d[gdBlockBitmap:], uint32(at))
	if len(d) >= 64 {
		le.PutUint32(d[gdBlockHi:], uint32(at>>32))
	}
	d.setCount(gdFreeBlocks, gdFreeBlocksHi, uint32(int64(d.freeBlocks())+free))
	if sb.csum {
		le.PutUint16(d[gdFlags:], d.flags()&^groupBlockUninit)
		d.setCount(gdBlockCsum, gdBlockCsumHi, crc32c(sb.seed, m))
		le.PutUint16(d[gdChecksum:], descChecksum(sb.seed, k, d))
	}
	if err := g.putSynced(sector, int64(block)*g.fs.sb.blockSize+int64(off/512*512)); err != nil {
		return err
	}
	return g.reopen()
}

// switchCounted is switchSuper with the count of free blocks that the groups give.
func (g *grower) switchCounted(raw []byte) error {
	if err := g.fs.recount(); err != nil {
		return err
	}
	putFree(raw, g.fs.sb, g.fs.counters)
	return g.switchSuper(raw)
}
