package ext4

import "sort"

// extent maps adjacent blocks of a file to adjacent blocks of the device.
type extent struct {
	logical   uint32
	n         uint32
	start     uint64
	unwritten bool // reads as zeros
}

func (e extent) end() uint64 { return uint64(e.logical) + uint64(e.n) }

// A node of an extent tree is a header and entries of 12 bytes each. The root lies in
// the inode; the others are blocks that end with a checksum.
const (
	extHeader = 12
	extEntry  = 12
)

type extNode []byte

func (n extNode) count() int         { return int(le.Uint16(n[2:])) }
func (n extNode) room() int          { return int(le.Uint16(n[4:])) }
func (n extNode) depth() int         { return int(le.Uint16(n[6:])) }
func (n extNode) entry(i int) []byte { return n[extHeader+extEntry*i:][:extEntry] }
func (n extNode) key(i int) uint32   { return le.Uint32(n.entry(i)) }

func (n extNode) setCount(v int) { le.PutUint16(n[2:], uint16(v)) }

// child returns where the node beneath entry i lies.
func (n extNode) child(i int) uint64 {
	e := n.entry(i)
	return uint64(le.Uint32(e[4:])) | uint64(le.Uint16(e[8:]))<<32
}

func (n extNode) extent(i int) extent {
	b := n.entry(i)
	e := extent{logical: le.Uint32(b), n: uint32(le.Uint16(b[4:])), start: uint64(le.Uint32(b[8:])) | uint64(le.Uint16(b[6:]))<<32}
	if e.n > maxExtent {
		e.n, e.unwritten = e.n-maxExtent, true
	}
	return e
}

func (n extNode) setExtent(i int, e extent) {
	b, l := n.entry(i), e.n
	if e.unwritten {
		l += maxExtent
	}
	le.PutUint32(b, e.logical)
	le.PutUint16(b[4:], uint16(l))
	le.PutUint16(b[6:], uint16(e.start>>32))
	le.PutUint32(b[8:], uint32(e.start))
}

func (n extNode) setIndex(i int, key uint32, child uint64) {
	b := n.entry(i)
	le.PutUint32(b, key)
	le.PutUint32(b[4:], uint32(child))
	le.PutUint16(b[8:], uint16(child>>32))
	le.PutUint16(b[10:], 0)
}

// insert makes room for an entry at i; there must be some.
func (n extNode) insert(i int) {
	c := n.count()
	copy(n[extHeader+extEntry*(i+1):extHeader+extEntry*(c+1)], n[extHeader+extEntry*i:extHeader+extEntry*c])
	n.setCount(c + 1)
}

func (n extNode) remove(i, k int) {
	c := n.count()
	copy(n[extHeader+extEntry*i:], n[extHeader+extEntry*(i+k):extHeader+extEntry*c])
	clear(n[extHeader+extEntry*(c-k) : extHeader+extEntry*c])
	n.setCount(c - k)
}

// find returns the last entry with a key not above l; -1: all are above.
func (n extNode) find(l uint32) int {
	return sort.Search(n.count(), func(i int) bool { return n.key(i) > l }) - 1
}

func initExtNode(b []byte, depth, tail int) extNode {
	clear(b)
	le.PutUint16(b, extentMagic)
	le.PutUint16(b[4:], uint16((len(b)-extHeader-tail)/extEntry))
	le.PutUint16(b[6:], uint16(depth))
	return b
}

// extRoot returns the root of an inode's extent tree, checked.
func (fs *FS) extRoot(i *inode) (extNode, error) {
	n := extNode(i.area())
	return n, fs.checkExtNode(i, n, -1)
}

