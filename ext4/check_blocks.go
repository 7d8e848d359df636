package ext4

import (
	"bytes"
	"slices"
)

// mapped is what is known of the blocks of an inode while they are looked at.
type mapped struct {
	i        *inode
	clusters uint64 // in use, those of the mapping itself included
	next     uint64 // first logical block that was not mapped yet
	last     int64  // last logical block that is mapped
	lastInit int64  // likewise, without those that read as zeros
	prev     uint64 // last block
	skip     bool   // the mapping is not sound
}

func (m *mapped) bad(c *checker, code, format string, args ...any) {
	m.skip = true
	c.badInode(code, m.i.num, format, args...)
}

// claim takes the clusters of n blocks.
func (c *checker) claim(m *mapped, at, n uint64) bool {
	a, b := c.unit(at), c.unit(at+n-1)
	m.clusters += b - a + 1
	k, twice := c.used.add(a, b-a+1)
	if twice {
		m.skip = true
		c.badBlock(ProblemShared, m.i.num, k*uint64(c.sb.cluster)+c.sb.first, "is in use elsewhere too")
	}
	return !twice
}

// claimData takes the clusters of the blocks of a file. Blocks of one cluster may be
// mapped one by one.
func (c *checker) claimData(m *mapped, logical, at, n uint64) {
	k := uint64(c.sb.cluster)
	if k == 1 {
		c.claim(m, at, n)
		return
	}
	if (at-c.sb.first)%k != logical%k {
		m.bad(c, ProblemMapping, "block %d lies elsewhere in its cluster than block %d of the file", at, logical)
	}
	if m.prev != 0 && c.unit(m.prev) == c.unit(at) {
		skip := min(n, k-(at-c.sb.first)%k)
		at, n = at+skip, n-skip
	} else if m.prev != 0 && logical%k != 0 && uint64(m.last)/k == logical/k {
		m.bad(c, ProblemMapping, "a cluster of the file in two places")
	}
	if n > 0 {
		c.claim(m, at, n)
	}
}

// hasMapping reports whether an inode's area maps blocks.
func (c *checker) hasMapping(i *inode) bool {
	switch i.kind() {
	case typeRegular, typeDir:
		return !i.has(flagInline)
	case typeSymlink:
		if i.has(flagInline) {
			return false
		}
		if i.xattrBlock() == 0 && !c.hasFarValue(i) {
			return le.Uint32(i.raw[inBlocksLo:]) != 0
		}
		return i.size() >= blockAreaLen || i.size() > 4 && le.Uint32(i.area()[4:]) == 0
	}
	return false
}

// hasFarValue reports whether an attribute in an inode has its value in another one, which
// counts as storage of both.
func (c *checker) hasFarValue(i *inode) bool {
	list, err := c.fs.innerXattrs(i)
	return err == nil && slices.ContainsFunc(list, func(x xattr) bool { return x.inode != 0 })
}

// checkContent checks where an inode's content lies; more is the clusters that its
// attributes take elsewhere.
func (c *checker) checkContent(i *inode, s *inodeState, more uint64) {
	m := &mapped{i: i, last: -1, lastInit: -1, clusters: more}
	m.clusters += c.checkXattrBlock(i, m)
	switch {
	case i.has(flagInline) && c.sb.incompat&incompatInlineData != 0:
		c.checkInline(i)
	case !c.hasMapping(i):
	case i.has(flagExtents) && c.sb.incompat&incompatExtents != 0:
		c.checkExtents(m)
	default:
		c.checkBlockMap(m)
		m.lastInit = m.last
	}
	if i.has(flagIndexed) && !i.isDir() {
		c.badInode(ProblemInode, i.num, "an index, but no directory")
	}
	c.checkSize(m)
	if want, got := m.clusters*uint64(c.sb.cluster), c.storage(i); want*uint64(c.sb.blockSize) != got {
		c.badInode(ProblemInodeBlocks, i.num, "counts %d bytes of storage and has %d", got, want*uint64(c.sb.blockSize))
	}
	if i.kind() == typeSymlink && !m.skip {
		c.checkSymlink(i)
	}
	if m.skip {
		s.bits |= stateSkip
	}
}

// storage returns the bytes of storage that an inode says it has.
func (c *checker) storage(i *inode) uint64 {
	n, hi := uint64(le.Uint32(i.raw[inBlocksLo:])), uint64(le.Uint16(i.raw[inBlocksHi:]))
	if c.sb.ro&roHugeFile == 0 {
		return n * 512
	}
	if i.has(flagHugeFile) {
		return (n | hi<<32) * uint64(c.sb.blockSize)
	}
	return (n | hi<<32) * 512
}

// checkSize compares the size with what is mapped.
func (c *checker) checkSize(m *mapped) {
	i, bs := m.i, uint64(c.sb.blockSize)
	size := uint64(i.size())
	bad := func(why string) {
		m.skip = m.skip || i.isDir()
		c.badInode(ProblemInodeSize, i.num, "%d bytes, %d blocks mapped: %s", size, m.last+1, why)
	}
	switch {
	case i.isDir() && i.has(flagInline) && c.sb.incompat&incompatInlineData != 0:
		return
	case i.isDir():
		if m.clusters == 0 {
			c.badInode(ProblemDir, i.num, "has no blocks")
		}
		have := uint64(m.last + 1)
		if size%bs != 0 || size/bs > have || have-size/bs > uint64(c.sb.raw[0xcd]) {
			bad("a directory is as long as its blocks")
		}
		c.deep = c.deep || size >= 1<<31
	case i.kind() == typeSymlink:
		return
	case m.lastInit >= 0 && size < uint64(m.lastInit)*bs && !i.has(flagVerity):
		if _, orphan := c.orphans[i.num]; !orphan {
			bad("there is content behind the end")
		}
	case i.has(flagExtents) && size > 1<<32*bs-1, !i.has(flagExtents) && size > c.maxMapped():
		bad("too long")
	}
	c.large = c.large || i.isRegular() && size >= 1<<31
}

