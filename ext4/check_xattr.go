package ext4

import (
	"bytes"
	"maps"
	"slices"
)

// xattrShare is an attribute block, which several inodes may share.
type xattrShare struct {
	inode    uint32 // that was met first
	stated   uint32 // how many share it, as it says
	found    uint32
	clusters uint64 // that an inode with it takes
}

// xattrArea is an area of attribute entries and values that is being checked. Offsets
// count from the start of area.
type xattrArea struct {
	i            *inode
	area         []byte
	claimedBytes []byte // a bit for each byte
	values       int    // base of the offsets of values
	inInode      bool   // in the inode
}

// claimBytes claims bytes of the area, and reports whether they exist and were free.
func (r *xattrArea) claimBytes(off, n int) bool {
	if off < 0 || off+n > len(r.area) {
		return false
	}
	for k := off; k < off+n; k++ {
		if testBit(r.claimedBytes, uint64(k)) {
			return false
		}
	}
	setBits(r.claimedBytes, uint64(off), uint64(n))
	return true
}

// checkXattrEntries checks the entries of an area from offset off on. It returns the
// clusters of values in inodes of their own.
func (c *checker) checkXattrEntries(i *inode, area []byte, off, values int, inner bool) (clusters uint64) {
	r := &xattrArea{i: i, area: area, claimedBytes: make([]byte, (len(area)+7)/8), values: values, inInode: inner}
	r.claimBytes(0, off)
	var refs []uint32
	for off+4 <= len(area) && le.Uint32(area[off:]) != 0 {
		if off+xattrEntryLen > len(area) {
			c.reportInode(ProblemXattr, i.num, "the attribute entry at offset %d is cut off", off)
			return clusters
		}
		e := area[off:]
		size := (xattrEntryLen + int(e[0]) + 3) &^ 3
		if !r.claimBytes(off, size) || e[1] == 0 && !inner {
			c.reportInode(ProblemXattr, i.num, "the entry at offset %d is invalid", off)
			return clusters
		}
		if ino := le.Uint32(e[4:]); ino != 0 {
			clusters += c.checkValueInInode(i, e, ino)
			refs = append(refs, ino)
		} else if !c.checkValueInArea(r, e) {
			return clusters
		}
		off += size
	}
	if !r.claimBytes(off, 4) {
		c.reportInode(ProblemXattr, i.num, "the attribute entries are not terminated")
	}
	for _, ino := range refs {
		if _, ok := c.valueInodeRefs[ino]; !ok {
			c.chargeMemory(48)
		}
		c.valueInodeRefs[ino]++
	}
	return clusters
}

// checkValueInArea checks a value that lies in the same area as its entry.
func (c *checker) checkValueInArea(r *xattrArea, e []byte) bool {
	at, size := r.values+int(le.Uint16(e[2:])), le.Uint32(e[8:])
	if size == 0 {
		at = 0 // wherever it says that nothing lies
	}
	if size > uint32(len(r.area)) || at+int(size) > len(r.area) || size > 0 && !r.claimBytes(at, int(size+3)&^3) {
		c.reportInode(ProblemXattr, r.i.num, "the attribute value at offset %d of %d bytes overlaps or is outside", at, size)
		return false
	}
	sum := le.Uint32(e[12:])
	if r.inInode && sum == 0 {
		return true
	}
	name, value := e[xattrEntryLen:xattrEntryLen+int(e[0])], r.area[at:min(at+int(size+3)&^3, len(r.area))] // whole words
	if x := (xattr{name: string(name), value: value}); x.entryHash() != sum && signedXattrHash(x) != sum {
		c.reportInode(ProblemXattrHash, r.i.num, "attribute %q has a wrong hash", name)
	}
	return true
}

// signedXattrHash computes an entry's hash as kernels with signed chars do.
func signedXattrHash(x xattr) uint32 {
	h := uint32(0)
	for _, b := range []byte(x.name) {
		h = h<<5 ^ h>>27 ^ uint32(int32(int8(b)))
	}
	return addValueHash(h, x.value)
}