// extBlock returns the node at a block, to be read.
func (fs *FS) extBlock(i *inode, at uint64, depth int) (extNode, error) {
	if at < fs.sb.first || at >= fs.sb.blocks {
		return nil, corruptf("extents of inode %d", i.num)
	}
	b, err := fs.get(at)
	if err != nil {
		return nil, err
	}
	n, key := extNode(b.data), passKey(checkExtents, i.num)
	if b.passed.Load() == key {
		if n.depth() != depth {
			return nil, corruptf("extents of inode %d", i.num)
		}
		return n, nil
	}
	if err := fs.checkExtNode(i, n, depth); err != nil {
		return nil, err
	}
	if fs.sb.csum {
		end := extHeader + extEntry*n.room()
		if end+4 > len(n) || ownedChecksum(fs.sb.seed, i.num, i.generation(), n[:end]) != le.Uint32(n[end:]) {
			return nil, corruptf("checksum of an extent block of inode %d", i.num)
		}
	}
	b.passed.Store(key)
	return n, nil
}

// checkExtNode checks what later code relies on: sizes, order, and places.
func (fs *FS) checkExtNode(i *inode, n extNode, depth int) error {
	bad := func() error { return corruptf("extents of inode %d", i.num) }
	if le.Uint16(n) != extentMagic || n.count() > n.room() || extHeader+extEntry*n.room() > len(n) || n.depth() > maxDepth ||
		depth >= 0 && (n.depth() != depth || n.count() == 0) {
		return bad()
	}
	next := uint64(0)
	for k := range n.count() {
		if uint64(n.key(k)) < next {
			return bad()
		}
		if n.depth() > 0 {
			next = uint64(n.key(k)) + 1
			if c := n.child(k); c < fs.sb.first || c >= fs.sb.blocks {
				return bad()
			}
			continue
		}
		e := n.extent(k)
		if e.n == 0 || e.start < fs.sb.first || e.start+uint64(e.n) > fs.sb.blocks || e.end() > maxLogical+1 {
			return bad()
		}
		next = e.end()
	}
	return nil
}

// lookup returns the extent that holds logical block l, or, where there is none, a
// hole: an extent with start 0 that ends where the next begins, or at end of all.
func (fs *FS) lookup(i *inode, l uint32) (extent, error) {
	if !i.has(flagExtents) {
		return fs.mapLookup(i, l)
	}
	n, err := fs.extRoot(i)
	if err != nil {
		return extent{}, err
	}
	limit := uint64(maxLogical) + 1 // where what is to the right begins
	for {
		k := n.find(l)
		if k+1 < n.count() {
			limit = min(limit, uint64(n.key(k+1)))
		}
		if n.depth() == 0 {
			if k >= 0 {
				if e := n.extent(k); uint64(l) < e.end() {
					return e, nil
				}
			}
			return hole(l, limit), nil
		}
		if k < 0 {
			return hole(l, limit), nil
		}
		if n, err = fs.extBlock(i, n.child(k), n.depth()-1); err != nil {
			return extent{}, err
		}
	}
}

func hole(l uint32, limit uint64) extent {
	return extent{logical: l, n: uint32(min(limit-uint64(l), maxLogical))}
}

// eachExtent calls f for each extent that ends after logical block from, in order,
// until f says that it is enough.
func (fs *FS) eachExtent(i *inode, from uint32, f func(extent) (more bool, err error)) error {
	if !i.has(flagExtents) {
		return fs.eachMapped(i, from, f)
	}
	root, err := fs.extRoot(i)
	if err != nil {
		return err
	}
	next := uint64(from)
	_, err = fs.walkExtents(i, root, &next, f)
	return err
}

func (fs *FS) walkExtents(i *inode, n extNode, next *uint64, f func(extent) (bool, error)) (bool, error) {
	for k := max(n.find(uint32(min(*next, maxLogical))), 0); k < n.count(); k++ {
		if n.depth() == 0 {
			e := n.extent(k)
			if e.end() <= *next {
				continue
			}
			*next = e.end()
			if more, err := f(e); err != nil || !more {
				return false, err
			}
			continue
		}
		child, err := fs.extBlock(i, n.child(k), n.depth()-1)
		if err != nil {
			return false, err
		}
		// Keys that do not overlap also mean that no node is met twice.
		if child.key(0) < n.key(k) || k+1 < n.count() && child.key(child.count()-1) >= n.key(k+1) {
			return false, corruptf("extents of inode %d", i.num)
		}
		if more, err := fs.walkExtents(i, child, next, f); err != nil || !more {
			return false, err
		}
	}
	return true, nil
}
