package ext4

import "bytes"

// checkBlockMap checks the blocks of a file without extents.
func (c *checker) checkBlockMap(m *mapped) {
	area := m.i.area()
	for k := range directBlocks {
		c.checkPointer(m, uint64(le.Uint32(area[4*k:])), uint64(k))
	}
	per := uint64(c.sb.blockSize / 4)
	base, span := uint64(directBlocks), uint64(1)
	for depth := 1; depth <= 3; depth++ {
		span *= per
		c.checkIndirect(m, uint64(le.Uint32(area[4*(directBlocks+depth-1):])), depth, base, span)
		base += span
	}
	if m.i.isDir() && m.last >= 0 && uint64(m.last+1) != m.next {
		m.bad(c, ProblemDir, "has a hole")
	}
}

// checkPointer checks where a block of a file lies. In next it counts blocks, which
// for a directory without holes is one more than the last.
func (c *checker) checkPointer(m *mapped, at, logical uint64) {
	if at == 0 {
		return
	}
	if !c.inside(at, 1) {
		m.skip = true
		c.badBlock(ProblemOutside, m.i.num, at, "block %d of the file", logical)
		return
	}
	if !m.i.isDir() && !m.i.isRegular() && m.i.num != badBlocksInode && logical > 0 {
		m.bad(c, ProblemMapping, "more than a block")
	}
	c.tooBigDir(m, logical+1)
	c.claimData(m, logical, at, 1)
	m.last, m.prev = int64(logical), at
	m.next++
}

// checkIndirect checks a block of pointers, which covers span blocks from base on.
func (c *checker) checkIndirect(m *mapped, at uint64, depth int, base, span uint64) {
	if at == 0 || c.stopped() {
		return
	}
	if !c.inside(at, 1) {
		m.skip = true
		c.badBlock(ProblemOutside, m.i.num, at, "a block of pointers")
		return
	}
	if !c.claim(m, at, 1) {
		return // each is looked at once
	}
	b := c.read(at)
	if b == nil {
		return
	}
	b = bytes.Clone(b)
	per := uint64(c.sb.blockSize / 4)
	for k := uint64(0); k < per && c.err == nil; k++ {
		p := uint64(le.Uint32(b[4*k:]))
		if depth == 1 {
			c.checkPointer(m, p, base+k)
		} else {
			c.checkIndirect(m, p, depth-1, base+k*(span/per), span/per)
		}
	}
}

// checkBadBlocks checks the inode that lists blocks that cannot be used.
func (c *checker) checkBadBlocks(i *inode) {
	if i.mode() != 0 || i.uid() != 0 || i.gid() != 0 || i.links() != 0 || i.has(flagInline) || i.xattrBlock() != 0 {
		c.badInode(ProblemInode, i.num, "the list of bad blocks has mode %#o and %d links", i.mode(), i.links())
	}
	m := &mapped{i: i, last: -1}
	if i.has(flagExtents) {
		c.checkExtents(m)
		return
	}
	c.checkBlockMap(m)
}

// checkResize checks the inode that holds the blocks kept for more descriptors: those
// of the first group are its blocks of pointers, which lead to those of the backups.
func (c *checker) checkResize(i *inode) {
	used := c.storage(i)
	area := i.area()
	if c.sb.compat&compatResizeInode == 0 && allZero(area) {
		return // otherwise tune2fs took the feature away, and e2fsck -f is to empty it
	}
	at := uint64(le.Uint32(area[4*(directBlocks+1):]))
	others := !allZero(area[:4*(directBlocks+1)]) || !allZero(area[4*(directBlocks+2):])
	if i.links() == 0 {
		c.minor(ProblemResize, i.num, -1, "has no links")
	}
	if others || !c.inside(at, 1) || !i.isRegular() || i.has(flagExtents|flagInline|flagIndexed) {
		c.minor(ProblemResize, i.num, -1, "is not what it should be")
		return
	}
	if i.xattrBlock() != 0 {
		c.badInode(ProblemXattr, i.num, "has attributes")
	}
	m := &mapped{i: i, last: -1}
	c.claim(m, at, 1)
	if c.isMeta(at) {
		return
	}
	b := c.read(at)
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
		if !c.inside(p, 1) {
			c.badBlock(ProblemOutside, i.num, p, "kept for descriptors")
			return
		}
		m.clusters++
		c.countPointers(m, p, directBlocks+per+k*per)
	}
	m.lastInit = m.last
	c.checkReserved(i, b)
	c.checkSize(m)
	if n := m.clusters * uint64(c.sb.cluster) * uint64(c.sb.blockSize); n != used {
		c.badInode(ProblemInodeBlocks, i.num, "counts %d bytes of storage and has %d", used, n)
	}
}

// countPointers counts the pointers in a block, which are for the blocks from base on.
func (c *checker) countPointers(m *mapped, at, base uint64) {
	b := c.read(at)
	for k := 0; k < len(b); k += 4 {
		if le.Uint32(b[k:]) != 0 {
			m.clusters++
			m.last = int64(base) + int64(k/4)
		}
	}
}

// checkReserved compares the pointers with where the blocks must lie: those of the first
// quarter of the blocks, which is what e2fsck compares.
func (c *checker) checkReserved(i *inode, b []byte) {
	per := uint32(c.sb.blockSize / 4)
	at := c.sb.superBlock() + 1 + uint64(c.sb.descBlocks())
	for k := range c.sb.reserved / 4 {
		want := at + uint64(k)
		slot := (c.sb.descBlocks() + k) % per
		if uint64(le.Uint32(b[4*slot:])) != want {
			c.minor(ProblemResize, i.num, -1, "block %d is kept for descriptors, and not in the inode", want)
			return
		}
		ptrs := c.read(want)
		if ptrs == nil {
			return
		}
		n := uint32(0)
		for g := uint32(1); g < c.sb.groups && n < per; g++ {
			if !c.sb.hasSuper(g) {
				continue
			}
			if uint64(le.Uint32(ptrs[4*n:])) != want+uint64(g)*uint64(c.sb.perGroup) {
				c.minor(ProblemResize, i.num, -1, "block %d does not lead to the copy in group %d", want, g)
				return
			}
			n++
		}
	}
}
