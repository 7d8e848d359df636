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

// writeImage writes everything that is not zero. The primary superblock comes last, so
// that an interrupted Format leaves something that is not recognized as a file system.
func (p *formatPlan) writeImage(dev Device) error {
	head := make([]byte, (uint64(p.baseMetaBlocks(0))+2+p.firstGroupBlocks()+1)*defaultBlock)
	block := func(n uint64) []byte { return head[n*defaultBlock:][:defaultBlock] }
	blockMap, inodeMap, table := p.locateGroupMetadata(0)
	p.fillBlockBitmap(0, block(blockMap))
	p.fillInodeBitmap(block(inodeMap))
	p.fillDirectories(head[p.rootDirBlock()*defaultBlock:][:(1+lostBlocks)*defaultBlock])
	if p.journalBlocks > 0 {
		// The only block of the journal that counts as long as it is empty.
		copy(block(p.firstJournalBlock()), newJournalSuperblock(uint32(p.journalBlocks), p.opts.UUID[:]))
	}
	super := make([]byte, superSize)
	p.fillSuperblock(super)
	p.fillFirstInodes(block(table), super)
	p.fillResizeTree(head)
	descs := make([]byte, p.descBlocks*defaultBlock)
	free := p.fillDescriptors(descs, block(inodeMap))
	le.PutUint32(super[sbFreeBlocksLo:], uint32(free))
	le.PutUint32(super[sbFreeBlocksHi:], uint32(free>>32))

	if err := p.writeGroups(dev, descs, super); err != nil {
		return err
	}
	le.PutUint32(super[sbChecksum:], superblockChecksum(super))
	copy(head[superOffset:], super)
	copy(head[defaultBlock:], p.groupDescCopies(0, descs))
	if _, err := dev.WriteAt(head, 0); err != nil {
		return err
	}
	return dev.Sync()
}

// groupDescCopies returns the descriptors that a group holds after its superblock.
func (p *formatPlan) groupDescCopies(g uint32, descs []byte) []byte {
	switch {
	case p.hasMetaBGDescs(g):
		return descs[g/p.descsPerBlock()*defaultBlock:][:defaultBlock]
	case !p.metaBG && p.hasSuperblock(g):
		return descs
	}
	return nil
}

// maxGap is how many blocks of zeros are written to join two writes: each separate piece
// of a sparse file is one more for the host's file system to map.
const maxGap = 16

