package ext4

import "sort"

// extent is a range of logical blocks of a file that lie one after the other on the
// device.
type extent struct {
	logical   uint32
	n         uint32
	start     uint64
	unwritten bool // reads as zeros
}

// endBlock returns the first logical block after the extent.
func (e extent) endBlock() uint64 { return uint64(e.logical) + uint64(e.n) }

// A node of an extent tree is a header and entries of 12 bytes each. The root lies in
// the inode; the others are blocks that end with a checksum.
const (
	extentHeaderLen = 12
	extentEntryLen  = 12
)

// extentNode is a node of an extent tree: a header, then entries in ascending order.
// Entries of a leaf are extents; those of an index node lead to children.
type extentNode []byte

func (n extentNode) entryCount() int { return int(le.Uint16(n[2:])) }
func (n extentNode) maxEntries() int { return int(le.Uint16(n[4:])) }
func (n extentNode) treeDepth() int  { return int(le.Uint16(n[6:])) }
func (n extentNode) entryBytes(i int) []byte {
	return n[extentHeaderLen+extentEntryLen*i:][:extentEntryLen]
}
func (n extentNode) firstLogical(i int) uint32 { return le.Uint32(n.entryBytes(i)) }

func (n extentNode) setEntryCount(v int) { le.PutUint16(n[2:], uint16(v)) }

// childBlock returns the block that entry i of an index node leads to.
func (n extentNode) childBlock(i int) uint64 {
	e := n.entryBytes(i)
	return uint64(le.Uint32(e[4:])) | uint64(le.Uint16(e[8:]))<<32
}

// extentAt reads entry i of a leaf. Lengths above maxExtent mark extents that read as
// zeros.
func (n extentNode) extentAt(i int) extent {
	b := n.entryBytes(i)
	e := extent{logical: le.Uint32(b), n: uint32(le.Uint16(b[4:])), start: uint64(le.Uint32(b[8:])) | uint64(le.Uint16(b[6:]))<<32}
	if e.n > maxExtent {
		e.n, e.unwritten = e.n-maxExtent, true
	}
	return e
}

// setExtentAt writes entry i of a leaf.
func (n extentNode) setExtentAt(i int, e extent) {
	b, l := n.entryBytes(i), e.n
	if e.unwritten {
		l += maxExtent
	}
	le.PutUint32(b, e.logical)
	le.PutUint16(b[4:], uint16(l))
	le.PutUint16(b[6:], uint16(e.start>>32))
	le.PutUint32(b[8:], uint32(e.start))
}

// setIndexAt writes entry i of an index node.
func (n extentNode) setIndexAt(i int, key uint32, child uint64) {
	b := n.entryBytes(i)
	le.PutUint32(b, key)
	le.PutUint32(b[4:], uint32(child))
	le.PutUint16(b[8:], uint16(child>>32))
	le.PutUint16(b[10:], 0)
}

// insertSlot makes room for an entry at i. The node must not be full.
func (n extentNode) insertSlot(i int) {
	c := n.entryCount()
	entries := n[extentHeaderLen:]
	copy(entries[extentEntryLen*(i+1):extentEntryLen*(c+1)], entries[extentEntryLen*i:extentEntryLen*c])
	n.setEntryCount(c + 1)
}

// removeEntries removes k entries from i on.
func (n extentNode) removeEntries(i, k int) {
	c := n.entryCount()
	copy(n[extentHeaderLen+extentEntryLen*i:], n[extentHeaderLen+extentEntryLen*(i+k):extentHeaderLen+extentEntryLen*c])
	clear(n[extentHeaderLen+extentEntryLen*(c-k) : extentHeaderLen+extentEntryLen*c])
	n.setEntryCount(c - k)
}

// findEntryFor returns the last entry that begins at or before a logical block, or -1.
func (n extentNode) findEntryFor(logical uint32) int {
	return sort.Search(n.entryCount(), func(i int) bool { return n.firstLogical(i) > logical }) - 1
}

// initExtentNode turns b into an empty node. tail is the size of the checksum after the
// entries.
func initExtentNode(b []byte, depth, tail int) extentNode {
	clear(b)
	le.PutUint16(b, extentMagic)
	le.PutUint16(b[4:], uint16((len(b)-extentHeaderLen-tail)/extentEntryLen))
	le.PutUint16(b[6:], uint16(depth))
	return b
}

// extentRoot returns the root of an inode's extent tree, which lies in the inode, checked.
func (fs *FS) extentRoot(i *inode) (extentNode, error) {
	n := extentNode(i.blockArea())
	return n, fs.checkExtentNode(i, n, -1)
}

