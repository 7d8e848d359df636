package ext4

import (
	"bytes"
	"slices"
)

// mappingState accumulates what is found while the blocks of an inode are checked.
type mappingState struct {
	i        *inode
	clusters uint64 // in use, those of the mapping itself included
	next     uint64 // first logical block that was not mapped yet
	last     int64  // last logical block that is mapped
	lastInit int64  // last logical block that is mapped by a written extent
	prev     uint64 // last block
	unsound  bool   // the mapping is not sound
}

// reportMapping reports a problem that makes the mapping unsound, of a block or, with 0, of
// the whole inode.
func (m *mappingState) reportMapping(c *checker, code string, at uint64, format string, args ...any) {
	m.unsound = true
	c.reportBlock(code, m.i.num, at, format, args...)
}

// claimFileBlocks claims the clusters of n blocks for an inode, and reports whether they
// were free.
func (c *checker) claimFileBlocks(m *mappingState, at, n uint64) bool {
	a, b := c.clusterOf(at), c.clusterOf(at+n-1)
	m.clusters += b - a + 1
	k, twice := c.usedClusters.claimRange(a, b-a+1)
	if twice {
		m.reportMapping(c, ProblemShared, k*uint64(c.sb.clusterBlocks)+c.sb.firstBlock, "has another owner too")
	}
	return !twice
}

// claimDataBlocks claims the clusters of a file's data blocks. Blocks of one cluster may
// be mapped one by one.
func (c *checker) claimDataBlocks(m *mappingState, logical, at, n uint64) {
	k := uint64(c.sb.clusterBlocks)
	if k == 1 {
		c.claimFileBlocks(m, at, n)
		return
	}
	if (at-c.sb.firstBlock)%k != logical%k {
		m.reportMapping(c, ProblemMapping, 0, "block %d has another offset in its cluster than block %d of the file", at, logical)
	}
	if m.prev != 0 && c.clusterOf(m.prev) == c.clusterOf(at) {
		skip := min(n, k-(at-c.sb.firstBlock)%k)
		at, n = at+skip, n-skip
	} else if m.prev != 0 && logical%k != 0 && uint64(m.last)/k == logical/k {
		m.reportMapping(c, ProblemMapping, 0, "a cluster of the file lies in two places")
	}
	if n > 0 {
		c.claimFileBlocks(m, at, n)
	}
}

// mapsBlocks reports whether an inode's block area maps blocks.
func (c *checker) mapsBlocks(i *inode) bool {
	switch i.fileType() {
	case typeRegular, typeDir:
		return !i.hasFlag(flagInline)
	case typeSymlink:
		if i.hasFlag(flagInline) {
			return false
		}
		if i.xattrBlock() == 0 && !c.hasValueInode(i) {
			return le.Uint32(i.raw[inBlocksLo:]) != 0
		}
		return i.size() >= blockAreaLen || i.size() > 4 && le.Uint32(i.blockArea()[4:]) == 0
	}
	return false
}

// hasValueInode reports whether an attribute in an inode has its value in an inode of its
// own, which counts as storage of both.
func (c *checker) hasValueInode(i *inode) bool {
	list, err := c.fs.readBodyXattrs(i)
	return err == nil && slices.ContainsFunc(list, func(x xattr) bool { return x.inode != 0 })
}

