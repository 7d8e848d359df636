package ext4

import (
	"bytes"
	"cmp"
	"slices"
)

// xattrShare is a block of attributes, which several inodes may share.
type xattrShare struct {
	inode    uint32 // that was met first
	stated   uint32 // how many share it, as it says
	found    uint32
	clusters uint64 // that an inode with it takes
}

// xattrRow is a row of entries with their values that is being checked. Offsets count
// from the start of area.
type xattrRow struct {
	i      *inode
	area   []byte
	taken  []byte // a bit for each byte
	values int    // what the offsets of values count from
	inner  bool   // in the inode
}

// take claims bytes of the area, and reports whether they are there and were free.
func (r *xattrRow) take(off, n int) bool {
	if off < 0 || off+n > len(r.area) {
		return false
	}
	for k := off; k < off+n; k++ {
		if bit(r.taken, uint64(k)) {
			return false
		}
	}
	setBits(r.taken, uint64(off), uint64(n))
	return true
}

// checkRow checks the entries from an offset on. It returns the clusters that values
// in inodes of their own count for.
func (c *checker) checkRow(i *inode, area []byte, off, values int, inner bool) (clusters uint64) {
	r := &xattrRow{i: i, area: area, taken: make([]byte, (len(area)+7)/8), values: values, inner: inner}
	r.take(0, off)
	var refs []uint32
	for off+4 <= len(area) && le.Uint32(area[off:]) != 0 {
		if off+xattrEntry > len(area) {
			c.badInode(ProblemXattr, i.num, "the entry at %d is cut off", off)
			return clusters
		}
		e := area[off:]
		size := (xattrEntry + int(e[0]) + 3) &^ 3
		if !r.take(off, size) || e[1] == 0 && !inner {
			c.badInode(ProblemXattr, i.num, "the entry at %d", off)
			return clusters
		}
		if ino := le.Uint32(e[4:]); ino != 0 {
			clusters += c.checkFarValue(i, e, ino)
			refs = append(refs, ino)
		} else if !c.checkNearValue(r, e) {
			return clusters
		}
		off += size
	}
	if !r.take(off, 4) {
		c.badInode(ProblemXattr, i.num, "no room for the end of the entries")
	}
	for _, ino := range refs {
		if _, ok := c.eaRefs[ino]; !ok {
			c.charge(48)
		}
		c.eaRefs[ino]++
	}
	return clusters
}

// checkNearValue checks a value that lies beside the entries.
func (c *checker) checkNearValue(r *xattrRow, e []byte) bool {
	at, size := r.values+int(le.Uint16(e[2:])), le.Uint32(e[8:])
	if size == 0 {
		at = 0 // wherever it says that nothing lies
	}
	if size > uint32(len(r.area)) || at+int(size) > len(r.area) || size > 0 && !r.take(at, int(size+3)&^3) {
		c.badInode(ProblemXattr, r.i.num, "the value at %d of %d bytes", at, size)
		return false
	}
	sum := le.Uint32(e[12:])
	if r.inner && sum == 0 {
		return true
	}
	name, value := e[xattrEntry:xattrEntry+int(e[0])], r.area[at:min(at+int(size+3)&^3, len(r.area))] // whole words
	if x := (xattr{name: string(name), value: value}); x.hash() != sum && signedXattrHash(x) != sum {
		c.badInode(ProblemXattrHash, r.i.num, "hash of %q", name)
	}
	return true
}

// signedXattrHash is the hash as kernels computed it where char is signed.
func signedXattrHash(x xattr) uint32 {
	h := uint32(0)
	for _, b := range []byte(x.name) {
		h = h<<5 ^ h>>27 ^ uint32(int32(int8(b)))
	}
	return valueHash(h, x.value)
}

// valueHash adds a value to the hash of a name.
func valueHash(h uint32, v []byte) uint32 {
	for ; len(v) > 0; v = v[min(4, len(v)):] {
		var w [4]byte
		copy(w[:], v)
		h = h<<16 ^ h>>16 ^ le.Uint32(w[:])
	}
	return h
}