// maxMapped returns how long a file without extents may be.
func (c *checker) maxMapped() uint64 {
	per := uint64(c.sb.blockSize / 4)
	return (directBlocks + per + per*per + per*per*per) * uint64(c.sb.blockSize)
}

// checkExtents checks an extent tree.
func (c *checker) checkExtents(m *mapped) {
	n := extNode(m.i.area())
	if !c.goodNode(n) || n.depth() > maxDepth {
		m.bad(c, ProblemMapping, "the root of the extents")
		return
	}
	c.checkNode(m, n, n.depth(), 0, maxLogical+1)
}

// goodNode checks the header of a node.
func (c *checker) goodNode(n extNode) bool {
	most := (len(n) - extHeader) / extEntry
	return le.Uint16(n) == extentMagic && n.count() <= n.room() && n.room() <= most && n.room() >= most-2
}

// checkNode checks a node whose entries are to be between from and before to.
func (c *checker) checkNode(m *mapped, n extNode, depth int, from, to uint64) {
	for k := 0; k < n.count() && !c.stopped(); k++ {
		if depth == 0 {
			c.checkExtent(m, n.extent(k), from, to)
			continue
		}
		key, limit := uint64(n.key(k)), to
		if k+1 < n.count() {
			limit = min(limit, uint64(n.key(k+1)))
		}
		at := n.child(k)
		switch {
		case !c.inside(at, 1):
			m.skip = true
			c.badBlock(ProblemOutside, m.i.num, at, "a node of the extents")
		case key < m.next || key < from || key >= limit:
			m.bad(c, ProblemMapping, "a node of the extents for block %d is out of order", key)
		case !c.claim(m, at, 1):
			// Each node is looked at once, whatever the tree says.
		default:
			c.checkChild(m, at, depth-1, key, limit)
		}
	}
}

// checkChild checks a node in a block of its own, which begins with a key.
func (c *checker) checkChild(m *mapped, at uint64, depth int, key, limit uint64) {
	b := c.read(at)
	if b == nil {
		return
	}
	n := extNode(bytes.Clone(b)) // it may leave the cache meanwhile
	if !c.goodNode(n) || n.depth() != depth || n.count() == 0 {
		m.skip = true
		c.badBlock(ProblemMapping, m.i.num, at, "the header of a node of the extents")
		return
	}
	if c.sb.csum {
		end := extHeader + extEntry*n.room()
		if end+4 > len(n) || ownedChecksum(c.sb.seed, m.i.num, m.i.generation(), n[:end]) != le.Uint32(n[end:]) {
			c.badBlock(ProblemMapSum, m.i.num, at, "checksum of a node of the extents")
		}
	}
	if uint64(n.key(0)) != key {
		c.badBlock(ProblemMapping, m.i.num, at, "a node of the extents begins with block %d, not %d", n.key(0), key)
	}
	c.checkNode(m, n, depth, key, limit)
}

// checkExtent checks one extent.
func (c *checker) checkExtent(m *mapped, e extent, from, to uint64) {
	eof := (uint64(m.i.size()) + uint64(c.sb.blockSize) - 1) / uint64(c.sb.blockSize)
	switch {
	case e.n == 0:
		m.bad(c, ProblemMapping, "an extent without blocks")
		return
	case !c.inside(e.start, uint64(e.n)):
		m.skip = true
		c.badBlock(ProblemOutside, m.i.num, e.start, "%d blocks", e.n)
		return
	case uint64(e.logical) < m.next || uint64(e.logical) < from || e.end() > to || e.end() > maxLogical+1:
		m.bad(c, ProblemMapping, "the extent of block %d overlaps another or is out of order", e.logical)
		return
	case m.i.isDir() && e.unwritten:
		m.bad(c, ProblemDir, "block %d was never written", e.logical)
	case m.i.isDir() && uint64(e.logical) > uint64(m.last+1):
		m.bad(c, ProblemDir, "a hole before block %d", e.logical)
	case from > 0 && !e.unwritten && e.end() > eof && !m.i.has(flagVerity) && m.i.isRegular():
		if _, orphan := c.orphans[m.i.num]; !orphan {
			c.badInode(ProblemInodeSize, m.i.num, "content behind the end, in block %d", e.end()-1)
		}
	}
	c.tooBigDir(m, e.end())
	c.claimData(m, uint64(e.logical), e.start, uint64(e.n))
	m.next, m.last, m.prev = e.end(), int64(e.end())-1, e.start+uint64(e.n)-1
	if !e.unwritten {
		m.lastInit = m.last
	}
}

// tooBigDir finds directories that are longer than the features allow.
func (c *checker) tooBigDir(m *mapped, blocks uint64) {
	if m.i.isDir() && c.sb.incompat&incompatLargeDir == 0 && blocks*uint64(c.sb.blockSize) > 1<<31 {
		m.bad(c, ProblemDir, "%d blocks", blocks)
	}
}