// checkContent checks where an inode's content lies. more is the number of clusters that
// its attributes take elsewhere.
func (c *checker) checkContent(i *inode, s *inodeState, more uint64) {
	m := &mappingState{i: i, last: -1, lastInit: -1, clusters: more}
	m.clusters += c.checkXattrBlock(i, m)
	switch {
	case i.hasFlag(flagInline) && c.sb.incompat&incompatInlineData != 0:
		c.checkInlineData(i)
	case !c.mapsBlocks(i):
	case i.hasFlag(flagExtents) && c.sb.incompat&incompatExtents != 0:
		c.checkExtentTree(m)
	default:
		c.checkBlockMap(m)
		m.lastInit = m.last
	}
	if i.hasFlag(flagIndexed) && !i.isDir() {
		c.reportInode(ProblemInode, i.num, "has an index, but is not a directory")
	}
	c.checkFileSize(m)
	if want, got := m.clusters*uint64(c.sb.clusterBlocks), uint64(c.fs.statedStorage(i)); want*uint64(c.sb.blockSize) != got {
		c.reportInode(ProblemInodeBlocks, i.num, "counts %d bytes of storage, but has %d", got, want*uint64(c.sb.blockSize))
	}
	if i.fileType() == typeSymlink && !m.unsound {
		c.checkSymlink(i)
	}
	if m.unsound {
		s.flags |= stateSkip
	}
}

// checkFileSize compares an inode's size with the blocks that it maps.
func (c *checker) checkFileSize(m *mappingState) {
	i, blockSize := m.i, uint64(c.sb.blockSize)
	size := uint64(i.size())
	bad := func(why string) {
		m.unsound = m.unsound || i.isDir()
		c.reportInode(ProblemInodeSize, i.num, "%d bytes, but %d blocks mapped: %s", size, m.last+1, why)
	}
	switch {
	case i.isDir() && i.hasFlag(flagInline) && c.sb.incompat&incompatInlineData != 0:
		return
	case i.isDir():
		if m.clusters == 0 {
			c.reportInode(ProblemDir, i.num, "has no blocks")
		}
		have := uint64(m.last + 1)
		if size%blockSize != 0 || size/blockSize > have || have-size/blockSize > uint64(c.sb.raw[0xcd]) {
			bad("the size of a directory must be that of its blocks")
		}
		c.hasLargeDir = c.hasLargeDir || size >= 1<<31
	case i.fileType() == typeSymlink:
		return
	case m.lastInit >= 0 && size < uint64(m.lastInit)*blockSize && !i.hasFlag(flagVerity):
		if _, orphan := c.orphans[i.num]; !orphan {
			bad("there is content beyond the end")
		}
	case i.hasFlag(flagExtents) && size > 1<<32*blockSize-1, !i.hasFlag(flagExtents) && size > c.maxBlockMapSize():
		bad("too long")
	}
	c.hasLargeFile = c.hasLargeFile || i.isRegular() && size >= 1<<31
}

// maxBlockMapSize returns the largest size of a file without extents.
func (c *checker) maxBlockMapSize() uint64 {
	per := uint64(c.sb.blockSize / 4)
	return (directBlocks + per + per*per + per*per*per) * uint64(c.sb.blockSize)
}

// checkExtentTree checks an inode's extent tree.
func (c *checker) checkExtentTree(m *mappingState) {
	n := extentNode(m.i.blockArea())
	if !c.validExtentHeader(n) || n.treeDepth() > maxDepth {
		m.reportMapping(c, ProblemMapping, 0, "the root of the extent tree is invalid")
		return
	}
	c.checkExtentNode(m, n, n.treeDepth(), 0, maxLogical+1)
}

// validExtentHeader checks the header of a node.
func (c *checker) validExtentHeader(n extentNode) bool {
	most := (len(n) - extentHeaderLen) / extentEntryLen
	return le.Uint16(n) == extentMagic && n.entryCount() <= n.maxEntries() && n.maxEntries() <= most && n.maxEntries() >= most-2
}

// checkExtentNode checks the entries of a node, which must be in from..to-1.
func (c *checker) checkExtentNode(m *mappingState, n extentNode, depth int, from, to uint64) {
	for k := 0; k < n.entryCount() && !c.shouldStop(); k++ {
		if depth == 0 {
			c.checkExtent(m, n.extentAt(k), from, to)
			continue
		}
		key, limit := uint64(n.firstLogical(k)), to
		if k+1 < n.entryCount() {
			limit = min(limit, uint64(n.firstLogical(k+1)))
		}
		at := n.childBlock(k)
		switch {
		case !c.containsBlocks(at, 1):
			m.reportMapping(c, ProblemOutside, at, "a node of the extent tree lies there")
		case key < m.next || key < from || key >= limit:
			m.reportMapping(c, ProblemMapping, 0, "the extent tree node of block %d is out of order", key)
		case !c.claimFileBlocks(m, at, 1):
			// Reported. Each node is checked once, so damaged trees cannot cause loops.
		default:
			c.checkExtentChild(m, at, depth-1, key, limit)
		}
	}
}