// readExtentNode returns a node in a block of its own, for reading, checked.
func (fs *FS) readExtentNode(i *inode, at uint64, depth int) (extentNode, error) {
	if at < fs.sb.firstBlock || at >= fs.sb.blocks {
		return nil, corruptf("the extent tree of inode %d is invalid", i.num)
	}
	b, err := fs.getBlock(at)
	if err != nil {
		return nil, err
	}
	n, key := extentNode(b.data), verifiedKey(checkExtents, i.num)
	if b.verified.Load() == key {
		if n.treeDepth() != depth {
			return nil, corruptf("the extent tree of inode %d is invalid", i.num)
		}
		return n, nil
	}
	if err := fs.checkExtentNode(i, n, depth); err != nil {
		return nil, err
	}
	if fs.sb.metadataCsum {
		end := extentHeaderLen + extentEntryLen*n.maxEntries()
		if end+4 > len(n) || ownedBlockChecksum(fs.sb.csumSeed, i.num, i.generation(), n[:end]) != le.Uint32(n[end:]) {
			return nil, corruptf("a node in the extent tree of inode %d has a wrong checksum", i.num)
		}
	}
	b.verified.Store(key)
	return n, nil
}

// checkExtentNode checks what later code relies on: sizes, order, and that all blocks are
// in the image. depth is the one that the parent implies; -1 for a root.
func (fs *FS) checkExtentNode(i *inode, n extentNode, depth int) error {
	bad := func() error { return corruptf("the extent tree of inode %d is invalid", i.num) }
	if le.Uint16(n) != extentMagic || n.entryCount() > n.maxEntries() ||
		extentHeaderLen+extentEntryLen*n.maxEntries() > len(n) || n.treeDepth() > maxDepth ||
		depth >= 0 && (n.treeDepth() != depth || n.entryCount() == 0) {
		return bad()
	}
	next := uint64(0)
	for k := range n.entryCount() {
		if uint64(n.firstLogical(k)) < next {
			return bad()
		}
		if n.treeDepth() > 0 {
			next = uint64(n.firstLogical(k)) + 1
			if c := n.childBlock(k); c < fs.sb.firstBlock || c >= fs.sb.blocks {
				return bad()
			}
			continue
		}
		e := n.extentAt(k)
		if e.n == 0 || e.start < fs.sb.firstBlock || e.start+uint64(e.n) > fs.sb.blocks || e.endBlock() > maxLogical+1 {
			return bad()
		}
		next = e.endBlock()
	}
	return nil
}

// lookupExtent returns the extent that holds a logical block. In a hole it returns an
// extent with start 0 that reaches to the next one, or to the largest block.
func (fs *FS) lookupExtent(i *inode, logical uint32) (extent, error) {
	if !i.hasFlag(flagExtents) {
		return fs.lookupBlockMap(i, logical)
	}
	n, err := fs.extentRoot(i)
	if err != nil {
		return extent{}, err
	}
	limit := uint64(maxLogical) + 1 // first logical block to the right of the path
	for {
		k := n.findEntryFor(logical)
		if k+1 < n.entryCount() {
			limit = min(limit, uint64(n.firstLogical(k+1)))
		}
		if n.treeDepth() == 0 {
			if k >= 0 {
				if e := n.extentAt(k); uint64(logical) < e.endBlock() {
					return e, nil
				}
			}
			return holeExtent(logical, limit), nil
		}
		if k < 0 {
			return holeExtent(logical, limit), nil
		}
		if n, err = fs.readExtentNode(i, n.childBlock(k), n.treeDepth()-1); err != nil {
			return extent{}, err
		}
	}
}

// holeExtent describes a hole from logical to limit.
func holeExtent(logical uint32, limit uint64) extent {
	return extent{logical: logical, n: uint32(min(limit-uint64(logical), maxLogical))}
}

// eachExtent calls f for each extent that ends after logical block from, in order, until f
// returns false.
func (fs *FS) eachExtent(i *inode, from uint32, f func(extent) (more bool, err error)) error {
	if !i.hasFlag(flagExtents) {
		return fs.eachBlockMapExtent(i, from, f)
	}
	root, err := fs.extentRoot(i)
	if err != nil {
		return err
	}
	next := uint64(from)
	_, err = fs.walkExtentNode(i, root, &next, f)
	return err
}

// walkExtentNode calls f for the extents beneath a node. next is the first logical block
// that was not visited yet.
func (fs *FS) walkExtentNode(i *inode, n extentNode, next *uint64, f func(extent) (bool, error)) (bool, error) {
	for k := max(n.findEntryFor(uint32(min(*next, maxLogical))), 0); k < n.entryCount(); k++ {
		if n.treeDepth() == 0 {
			e := n.extentAt(k)
			if e.endBlock() <= *next {
				continue
			}
			*next = e.endBlock()
			if more, err := f(e); err != nil || !more {
				return false, err
			}
			continue
		}
		child, err := fs.readExtentNode(i, n.childBlock(k), n.treeDepth()-1)
		if err != nil {
			return false, err
		}
		// Keys that do not overlap also mean that no node is met twice.
		if child.firstLogical(0) < n.firstLogical(k) || k+1 < n.entryCount() && child.firstLogical(child.entryCount()-1) >= n.firstLogical(k+1) {
			return false, corruptf("the extent tree of inode %d is invalid", i.num)
		}
		if more, err := fs.walkExtentNode(i, child, next, f); err != nil || !more {
			return false, err
		}
	}
	return true, nil
}
