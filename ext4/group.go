package ext4

// groupDesc is a group descriptor in its block. To change one, take it from
// modifyGroupDesc.
type groupDesc []byte

// splitCount reads a count whose halves of 16 bits lie at two offsets.
func (d groupDesc) splitCount(lo, hi int) uint32 {
	n := uint32(le.Uint16(d[lo:]))
	if len(d) >= 64 {
		n |= uint32(le.Uint16(d[hi:])) << 16
	}
	return n
}

// setSplitCount writes such a count.
func (d groupDesc) setSplitCount(lo, hi int, v uint32) {
	le.PutUint16(d[lo:], uint16(v))
	if len(d) >= 64 {
		le.PutUint16(d[hi:], uint16(v>>16))
	}
}

// splitBlockNumber reads a block number whose halves of 32 bits lie at two offsets.
func (d groupDesc) splitBlockNumber(lo, hi int) uint64 {
	n := uint64(le.Uint32(d[lo:]))
	if len(d) >= 64 {
		n |= uint64(le.Uint32(d[hi:])) << 32
	}
	return n
}

// setSplitBlockNumber writes such a block number.
func (d groupDesc) setSplitBlockNumber(lo, hi int, v uint64) {
	le.PutUint32(d[lo:], uint32(v))
	if len(d) >= 64 {
		le.PutUint32(d[hi:], uint32(v>>32))
	}
}

func (d groupDesc) blockBitmap() uint64  { return d.splitBlockNumber(gdBlockBitmap, gdBlockHi) }
func (d groupDesc) inodeBitmap() uint64  { return d.splitBlockNumber(gdInodeBitmap, gdInodeHi) }
func (d groupDesc) inodeTable() uint64   { return d.splitBlockNumber(gdInodeTable, gdTableHi) }
func (d groupDesc) freeBlocks() uint32   { return d.splitCount(gdFreeBlocks, gdFreeBlocksHi) } // clusters, with bigalloc
func (d groupDesc) freeInodes() uint32   { return d.splitCount(gdFreeInodes, gdFreeInodesHi) }
func (d groupDesc) usedDirs() uint32     { return d.splitCount(gdDirs, gdDirsHi) }
func (d groupDesc) unusedInodes() uint32 { return d.splitCount(gdUnused, gdUnusedHi) }
func (d groupDesc) flags() uint16        { return le.Uint16(d[gdFlags:]) }

// setPlaces sets where a group's bitmaps and inode table lie.
func (d groupDesc) setPlaces(blockBitmap, inodeBitmap, inodeTable uint64) {
	d.setSplitBlockNumber(gdBlockBitmap, gdBlockHi, blockBitmap)
	d.setSplitBlockNumber(gdInodeBitmap, gdInodeHi, inodeBitmap)
	d.setSplitBlockNumber(gdInodeTable, gdTableHi, inodeTable)
}

// readGroupDesc returns a group's descriptor, checked, for reading.
func (fs *FS) readGroupDesc(g uint32) (groupDesc, error) {
	n, off := fs.sb.locateGroupDesc(g)
	b, err := fs.getBlock(n)
	if err != nil {
		return nil, err
	}
	if key := verifiedKey(checkDesc, 0); b.verified.Load() != key {
		if err := fs.checkDescChecksums(g, b.data); err != nil {
			return nil, err
		}
		b.verified.Store(key)
	}
	return groupDesc(b.data[off : off+fs.sb.descSize]), nil
}

// checkDescChecksums checks the checksums of all descriptors in the block with that of
// group g.
func (fs *FS) checkDescChecksums(g uint32, data []byte) error {
	per := fs.sb.descsPerBlock()
	for k, i := g/per*per, 0; k < fs.sb.groups && i < int(per); k, i = k+1, i+1 {
		if !fs.sb.verifyDescChecksum(k, data[i*fs.sb.descSize:][:fs.sb.descSize]) {
			return corruptf("the descriptor of group %d has a wrong checksum", k)
		}
	}
	return nil
}

// hasGroupChecksums reports whether descriptors have checksums, without which their flags
// mean nothing.
func (s *superblock) hasGroupChecksums() bool { return s.metadataCsum || s.roCompat&roGDTCsum != 0 }