// checkExtentChild checks a node in a block of its own, whose first entry must have the
// key in its parent.
func (c *checker) checkExtentChild(m *mappingState, at uint64, depth int, key, limit uint64) {
	b := c.readMetadata(at)
	if b == nil {
		return
	}
	n := extentNode(bytes.Clone(b)) // the block may be evicted before the end
	if !c.validExtentHeader(n) || n.treeDepth() != depth || n.entryCount() == 0 {
		m.reportMapping(c, ProblemMapping, at, "the header of an extent tree node is invalid")
		return
	}
	if c.sb.metadataCsum {
		end := extentHeaderLen + extentEntryLen*n.maxEntries()
		if end+4 > len(n) || ownedBlockChecksum(c.sb.csumSeed, m.i.num, m.i.generation(), n[:end]) != le.Uint32(n[end:]) {
			c.reportBlock(ProblemMapSum, m.i.num, at, "an extent tree node has a wrong checksum")
		}
	}
	if uint64(n.firstLogical(0)) != key {
		c.reportBlock(ProblemMapping, m.i.num, at, "an extent tree node begins with block %d, not %d", n.firstLogical(0), key)
	}
	c.checkExtentNode(m, n, depth, key, limit)
}

// checkExtent checks one extent.
func (c *checker) checkExtent(m *mappingState, e extent, from, to uint64) {
	eof := (uint64(m.i.size()) + uint64(c.sb.blockSize) - 1) / uint64(c.sb.blockSize)
	switch {
	case e.n == 0:
		m.reportMapping(c, ProblemMapping, 0, "an extent without blocks")
		return
	case !c.containsBlocks(e.start, uint64(e.n)):
		m.reportMapping(c, ProblemOutside, e.start, "%d blocks", e.n)
		return
	case uint64(e.logical) < m.next || uint64(e.logical) < from || e.endBlock() > to || e.endBlock() > maxLogical+1:
		m.reportMapping(c, ProblemMapping, 0, "the extent of block %d overlaps another or is out of order", e.logical)
		return
	case m.i.isDir() && e.unwritten:
		m.reportMapping(c, ProblemDir, 0, "block %d is unwritten", e.logical)
	case m.i.isDir() && uint64(e.logical) > uint64(m.last+1):
		m.reportMapping(c, ProblemDir, 0, "a hole before block %d", e.logical)
	case from > 0 && !e.unwritten && e.endBlock() > eof && !m.i.hasFlag(flagVerity) && m.i.isRegular():
		if _, orphan := c.orphans[m.i.num]; !orphan {
			c.reportInode(ProblemInodeSize, m.i.num, "content beyond the end, in block %d", e.endBlock()-1)
		}
	}
	c.checkDirLength(m, e.endBlock())
	c.claimDataBlocks(m, uint64(e.logical), e.start, uint64(e.n))
	m.next, m.last, m.prev = e.endBlock(), int64(e.endBlock())-1, e.start+uint64(e.n)-1
	if !e.unwritten {
		m.lastInit = m.last
	}
}

// checkDirLength reports directories that are longer than the features allow.
func (c *checker) checkDirLength(m *mappingState, blocks uint64) {
	if m.i.isDir() && c.sb.incompat&incompatLargeDir == 0 && blocks*uint64(c.sb.blockSize) > 1<<31 {
		m.reportMapping(c, ProblemDir, 0, "%d blocks", blocks)
	}
}