// checkFarValue checks an entry whose value lies in an inode of its own. It returns
// the clusters that count for the owner too.
func (c *checker) checkFarValue(i *inode, e []byte, ino uint32) uint64 {
	name, size, sum := string(e[xattrEntry:xattrEntry+int(e[0])]), uint64(le.Uint32(e[8:])), le.Uint32(e[12:])
	if ino < c.sb.firstIno || ino > c.sb.inodes {
		c.badInode(ProblemXattr, i.num, "the value of %q in inode %d", name, ino)
		return 0
	}
	v := c.rawInode(ino)
	if v == nil {
		return 0
	}
	if c.sb.incompat&incompatEAInode == 0 {
		c.badInode(ProblemFeatures, i.num, "the value of %q lies in inode %d, without ea_inode", name, ino)
	}
	if size == 0 || v.size() == 0 {
		c.badInode(ProblemXattr, i.num, "the value of %q in inode %d has no bytes", name, ino)
	}
	if !v.has(flagEAInode) {
		c.badInode(ProblemXattr, i.num, "the value of %q in inode %d, which is not for that", name, ino)
	}
	far := v.raw[inAtime : inAtime+4] // the hash of the value
	if sum == valueHash((xattr{name: name}).hash(), far) || sum == valueHash(signedXattrHash(xattr{name: name}), far) {
		unit := uint64(c.sb.blockSize) * uint64(c.sb.cluster)
		return (size + unit - 1) / unit
	}
	if le.Uint32(v.raw[inMtime:]) != i.num || v.generation() != i.generation() {
		c.badInode(ProblemXattrHash, i.num, "hash of %q", name)
	}
	return 0
}

// checkInnerXattrs checks the attributes in an inode, and returns the clusters that
// their values take elsewhere.
func (c *checker) checkInnerXattrs(i *inode) uint64 {
	if i.extra() > len(i.raw)-oldInodeSize || len(i.raw) == oldInodeSize {
		return 0
	}
	area := i.raw[oldInodeSize+i.extra():]
	if len(area) <= 4 || le.Uint32(area) != xattrMagic {
		return 0
	}
	return c.checkRow(i, area, 4, 4, true)
}

// checkXattrBlock checks an inode's block of attributes, and returns the clusters that
// it takes.
func (c *checker) checkXattrBlock(i *inode, m *mapped) uint64 {
	at := i.xattrBlock()
	if c.sb.incompat&incompat64bit == 0 {
		at &= 1<<32 - 1
	}
	if at == 0 {
		return 0
	}
	if !c.inside(at, 1) || c.sb.compat&compatExtAttr == 0 {
		c.badBlock(ProblemXattr, i.num, at, "block of attributes")
		return 0
	}
	if s := c.blocks[at]; s != nil {
		s.found++
		return s.clusters
	}
	own := &mapped{i: i}
	if !c.claim(own, at, 1) {
		return 1
	}
	b := c.read(at)
	if b == nil || !c.charge(96) {
		return 0
	}
	b = bytes.Clone(b)
	s := &xattrShare{inode: i.num, stated: le.Uint32(b[xattrRefs:]), found: 1, clusters: 1}
	c.blocks[at] = s
	if le.Uint32(b) != xattrMagic || le.Uint32(b[8:]) != 1 {
		c.badBlock(ProblemXattr, i.num, at, "the header of a block of attributes")
		return 1
	}
	if c.sb.csum && c.fs.xattrSum(at, b) != le.Uint32(b[xattrSum:]) {
		c.badBlock(ProblemXattrSum, i.num, at, "checksum")
	}
	s.clusters += c.checkRow(i, b, xattrHeader, 0, false)
	return s.clusters
}

