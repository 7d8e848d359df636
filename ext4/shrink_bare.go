package ext4

import (
	"slices"
)

// An image without a log can be changed in one instant only by one sector. So its last
// group is made shorter in two steps: first its tail counts as in use, by a new bitmap
// that the group's descriptor, which is part of one sector, then names; and then it goes.

// writeUninitBitmap writes the block bitmap of a group that has none yet.
func (g *grower) writeUninitBitmap(k uint32) error {
	d, err := g.fs.readGroupDesc(k)
	if err != nil || !g.fs.blockBitmapUninit(d) {
		return err
	}
	m, err := g.fs.readBlockBitmap(k, d)
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
