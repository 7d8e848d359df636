package ext4

import (
	"math"
	"slices"
)

// The features of a new file system; has_journal comes to them if there is one.
const (
	newCompat   = compatExtAttr | compatResizeInode | compatDirIndex
	newIncompat = incompatFiletype | incompatExtents | incompat64bit | incompatFlexBG
	newRO       = roSparseSuper | roLargeFile | roHugeFile | roDirNlink | roExtraIsize | roMetadataCsum
)

// The numbers of a new file system's first inodes: the reserved ones and lost+found.
const (
	usedInodes = firstInode
	firstDirs  = 2
)

// write writes all that is not zero. The primary superblock comes last, so that an
// image whose making failed is most likely none.
func (p *plan) write(dev Device) error {
	head := make([]byte, (p.baseLen(0)+2+firstLen+1)*defaultBlock)
	block := func(n uint64) []byte { return head[n*defaultBlock:][:defaultBlock] }
	_, inodeMap, table := p.metaAt(0)
	p.inodeBitmap(block(inodeMap))
	p.directories(head[p.rootAt()*defaultBlock:][:(1+lostBlocks)*defaultBlock])
	super := make([]byte, superSize)
	p.superblock(super)
	p.inodes(block(table), super)
	p.resizeTree(head)
	free := p.descriptors(head[defaultBlock:][:p.descs*defaultBlock], block(inodeMap))
	le.PutUint32(super[sbFreeBlocksLo:], uint32(free))
	le.PutUint32(super[sbFreeBlocksHi:], uint32(free>>32))

	if err := p.writeBitmaps(dev, block); err != nil {
		return err
	}
	if err := p.writeJournal(dev); err != nil {
		return err
	}
	if err := p.writeBackups(dev, head[:(1+p.descs)*defaultBlock], super); err != nil {
		return err
	}
	le.PutUint32(super[sbChecksum:], superChecksum(super))
	copy(head[superOffset:], super)
	if _, err := dev.WriteAt(head, 0); err != nil {
		return err
	}
	return dev.Sync()
}

// writeBackups writes the copies of the superblock and of the descriptors. The first
// block of copy, which the descriptors follow, is used for the superblock and zero
// afterwards.
func (p *plan) writeBackups(dev Device, copies, super []byte) error {
	sb := slices.Clone(super)
	for _, g := range p.backups {
		le.PutUint16(sb[sbGroupNumber:], uint16(g)) // cut off, as by mke2fs
		le.PutUint32(sb[sbChecksum:], superChecksum(sb))
		copy(copies, sb)
		if _, err := dev.WriteAt(copies, int64(p.groupStart(g)*defaultBlock)); err != nil {
			return err
		}
	}
	clear(copies[:superSize])
	return nil
}

// blockBitmap fills a group's bitmap of blocks.
func (p *plan) blockBitmap(g uint32, b []byte) {
	setBits(b, 0, p.usedLen(g))
	n := p.groupLen(g)
	setBits(b, n, defaultPer-n)
}

// writeBitmaps writes the bitmaps of blocks, but for that of group 0, which it puts
// into the block of the head.
func (p *plan) writeBitmaps(dev Device, head func(uint64) []byte) error {
	for _, g := range p.mappedGroups() {
		at, _, _ := p.metaAt(g)
		if g == 0 {
			p.blockBitmap(g, head(at))
			continue
		}
		var b [defaultBlock]byte
		p.blockBitmap(g, b[:])
		if _, err := dev.WriteAt(b[:], int64(at*defaultBlock)); err != nil {
			return err
		}
	}
	return nil
}

// inodeBitmap fills group 0's bitmap of inodes.
func (p *plan) inodeBitmap(b []byte) {
	setBits(b, 0, usedInodes)
	setBits(b, uint64(p.inodesPer), 8*defaultBlock-uint64(p.inodesPer))
}

// descriptors fills the group descriptors and returns the number of free blocks.
func (p *plan) descriptors(descs, inodeMap []byte) (free uint64) {
	mapped := p.mappedGroups()
	for g := range p.groups {
		d := descs[uint64(g)*descSize:][:descSize]
		n := p.groupLen(g) - p.usedLen(g)
		free += n
		p.descriptor(g, d, uint32(n))
		if slices.Contains(mapped, g) {
			var b [defaultBlock]byte
			p.blockBitmap(g, b[:])
			le.PutUint16(d[gdFlags:], groupInodeUninit|groupInodeZeroed)
			putSplit(d, gdBlockCsum, gdBlockCsumHi, crc32c(p.seed, b[:]))
		}
		if g == 0 {
			left := p.inodesPer - usedInodes
			putSplit(d, gdFreeInodes, gdFreeInodesHi, left)
			putSplit(d, gdUnused, gdUnusedHi, left)
			putSplit(d, gdDirs, gdDirsHi, firstDirs)
			le.PutUint16(d[gdFlags:], groupInodeZeroed)
			putSplit(d, gdInodeCsum, gdInodeCsumHi, crc32c(p.seed, inodeMap[:p.inodesPer/8]))
		}
		le.PutUint16(d[gdChecksum:], descChecksum(p.seed, g, d))
	}
	return free
}