// xattrReferences compares how often blocks of attributes are used with what they say.
func (c *checker) xattrReferences() {
	for _, at := range sortedBlocks(c.blocks) {
		if s := c.blocks[at]; s.stated != s.found {
			c.badBlock(ProblemXattrRefs, s.inode, at, "%d inodes share it, not %d", s.found, s.stated)
		}
		if c.stopped() {
			return
		}
	}
	list := make([]uint32, 0, len(c.eaRefs))
	for ino := range c.eaRefs {
		list = append(list, ino)
	}
	slices.SortFunc(list, cmp.Compare)
	for _, ino := range list {
		if c.stopped() {
			return
		}
		c.checkValueInode(ino)
	}
}

// checkValueInode checks an inode that holds the value of attributes.
func (c *checker) checkValueInode(ino uint32) {
	s := c.state(ino)
	i := c.rawInode(ino)
	if s == nil || i == nil {
		c.badInode(ProblemXattrRefs, ino, "holds the value of an attribute, and is not in use")
		return
	}
	s.seen++
	refs := uint64(le.Uint32(i.raw[inCtime:]))<<32 | uint64(le.Uint32(i.raw[inVersion:]))
	if refs != c.eaRefs[ino] && le.Uint32(i.raw[inCtime:]) != le.Uint32(i.raw[inAtime:]) {
		c.badInode(ProblemXattrRefs, ino, "%d attributes have their value there, not %d", c.eaRefs[ino], refs)
	}
}

// checkInline checks an inode that holds its content itself.
func (c *checker) checkInline(i *inode) {
	n, ok := c.inlineSize(i)
	switch {
	case !ok:
		c.badInode(ProblemInline, i.num, "has no attribute for the content")
	case i.isDir() && uint64(i.size()) != uint64(n), i.kind() == typeSymlink && i.size() != int64(n):
		c.badInode(ProblemInline, i.num, "%d bytes, with room for %d", uint64(i.size()), n)
	}
}

// inlineSize returns how many bytes of content lie in an inode.
func (c *checker) inlineSize(i *inode) (int, bool) {
	if i.extra() > len(i.raw)-oldInodeSize {
		return 0, false
	}
	list, err := c.fs.innerXattrs(i)
	if err != nil {
		return 0, false
	}
	// e2fsck reads no content beside a value that is said to lie outside, though it has no bytes.
	area := i.innerArea()
	for off, k := 4, 0; k < len(list); k++ {
		if le.Uint32(area[off+4:]) == 0 && 4+int(le.Uint16(area[off+2:])) > len(area) {
			return 0, false
		}
		off += (xattrEntry + len(list[k].name) + 3) &^ 3
	}
	for _, x := range list {
		if x.index == xattrSystem && x.name == "data" {
			return blockAreaLen + x.size, true
		}
	}
	return 0, false
}

// checkSymlink checks a symbolic link.
func (c *checker) checkSymlink(i *inode) {
	n := i.size()
	if n <= 0 || le.Uint32(i.raw[inSizeHi:]) != 0 {
		c.badInode(ProblemSymlink, i.num, "%d bytes", uint64(n))
		return
	}
	if i.has(flagInline) {
		return
	}
	target := i.area()
	if i.has(flagEncrypted) {
		return
	}
	if n < blockAreaLen {
		if i.has(flagExtents) {
			c.badInode(ProblemSymlink, i.num, "a short one with extents")
			return
		}
	} else {
		at := uint64(le.Uint32(target))
		if i.has(flagExtents) {
			root := extNode(target)
			if !c.goodNode(root) || root.depth() != 0 || root.count() != 1 || root.key(0) != 0 || root.extent(0).n != 1 {
				c.badInode(ProblemSymlink, i.num, "is not in one block")
				return
			}
			at = root.extent(0).start
		} else if !allZero(target[4:]) {
			c.badInode(ProblemSymlink, i.num, "is not in one block")
			return
		}
		if !c.inside(at, 1) {
			c.badBlock(ProblemSymlink, i.num, at, "the block of the target")
			return
		}
		if target = c.read(at); target == nil {
			return
		}
	}
	if have := bytes.IndexByte(target, 0); int64(have) != n {
		c.badInode(ProblemSymlink, i.num, "%d bytes, and the target has %d", n, have)
	}
}
