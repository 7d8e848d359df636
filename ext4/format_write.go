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
	head := make([]byte, (p.baseLen(0)+2+p.firstLen()+1)*defaultBlock)
	block := func(n uint64) []byte { return head[n*defaultBlock:][:defaultBlock] }
	blockMap, inodeMap, table := p.metaAt(0)
	p.blockBitmap(0, block(blockMap))
	p.inodeBitmap(block(inodeMap))
	p.directories(head[p.rootAt()*defaultBlock:][:(1+lostBlocks)*defaultBlock])
	if p.jBlocks > 0 {
		// The only block of the journal that counts as long as it is empty.
		copy(block(p.journalAt()), emptyJournal(uint32(p.jBlocks), p.opts.UUID[:]))
	}
	super := make([]byte, superSize)
	p.superblock(super)
	p.inodes(block(table), super)
	p.resizeTree(head)
	descs := make([]byte, p.descs*defaultBlock)
	free := p.descriptors(descs, block(inodeMap))
	le.PutUint32(super[sbFreeBlocksLo:], uint32(free))
	le.PutUint32(super[sbFreeBlocksHi:], uint32(free>>32))

	if err := p.writeGroups(dev, descs, super); err != nil {
		return err
	}
	le.PutUint32(super[sbChecksum:], superChecksum(super))
	copy(head[superOffset:], super)
	copy(head[defaultBlock:], p.descsOf(0, descs))
	if _, err := dev.WriteAt(head, 0); err != nil {
		return err
	}
	return dev.Sync()
}

// descsOf returns what of the descriptors a group has behind the superblock.
func (p *plan) descsOf(g uint32, descs []byte) []byte {
	switch {
	case p.keepsDescs(g):
		return descs[g/descsPerBlock*defaultBlock:][:defaultBlock]
	case !p.metaBG && p.hasSuper(g):
		return descs
	}
	return nil
}

// maxGap is how many blocks of zeros are written to make one write of two: each place in a
// sparse file that is written to is one more for the host's file system to map.
const maxGap = 16

// writeGroups writes what the groups but the first have that is not zero: copies of the
// superblock and of descriptors, and bitmaps of blocks.
func (p *plan) writeGroups(dev Device, descs, super []byte) error {
	sb := slices.Clone(super)
	mapped := p.mappedGroups()
	groups := slices.Concat(p.backups, mapped, p.descGroups())
	slices.Sort(groups)
	var b []byte
	for _, g := range slices.Compact(groups) {
		if g == 0 {
			continue
		}
		b = b[:0]
		if p.hasSuper(g) {
			le.PutUint16(sb[sbGroupNumber:], uint16(g)) // cut off, as by mke2fs
			le.PutUint32(sb[sbChecksum:], superChecksum(sb))
			b = append(append(b, sb...), zeros[:defaultBlock-superSize]...)
		}
		b = append(b, p.descsOf(g, descs)...)
		if slices.Contains(mapped, g) {
			var err error
			if b, err = p.addBitmap(dev, g, b); err != nil {
				return err
			}
		}
		if len(b) == 0 {
			continue
		}
		if _, err := dev.WriteAt(b, int64(p.groupStart(g)*defaultBlock)); err != nil {
			return err
		}
	}
	return nil
}

// addBitmap appends a group's bitmap of blocks to the group's first blocks, or writes it
// where it is when that is not near.
func (p *plan) addBitmap(dev Device, g uint32, b []byte) ([]byte, error) {
	at, _, _ := p.metaAt(g)
	var bitmap [defaultBlock]byte
	p.blockBitmap(g, bitmap[:])
	end := p.groupStart(g) + uint64(len(b)/defaultBlock)
	if at < end || at > end+maxGap {
		_, err := dev.WriteAt(bitmap[:], int64(at*defaultBlock))
		return b, err
	}
	for range at - end {
		b = append(b, zeros[:defaultBlock]...)
	}
	return append(b, bitmap[:]...), nil
}

// blockBitmap fills a group's bitmap of blocks.
func (p *plan) blockBitmap(g uint32, b []byte) {
	setBits(b, 0, p.usedLen(g))
	n := p.groupLen(g)
	setBits(b, n, defaultPer-n)
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
	if p.metaBG {
		p32(sbCompat, newCompat&^compatResizeInode)
		p32(sbIncompat, newIncompat|incompatMetaBG) // from the first block of descriptors on
	}
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
