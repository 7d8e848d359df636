package ext4

import (
	"slices"
)

// An image without a log can be changed in one instant only by one sector. So its last
// group is made shorter in two steps: first its tail counts as in use, by a new bitmap
// that the group's descriptor, which is part of one sector, then names; and then it goes.

// ownsBlockBitmap reports whether a group's block bitmap lies in the group.
func (g *grower) ownsBlockBitmap(k uint32) (bool, error) {
	d, err := g.fs.readGroupDesc(k)
	if err != nil {
		return false, err
	}
	home, _ := g.fs.sb.locateBlock(d.blockBitmap())
	return home == k, nil
}

// freeReplacedBitmap frees the block of a group's old bitmap in m, the new one.
func (g *grower) freeReplacedBitmap(k uint32, m []byte) error {
	d, err := g.fs.readGroupDesc(k)
	if err == nil {
		_, index := g.fs.sb.locateBlock(d.blockBitmap())
		clearBits(m, uint64(index), 1)
	}
	return err
}

// copyBlockBitmap returns a copy of a group's block bitmap.
func (g *grower) copyBlockBitmap(k uint32) ([]byte, error) {
	d, err := g.fs.readGroupDesc(k)
	if err != nil {
		return nil, err
	}
	b, err := g.fs.readGroupBitmap(k, d, false)
	if err != nil {
		return nil, err
	}
	if b != nil {
		return slices.Clone(b), nil
	}
	m := make([]byte, g.fs.sb.blockSize)
	g.fs.sb.fillInitialBlockBitmap(k, d, m)
	return m, nil
}

// writeUninitBitmap writes the block bitmap of a group that has none yet.
func (g *grower) writeUninitBitmap(k uint32) error {
	d, err := g.fs.readGroupDesc(k)
	if err != nil || !g.fs.blockBitmapUninit(d) {
		return err
	}
	m, err := g.copyBlockBitmap(k)
	if err != nil {
		return err
	}
	if err := writeAndSync(g.dev, m, int64(d.blockBitmap())*g.fs.sb.blockSize); err != nil {
		return err
	}
	return g.switchBlockBitmap(k, d.blockBitmap(), 0)
}

// switchBlockBitmap makes the block at a group's block bitmap, and adds to its free count:
// one atomic write of the sector with the descriptor.
func (g *grower) switchBlockBitmap(k uint32, at uint64, free int64) error {
	sb := g.fs.sb
	m := make([]byte, g.fs.sb.blockSize)
	if err := readFull(g.dev, m, int64(at)*g.fs.sb.blockSize); err != nil {
		return err
	}
	block, off := sb.locateGroupDesc(k)
	b, err := g.fs.getBlock(block)
	if err != nil {
		return err
	}
	sector := slices.Clone(b.data[off/512*512:][:512])
	d := groupDesc(sector[off%512:][:sb.descSize])
	d.setSplitBlockNumber(gdBlockBitmap, gdBlockHi, at)
	d.setSplitCount(gdFreeBlocks, gdFreeBlocksHi, uint32(int64(d.freeBlocks())+free))
	if sb.metadataCsum {
		le.PutUint16(d[gdFlags:], d.flags()&^groupBlockUninit)
		d.setSplitCount(gdBlockCsum, gdBlockCsumHi, crc32c(sb.csumSeed, m))
		le.PutUint16(d[gdChecksum:], descChecksum(sb.csumSeed, k, d))
	}
	if err := writeAndSync(g.dev, sector, int64(block)*g.fs.sb.blockSize+int64(off/512*512)); err != nil {
		return err
	}
	return g.reopenImage()
}

// switchSuperRecounted is switchSuperblock with the free count added up from the groups.
func (g *grower) switchSuperRecounted(raw []byte) error {
	if err := g.fs.recountFree(); err != nil {
		return err
	}
	putFreeCounts(raw, g.fs.sb, g.fs.counters)
	return g.switchSuperblock(raw)
}
