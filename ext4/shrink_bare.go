package ext4

import (
	"slices"
)

// An image without a log can be changed in one instant only by one sector. So its last
// group is made shorter in two steps: first its tail counts as in use, by a new bitmap
// that the group's descriptor, which is part of one sector, then names; and then it goes.

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