// writeGroups writes the metadata of all groups but the first that is not zero: backups of
// the superblock and the descriptors, and block bitmaps.
func (p *formatPlan) writeGroups(dev Device, descs, super []byte) error {
	sb := slices.Clone(super)
	mapped := p.groupsWithBitmap()
	groups := slices.Concat(p.backups, mapped, p.metaBGDescGroups())
	slices.Sort(groups)
	var b []byte
	for _, g := range slices.Compact(groups) {
		if g == 0 {
			continue
		}
		b = b[:0]
		if p.hasSuperblock(g) {
			le.PutUint16(sb[sbGroupNumber:], uint16(g)) // cut off, as by mke2fs
			le.PutUint32(sb[sbChecksum:], superblockChecksum(sb))
			b = append(append(b, sb...), zeros[:defaultBlock-superSize]...)
		}
		b = append(b, p.groupDescCopies(g, descs)...)
		if slices.Contains(mapped, g) {
			var err error
			if b, err = p.appendBlockBitmap(dev, g, b); err != nil {
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

// appendBlockBitmap appends a group's block bitmap to b, the first blocks of the group, or
// writes it by itself if it is further away.
func (p *formatPlan) appendBlockBitmap(dev Device, g uint32, b []byte) ([]byte, error) {
	at, _, _ := p.locateGroupMetadata(g)
	var bitmap [defaultBlock]byte
	p.fillBlockBitmap(g, bitmap[:])
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

// fillBlockBitmap fills a group's block bitmap.
func (p *formatPlan) fillBlockBitmap(g uint32, b []byte) {
	setBits(b, 0, p.usedBlocks(g))
	n := uint64(p.groupBlockCount(g))
	setBits(b, n, defaultPer-n)
}

// fillInodeBitmap fills group 0's inode bitmap.
func (p *formatPlan) fillInodeBitmap(b []byte) {
	setBits(b, 0, usedInodes)
	setBits(b, uint64(p.inodesPerGroup), 8*defaultBlock-uint64(p.inodesPerGroup))
}

// fillDescriptors fills the group descriptors, and returns the number of free blocks.
func (p *formatPlan) fillDescriptors(descs, inodeMap []byte) (free uint64) {
	mapped := p.groupsWithBitmap()
	for g := range p.groups {
		d := groupDesc(descs[uint64(g)*descSize:][:descSize])
		n := uint64(p.groupBlockCount(g)) - p.usedBlocks(g)
		free += n
		p.fillDescriptor(g, d, uint32(n))
		if slices.Contains(mapped, g) {
			var b [defaultBlock]byte
			p.fillBlockBitmap(g, b[:])
			le.PutUint16(d[gdFlags:], groupInodeUninit|groupInodeZeroed)
			d.setSplitCount(gdBlockCsum, gdBlockCsumHi, crc32c(p.csumSeed, b[:]))
		}
		if g == 0 {
			left := p.inodesPerGroup - usedInodes
			d.setSplitCount(gdFreeInodes, gdFreeInodesHi, left)
			d.setSplitCount(gdUnused, gdUnusedHi, left)
			d.setSplitCount(gdDirs, gdDirsHi, firstDirs)
			le.PutUint16(d[gdFlags:], groupInodeZeroed)
			d.setSplitCount(gdInodeCsum, gdInodeCsumHi, crc32c(p.csumSeed, inodeMap[:p.inodesPerGroup/8]))
		}
		le.PutUint16(d[gdChecksum:], descChecksum(p.csumSeed, g, d))
	}
	return free
}

// fillDescriptor fills the descriptor of a group that has no inode in use, and whose block
// bitmap follows from the descriptor.
func (p *formatPlan) fillDescriptor(g uint32, d groupDesc, free uint32) {
	blockMap, inodeMap, table := p.locateGroupMetadata(g)
	d.setPlaces(blockMap, inodeMap, table)
	d.setSplitCount(gdFreeBlocks, gdFreeBlocksHi, free)
	d.setSplitCount(gdFreeInodes, gdFreeInodesHi, p.inodesPerGroup)
	d.setSplitCount(gdUnused, gdUnusedHi, p.inodesPerGroup)
	le.PutUint16(d[gdFlags:], groupInodeUninit|groupBlockUninit|groupInodeZeroed)
}

// fillSuperblock fills the superblock except free blocks, checksum and journal fields.
func (p *formatPlan) fillSuperblock(sb []byte) {
	p32 := func(at int, v uint32) { le.PutUint32(sb[at:], v) }
	p16 := func(at int, v uint16) { le.PutUint16(sb[at:], v) }
	inodes := p.inodesPerGroup * p.groups
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
	p32(sbInodesPerGroup, p.inodesPerGroup)
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
	p16(sbReservedGDT, uint16(p.reservedDescs))
	copy(sb[sbHashSeed:], p.opts.HashSeed[:])
	sb[sbHashVersion] = 1 // half MD4
	p16(sbDescSize, descSize)
	p32(sbMountOpts, 0xc) // user_xattr, acl
	p16(sbMinExtraIsize, wantExtra)
	p16(sbWantExtraIsize, wantExtra)
	p32(sbFlags, flagSignedHash)
	sb[sbLogFlex] = logFlexGroups
	sb[sbChecksumType] = 1 // crc32c
	p32(sbOverhead, uint32(min(p.overheadBlocks(), math.MaxUint32)))
	p.fillSuperTimes(sb)
}

// The upper bytes of the superblock's times, each of which has 40 bits.
const (
	sbWtimeHi     = 0x274
	sbMkfsTimeHi  = 0x276
	sbLastCheckHi = 0x277
)

// fillSuperTimes sets the times in the superblock, which have 40 bits.
func (p *formatPlan) fillSuperTimes(sb []byte) {
	s := uint64(max(p.opts.Time.Unix(), 0))
	for _, at := range []struct{ lo, hi int }{
		{sbWtime, sbWtimeHi}, {sbMkfsTime, sbMkfsTimeHi}, {sbLastCheck, sbLastCheckHi},
	} {
		le.PutUint32(sb[at.lo:], uint32(s))
		sb[at.hi] = byte(s >> 32)
	}
}