// checkValueInInode checks an entry whose value lies in an inode of its own. It returns
// the clusters of that which count as storage of the owner too.
func (c *checker) checkValueInInode(i *inode, e []byte, ino uint32) uint64 {
	name, size, sum := string(e[xattrEntryLen:xattrEntryLen+int(e[0])]), uint64(le.Uint32(e[8:])), le.Uint32(e[12:])
	if ino < c.sb.firstUserInode || ino > c.sb.inodes {
		c.reportInode(ProblemXattr, i.num, "the value of attribute %q lies in inode %d, which cannot hold it", name, ino)
		return 0
	}
	v := c.readRawInode(ino)
	if v == nil {
		return 0
	}
	if c.sb.incompat&incompatEAInode == 0 {
		c.reportInode(ProblemFeatures, i.num, "the value of attribute %q lies in inode %d, without the feature ea_inode", name, ino)
	}
	if size == 0 || v.size() == 0 {
		c.reportInode(ProblemXattr, i.num, "the value of attribute %q in inode %d is empty", name, ino)
	}
	if !v.hasFlag(flagEAInode) {
		c.reportInode(ProblemXattr, i.num, "the value of attribute %q lies in inode %d, which is not an attribute inode", name, ino)
	}
	far := v.raw[inAtime : inAtime+4] // the hash of the value
	if sum == addValueHash((xattr{name: name}).entryHash(), far) || sum == addValueHash(signedXattrHash(xattr{name: name}), far) {
		unit := uint64(c.sb.blockSize) * uint64(c.sb.clusterBlocks)
		return (size + unit - 1) / unit
	}
	if le.Uint32(v.raw[inMtime:]) != i.num || v.generation() != i.generation() {
		c.reportInode(ProblemXattrHash, i.num, "attribute %q has a wrong hash", name)
	}
	return 0
}

// checkInodeXattrs checks the attributes in an inode, and returns the clusters that their
// values take elsewhere.
func (c *checker) checkInodeXattrs(i *inode) uint64 {
	if i.extraSize() > len(i.raw)-oldInodeSize || len(i.raw) == oldInodeSize {
		return 0
	}
	area := i.raw[oldInodeSize+i.extraSize():]
	if len(area) <= 4 || le.Uint32(area) != xattrMagic {
		return 0
	}
	return c.checkXattrEntries(i, area, 4, 4, true)
}

// checkXattrBlock checks an inode's attribute block, and returns the clusters that it
// takes.
func (c *checker) checkXattrBlock(i *inode, m *mappingState) uint64 {
	blockNumber := i.xattrBlock()
	if c.sb.incompat&incompat64bit == 0 {
		blockNumber &= 1<<32 - 1
	}
	if blockNumber == 0 {
		return 0
	}
	if !c.containsBlocks(blockNumber, 1) || c.sb.compat&compatExtAttr == 0 {
		c.reportBlock(ProblemXattr, i.num, blockNumber, "is named as attribute block")
		return 0
	}
	if s := c.xattrBlocks[blockNumber]; s != nil {
		s.found++
		return s.clusters
	}
	own := &mappingState{i: i}
	if !c.claimFileBlocks(own, blockNumber, 1) {
		return 1
	}
	b := c.readMetadata(blockNumber)
	if b == nil || !c.chargeMemory(96) {
		return 0
	}
	b = bytes.Clone(b)
	s := &xattrShare{inode: i.num, stated: le.Uint32(b[xattrRefs:]), found: 1, clusters: 1}
	c.xattrBlocks[blockNumber] = s
	if le.Uint32(b) != xattrMagic || le.Uint32(b[8:]) != 1 {
		c.reportBlock(ProblemXattr, i.num, blockNumber, "the header of an attribute block is invalid")
		return 1
	}
	if c.sb.metadataCsum && c.fs.xattrBlockChecksum(blockNumber, b) != le.Uint32(b[xattrSum:]) {
		c.reportBlock(ProblemXattrSum, i.num, blockNumber, "wrong checksum")
	}
	s.clusters += c.checkXattrEntries(i, b, xattrHeaderLen, 0, false)
	return s.clusters
}

// checkXattrRefCounts compares the reference counts of attribute blocks and value inodes
// with their uses.
func (c *checker) checkXattrRefCounts() {
	for _, at := range sortedBlockNumbers(c.xattrBlocks) {
		if s := c.xattrBlocks[at]; s.stated != s.found {
			c.reportBlock(ProblemXattrRefs, s.inode, at, "%d inodes share the attribute block, not %d", s.found, s.stated)
		}
		if c.shouldStop() {
			return
		}
	}
	for _, ino := range slices.Sorted(maps.Keys(c.valueInodeRefs)) {
		if c.shouldStop() {
			return
		}
		c.checkValueInodeRefs(ino)
	}
}