// descriptor fills the descriptor of a group with no inode in use and with a bitmap of
// blocks that follows from it.
func (p *plan) descriptor(g uint32, d []byte, free uint32) {
	blockMap, inodeMap, table := p.metaAt(g)
	le.PutUint32(d[gdBlockBitmap:], uint32(blockMap))
	le.PutUint32(d[gdBlockHi:], uint32(blockMap>>32))
	le.PutUint32(d[gdInodeBitmap:], uint32(inodeMap))
	le.PutUint32(d[gdInodeHi:], uint32(inodeMap>>32))
	le.PutUint32(d[gdInodeTable:], uint32(table))
	le.PutUint32(d[gdTableHi:], uint32(table>>32))
	putSplit(d, gdFreeBlocks, gdFreeBlocksHi, free)
	putSplit(d, gdFreeInodes, gdFreeInodesHi, p.inodesPer)
	putSplit(d, gdUnused, gdUnusedHi, p.inodesPer)
	le.PutUint16(d[gdFlags:], groupInodeUninit|groupBlockUninit|groupInodeZeroed)
}

// putSplit puts a number whose halves of 16 bits lie at two offsets.
func putSplit(b []byte, lo, hi int, v uint32) {
	le.PutUint16(b[lo:], uint16(v))
	le.PutUint16(b[hi:], uint16(v>>16))
}

// superblock fills the superblock but for the number of free blocks, the checksum and
// the copy of the journal's inode.
func (p *plan) superblock(sb []byte) {
	p32 := func(at int, v uint32) { le.PutUint32(sb[at:], v) }
	p16 := func(at int, v uint16) { le.PutUint16(sb[at:], v) }
	inodes := p.inodesPer * p.groups
	reserved := uint64(p.opts.Reserved) / defaultBlock
	p32(sbInodes, inodes)
	p32(sbFreeInodes, inodes-usedInodes)
	p32(sbBlocksLo, uint32(p.blocks))
	p32(sbBlocksHi, uint32(p.blocks>>32))
	p32(sbReservedLo, uint32(reserved))
	p32(sbReservedHi, uint32(reserved>>32))
	p32(sbLogBlock, 2) // 1024<<2
	p32(sbLogCluster, 2)
	p32(sbBlocksPerGroup, defaultPer)
	p32(sbClustersPer, defaultPer)
	p32(sbInodesPerGroup, p.inodesPer)
	p16(sbMaxMounts, math.MaxUint16) // no check after so many
	p16(sbMagic, superMagic)
	p16(sbState, stateClean)
	p16(sbErrors, 1) // go on
	p32(sbRevision, 1)
	p32(sbFirstInode, firstInode)
	p16(sbInodeSize, newInodeSize)
	p32(sbCompat, newCompat)
	p32(sbIncompat, newIncompat)
	p32(sbROCompat, newRO)
	copy(sb[sbUUID:], p.opts.UUID[:])
	copy(sb[sbLabel:], p.opts.Label)
	p16(sbReservedGDT, uint16(p.spare))
	copy(sb[sbHashSeed:], p.opts.HashSeed[:])
	sb[sbHashVersion] = 1 // half MD4
	p16(sbDescSize, descSize)
	p32(sbMountOpts, 0xc) // user_xattr, acl
	p16(sbMinExtraIsize, wantExtra)
	p16(sbWantExtraIsize, wantExtra)
	p32(sbFlags, flagSignedHash)
	sb[sbLogFlex] = logFlexGroups
	sb[sbChecksumType] = 1 // crc32c
	p32(sbOverhead, uint32(min(p.overhead(), math.MaxUint32)))
	p.superTimes(sb)
}

// The upper bytes of the superblock's times, each of which has 40 bits.
const (
	sbWtimeHi     = 0x274
	sbMkfsTimeHi  = 0x276
	sbLastCheckHi = 0x277
)

func (p *plan) superTimes(sb []byte) {
	s := uint64(max(p.opts.Time.Unix(), 0))
	for _, at := range []struct{ lo, hi int }{
		{sbWtime, sbWtimeHi}, {sbMkfsTime, sbMkfsTimeHi}, {sbLastCheck, sbLastCheckHi},
	} {
		le.PutUint32(sb[at.lo:], uint32(s))
		sb[at.hi] = byte(s >> 32)
	}
}