// verifyDescChecksum checks the checksum of a group descriptor, if the features give it one.
func (s *superblock) verifyDescChecksum(g uint32, d []byte) bool {
	sum := le.Uint16(d[gdChecksum:])
	if s.metadataCsum {
		return descChecksum(s.csumSeed, g, d) == sum
	}
	return !s.hasGroupChecksums() || s.crc16DescChecksum(g, d) == sum
}

// crc16DescChecksum computes the checksum of a descriptor with the feature uninit_bg.
func (s *superblock) crc16DescChecksum(g uint32, d []byte) uint16 {
	var num [4]byte
	le.PutUint32(num[:], g)
	c := crc16(0xffff, s.raw[sbUUID:sbUUID+16])
	c = crc16(crc16(c, num[:]), d[:gdChecksum])
	return crc16(c, d[gdChecksum+2:])
}

// crc16 adds bytes to a CRC-16 (polynomial 0x8005, reflected).
func crc16(c uint16, b []byte) uint16 {
	for _, v := range b {
		c ^= uint16(v)
		for range 8 {
			if c&1 != 0 {
				c = c>>1 ^ 0xa001
			} else {
				c >>= 1
			}
		}
	}
	return c
}

// modifyGroupDesc returns a group's descriptor for changing. Its checksum is set at
// commit.
func (fs *FS) modifyGroupDesc(g uint32) (groupDesc, error) {
	if _, err := fs.readGroupDesc(g); err != nil {
		return nil, err
	}
	n, off := fs.sb.locateGroupDesc(g)
	b, err := fs.modifyBlock(n)
	if err != nil {
		return nil, err
	}
	if _, ok := fs.tx.dirtyGroups[g]; !ok {
		fs.tx.dirtyGroups[g] = 0
	}
	return groupDesc(b[off : off+fs.sb.descSize]), nil
}

// setGroupChecksums sets the checksums of descriptors and bitmaps in all groups that the
// open transaction changed.
func (fs *FS) setGroupChecksums() error {
	if !fs.sb.metadataCsum {
		return nil
	}
	for g, dirty := range fs.tx.dirtyGroups {
		if n, _ := fs.sb.locateGroupDesc(g); fs.tx.blocks[n] == nil {
			continue // an operation that was undone
		}
		d, err := fs.modifyGroupDesc(g)
		if err != nil {
			return err
		}
		if dirty&blockBitmapDirty != 0 && d.flags()&groupBlockUninit == 0 {
			if b := fs.cache.lookupBlock(d.blockBitmap()); b != nil {
				d.setSplitCount(gdBlockCsum, gdBlockCsumHi, crc32c(fs.sb.csumSeed, b.data[:fs.sb.blocksPerGroup/8]))
			}
		}
		if dirty&inodeBitmapDirty != 0 && d.flags()&groupInodeUninit == 0 {
			if b := fs.cache.lookupBlock(d.inodeBitmap()); b != nil {
				d.setSplitCount(gdInodeCsum, gdInodeCsumHi, crc32c(fs.sb.csumSeed, b.data[:fs.sb.inodesPerGroup/8]))
			}
		}
		le.PutUint16(d[gdChecksum:], descChecksum(fs.sb.csumSeed, g, d))
	}
	return nil
}

// readGroupBitmap returns a group's block or inode bitmap, checked. nil: the group has
// none yet, and its flags say that it would be in its initial state.
func (fs *FS) readGroupBitmap(g uint32, d groupDesc, inodes bool) ([]byte, error) {
	n, flag, csumLo, csumHi, size := d.blockBitmap(), uint16(groupBlockUninit), gdBlockCsum, gdBlockCsumHi, fs.sb.blocksPerGroup/fs.sb.clusterBlocks/8
	if inodes {
		n, flag, csumLo, csumHi, size = d.inodeBitmap(), groupInodeUninit, gdInodeCsum, gdInodeCsumHi, fs.sb.inodesPerGroup/8
	}
	if d.flags()&flag != 0 && fs.sb.hasGroupChecksums() {
		return nil, nil
	}
	if n < fs.sb.firstBlock {
		return nil, corruptf("a bitmap of group %d lies outside the file system", g)
	}
	b, err := fs.getBlock(n)
	if err != nil {
		return nil, err
	}
	key := verifiedKey(checkBitmap, g)
	if b.verified.Load() == key || !fs.sb.metadataCsum {
		return b.data, nil
	}
	sum, want := crc32c(fs.sb.csumSeed, b.data[:size]), d.splitCount(csumLo, csumHi)
	if fs.sb.descSize < 64 {
		sum &= 0xffff
	}
	if b.openTx == nil && sum != want {
		return nil, corruptf("a bitmap of group %d has a wrong checksum", g)
	}
	b.verified.Store(key)
	return b.data, nil
}