// checkValueInodeRefs checks the reference count of an inode that holds an attribute's
// value.
func (c *checker) checkValueInodeRefs(ino uint32) {
	s := c.stateOfInode(ino)
	i := c.readRawInode(ino)
	if s == nil || i == nil {
		c.reportInode(ProblemXattrRefs, ino, "holds the value of an attribute, but is unused")
		return
	}
	s.names++
	refs := uint64(le.Uint32(i.raw[inCtime:]))<<32 | uint64(le.Uint32(i.raw[inVersion:]))
	if refs != c.valueInodeRefs[ino] && le.Uint32(i.raw[inCtime:]) != le.Uint32(i.raw[inAtime:]) {
		c.reportInode(ProblemXattrRefs, ino, "%d attributes have their value in the inode, not %d", c.valueInodeRefs[ino], refs)
	}
}

// checkInlineData checks an inode that holds its content itself.
func (c *checker) checkInlineData(i *inode) {
	n, ok := c.inlineDataSize(i)
	switch {
	case !ok:
		c.reportInode(ProblemInline, i.num, "has no attribute for its inline data")
	case i.isDir() && uint64(i.size()) != uint64(n), i.fileType() == typeSymlink && i.size() != int64(n):
		c.reportInode(ProblemInline, i.num, "has %d bytes of inline data, with room for %d", uint64(i.size()), n)
	}
}

// inlineDataSize returns how many bytes of content lie in an inode; false if the attribute
// for them is missing.
func (c *checker) inlineDataSize(i *inode) (int, bool) {
	if i.extraSize() > len(i.raw)-oldInodeSize {
		return 0, false
	}
	list, err := c.fs.readBodyXattrs(i)
	if err != nil {
		return 0, false
	}
	// e2fsck reads no content beside a value that is said to lie outside, though it has no bytes.
	area := i.xattrBodyArea()
	for off, k := 4, 0; k < len(list); k++ {
		if le.Uint32(area[off+4:]) == 0 && 4+int(le.Uint16(area[off+2:])) > len(area) {
			return 0, false
		}
		off += (xattrEntryLen + len(list[k].name) + 3) &^ 3
	}
	for _, x := range list {
		if x.index == xattrSystem && x.name == "data" {
			return blockAreaLen + x.size, true
		}
	}
	return 0, false
}

// checkSymlink checks a symbolic link's target.
func (c *checker) checkSymlink(i *inode) {
	size := i.size()
	if size <= 0 || le.Uint32(i.raw[inSizeHi:]) != 0 {
		c.reportInode(ProblemSymlink, i.num, "%d bytes", uint64(size))
		return
	}
	if i.hasFlag(flagInline) {
		return
	}
	target := i.blockArea()
	if i.hasFlag(flagEncrypted) {
		return
	}
	if size < blockAreaLen {
		if i.hasFlag(flagExtents) {
			c.reportInode(ProblemSymlink, i.num, "is a short symbolic link with extents")
			return
		}
	} else {
		at := uint64(le.Uint32(target))
		if i.hasFlag(flagExtents) {
			root := extentNode(target)
			if !c.validExtentHeader(root) || root.treeDepth() != 0 || root.entryCount() != 1 || root.firstLogical(0) != 0 || root.extentAt(0).n != 1 {
				c.reportInode(ProblemSymlink, i.num, "the target is not in one block")
				return
			}
			at = root.extentAt(0).start
		} else if !isAllZero(target[4:]) {
			c.reportInode(ProblemSymlink, i.num, "the target is not in one block")
			return
		}
		if !c.containsBlocks(at, 1) {
			c.reportBlock(ProblemSymlink, i.num, at, "holds the target")
			return
		}
		if target = c.readMetadata(at); target == nil {
			return
		}
	}
	if have := bytes.IndexByte(target, 0); int64(have) != size {
		c.reportInode(ProblemSymlink, i.num, "has %d bytes, but its target has %d", size, have)
	}
}
