package ext4

import "bytes"

// checkBlockMap checks the blocks of a file without extents.
func (c *checker) checkBlockMap(m *mappingState) {
	area := m.i.blockArea()
	for k := range directBlocks {
		c.checkBlockPointer(m, uint64(le.Uint32(area[4*k:])), uint64(k))
	}
	per := uint64(c.sb.blockSize / 4)
	base, span := uint64(directBlocks), uint64(1)
	for depth := 1; depth <= 3; depth++ {
		span *= per
		c.checkIndirectBlock(m, uint64(le.Uint32(area[4*(directBlocks+depth-1):])), depth, base, span)
		base += span
	}
	if m.i.isDir() && m.last >= 0 && uint64(m.last+1) != m.next {
		m.reportMapping(c, ProblemDir, 0, "has a hole")
	}
}

// checkBlockPointer checks the pointer to a block of a file. next counts the blocks: for a
// directory without holes that is one more than the last.
func (c *checker) checkBlockPointer(m *mappingState, at, logical uint64) {
	if at == 0 {
		return
	}
	if !c.containsBlocks(at, 1) {
		m.reportMapping(c, ProblemOutside, at, "block %d of the file", logical)
		return
	}
	if !m.i.isDir() && !m.i.isRegular() && m.i.num != badBlocksInode && logical > 0 {
		m.reportMapping(c, ProblemMapping, 0, "has more than one block")
	}
	c.checkDirLength(m, logical+1)
	c.claimDataBlocks(m, logical, at, 1)
	m.last, m.prev = int64(logical), at
	m.next++
}

// checkIndirectBlock checks an indirect block, which covers span blocks from base on.
func (c *checker) checkIndirectBlock(m *mappingState, at uint64, depth int, base, span uint64) {
	if at == 0 || c.shouldStop() {
		return
	}
	if !c.containsBlocks(at, 1) {
		m.reportMapping(c, ProblemOutside, at, "an indirect block lies there")
		return
	}
	if !c.claimFileBlocks(m, at, 1) {
		return // each is looked at once
	}
	b := c.readMetadata(at)
	if b == nil {
		return
	}
	b = bytes.Clone(b)
	per := uint64(c.sb.blockSize / 4)
	for k := uint64(0); k < per && c.err == nil; k++ {
		p := uint64(le.Uint32(b[4*k:]))
		if depth == 1 {
			c.checkBlockPointer(m, p, base+k)
		} else {
			c.checkIndirectBlock(m, p, depth-1, base+k*(span/per), span/per)
		}
	}
}

// checkBadBlocksInode checks the inode that lists unusable blocks.
func (c *checker) checkBadBlocksInode(i *inode) {
	if i.mode() != 0 || i.uid() != 0 || i.gid() != 0 || i.linkCount() != 0 || i.hasFlag(flagInline) || i.xattrBlock() != 0 {
		c.reportInode(ProblemInode, i.num, "the bad blocks inode has mode %#o and %d links", i.mode(), i.linkCount())
	}
	m := &mappingState{i: i, last: -1}
	if i.hasFlag(flagExtents) {
		c.checkExtentTree(m)
		return
	}
	c.checkBlockMap(m)
}

// checkResizeInode checks the inode that holds the blocks reserved for more descriptors:
// those of the first group are its indirect blocks, which list those of the backups.
func (c *checker) checkResizeInode(i *inode) {
	used := uint64(c.fs.statedStorage(i))
	area := i.blockArea()
	if c.sb.compat&compatResizeInode == 0 && isAllZero(area) {
		return // otherwise tune2fs took the feature away, and e2fsck -f is to empty it
	}
	at := uint64(le.Uint32(area[4*(directBlocks+1):]))
	others := !isAllZero(area[:4*(directBlocks+1)]) || !isAllZero(area[4*(directBlocks+2):])
	if i.linkCount() == 0 {
		c.reportHarmless(ProblemResize, i.num, -1, "has no links")
	}
	if others || !c.containsBlocks(at, 1) || !i.isRegular() || i.hasFlag(flagExtents|flagInline|flagIndexed) {
		c.reportHarmless(ProblemResize, i.num, -1, "is invalid")
		return
	}
	if i.xattrBlock() != 0 {
		c.reportInode(ProblemXattr, i.num, "has attributes")
	}
	m := &mappingState{i: i, last: -1}
	c.claimFileBlocks(m, at, 1)
	if c.isFixedMetadata(at) {
		return
	}
	b := c.readMetadata(at)
	if b == nil {
		return
	}
	b = bytes.Clone(b)
	per := uint64(c.sb.blockSize / 4)
	for k := range per {
		p := uint64(le.Uint32(b[4*k:]))
		if p == 0 {
			continue
		}
		if !c.containsBlocks(p, 1) {
			c.reportBlock(ProblemOutside, i.num, p, "is reserved for descriptors")
			return
		}
		m.clusters++
		c.countResizePointers(m, p, directBlocks+per+k*per)
	}
	m.lastInit = m.last
	c.checkReservedDescList(i, b)
	c.checkFileSize(m)
	if n := m.clusters * uint64(c.sb.clusterBlocks) * uint64(c.sb.blockSize); n != used {
		c.reportInode(ProblemInodeBlocks, i.num, "counts %d bytes of storage, but has %d", used, n)
	}
}

// countResizePointers counts the pointers in a block that covers the blocks from base on.
func (c *checker) countResizePointers(m *mappingState, at, base uint64) {
	b := c.readMetadata(at)
	for k := 0; k < len(b); k += 4 {
		if le.Uint32(b[k:]) != 0 {
			m.clusters++
			m.last = int64(base) + int64(k/4)
		}
	}
}

// checkReservedDescList compares the pointers with where the blocks must lie. Like e2fsck
// it compares only the first quarter of the blocks.
func (c *checker) checkReservedDescList(i *inode, b []byte) {
	per := uint32(c.sb.blockSize / 4)
	at := c.sb.superblockNumber() + 1 + uint64(c.sb.descBlockCount())
	for k := range c.sb.reservedDescs / 4 {
		want := at + uint64(k)
		slot := (c.sb.descBlockCount() + k) % per
		if uint64(le.Uint32(b[4*slot:])) != want {
			c.reportHarmless(ProblemResize, i.num, -1, "block %d is reserved for descriptors, but not in the inode", want)
			return
		}
		ptrs := c.readMetadata(want)
		if ptrs == nil {
			return
		}
		n := uint32(0)
		for g := uint32(1); g < c.sb.groups && n < per; g++ {
			if !c.sb.hasSuperblock(g) {
				continue
			}
			if uint64(le.Uint32(ptrs[4*n:])) != want+uint64(g)*uint64(c.sb.blocksPerGroup) {
				c.reportHarmless(ProblemResize, i.num, -1, "block %d does not list its copy in group %d", want, g)
				return
			}
			n++
		}
	}
}