// readBlockBitmap returns a group's block bitmap, checked: its initial state if the group
// has none yet.
func (fs *FS) readBlockBitmap(g uint32, d groupDesc) ([]byte, error) {
	b, err := fs.readGroupBitmap(g, d, false)
	if b == nil && err == nil {
		b = make([]byte, fs.sb.blockSize)
		fs.sb.fillInitialBlockBitmap(g, d, b)
	}
	return b, err
}

// metadataArea is a part of the fixed metadata of a group.
type metadataArea struct {
	at, n uint64
	what  string
}

// metadataAreas returns the bitmaps and the inode table of a group.
func (s *superblock) metadataAreas(d groupDesc) []metadataArea {
	return []metadataArea{
		{d.blockBitmap(), 1, "block bitmap"}, {d.inodeBitmap(), 1, "inode bitmap"}, {d.inodeTable(), s.inodeTableBlocks(), "inode table"},
	}
}

// fillInitialBlockBitmap sets the bits of a group's initial block bitmap, one for each
// cluster: its own metadata, as Linux derives it from the descriptor, and all that is beyond
// the end of the group.
func (s *superblock) fillInitialBlockBitmap(g uint32, d groupDesc, m []byte) {
	lo, hi := s.groupStart(g), s.groupStart(g)+uint64(s.groupBlockCount(g))
	k := uint64(s.clusterBlocks)
	for _, p := range append(s.metadataAreas(d), metadataArea{at: lo, n: uint64(s.baseMetaBlocks(g))}) {
		if p.at >= s.blocks {
			continue // of a damaged image
		}
		if a, b := max(p.at, lo), min(p.at+p.n, hi); a < b {
			from, to := (a-lo)/k, (b-lo+k-1)/k
			setBits(m, from, to-from)
		}
	}
	end := (hi - lo + k - 1) / k
	setBits(m, end, uint64(len(m)*8)-end)
}

// modifyGroupBitmap returns a group's bitmap and descriptor for changing. A bitmap that
// the group does not have yet is created in its initial state.
func (fs *FS) modifyGroupBitmap(g uint32, inodes bool) (bitmap []byte, d groupDesc, err error) {
	if d, err = fs.modifyGroupDesc(g); err != nil {
		return nil, nil, err
	}
	old, err := fs.readGroupBitmap(g, d, inodes)
	if err != nil {
		return nil, nil, err
	}
	n, flag, dirty := d.blockBitmap(), uint16(groupBlockUninit), blockBitmapDirty
	if inodes {
		n, flag, dirty = d.inodeBitmap(), groupInodeUninit, inodeBitmapDirty
	}
	if old != nil {
		bitmap, err = fs.modifyBlock(n)
	} else {
		if n < fs.sb.firstBlock || n >= fs.sb.blocks {
			return nil, nil, corruptf("a bitmap of group %d lies outside the file system", g)
		}
		bitmap = fs.createZeroedBlock(n)
		if inodes {
			setBits(bitmap, uint64(fs.sb.inodesPerGroup), uint64(len(bitmap)*8)-uint64(fs.sb.inodesPerGroup))
		} else {
			fs.sb.fillInitialBlockBitmap(g, d, bitmap)
		}
		le.PutUint16(d[gdFlags:], d.flags()&^flag)
	}
	fs.tx.dirtyGroups[g] |= dirty
	return bitmap, d, err
}
