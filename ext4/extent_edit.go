package ext4

// extStep is one node on the way from the root of an extent tree to a leaf.
type extStep struct {
	at uint64 // its block; 0: the root, in the inode
	n  extNode
	k  int // entry that leads on; in a leaf the last one that begins at or before what was sought, or -1
}

// extPath finds the leaf that holds logical block l, or would.
func (fs *FS) extPath(i *inode, l uint32) ([]extStep, error) {
	n, err := fs.extRoot(i)
	if err != nil {
		return nil, err
	}
	path := make([]extStep, 0, maxDepth+1)
	at := uint64(0)
	for {
		k := n.find(l)
		if n.depth() == 0 {
			return append(path, extStep{at, n, k}), nil
		}
		k = max(k, 0)
		path = append(path, extStep{at, n, k})
		at = n.child(k)
		if n, err = fs.extBlock(i, at, n.depth()-1); err != nil {
			return nil, err
		}
	}
}

// modExt makes a node of a path changeable. The root is part of the inode, which the
// caller stores.
func (fs *FS) modExt(s *extStep) error {
	if s.at == 0 {
		return nil
	}
	b, err := fs.mod(s.at)
	s.n = b
	return err
}

// sealExt sets the checksum of a changed node.
func (fs *FS) sealExt(i *inode, s *extStep) {
	if s.at != 0 && fs.sb.csum {
		end := extHeader + extEntry*s.n.room()
		le.PutUint32(s.n[end:], ownedChecksum(fs.sb.seed, i.num, i.generation(), s.n[:end]))
	}
}

// fixKeys makes the keys above a changed leaf tell what it begins with.
func (fs *FS) fixKeys(i *inode, path []extStep) error {
	for lvl := len(path) - 1; lvl > 0; lvl-- {
		s, up := &path[lvl], &path[lvl-1]
		if s.n.count() == 0 || up.n.key(up.k) == s.n.key(0) {
			return nil
		}
		if err := fs.modExt(up); err != nil {
			return err
		}
		le.PutUint32(up.n.entry(up.k), s.n.key(0))
		fs.sealExt(i, up)
		if up.k > 0 {
			return nil
		}
	}
	return nil
}

// insertExtent maps what is a hole.
func (fs *FS) insertExtent(i *inode, e extent) error {
	for {
		path, err := fs.extPath(i, e.logical)
		if err != nil {
			return err
		}
		leaf := &path[len(path)-1]
		if err := fs.modExt(leaf); err != nil {
			return err
		}
		merged := mergeExtent(leaf, e)
		if !merged && leaf.n.count() < leaf.n.room() {
			leaf.n.insert(leaf.k + 1)
			leaf.n.setExtent(leaf.k+1, e)
			merged = true
		}
		if merged {
			fs.sealExt(i, leaf)
			return fs.fixKeys(i, path)
		}
		if err := fs.splitExt(i, path, len(path)-1); err != nil {
			return err
		}
	}
}

// mergeExtent joins e to a neighbour in the leaf, and that to the other one, and
// reports whether it did.
func mergeExtent(leaf *extStep, e extent) bool {
	n, k := leaf.n, leaf.k
	if k >= 0 {
		if a := n.extent(k); joins(a, e) {
			a.n += e.n
			if k+1 < n.count() {
				if b := n.extent(k + 1); joins(a, b) {
					a.n += b.n
					n.remove(k+1, 1)
				}
			}
			n.setExtent(k, a)
			return true
		}
	}
	if k+1 < n.count() {
		if b := n.extent(k + 1); joins(e, b) {
			e.n += b.n
			n.setExtent(k+1, e)
			return true
		}
	}
	return false
}

// joins reports whether b goes on where a ends, and both fit in one extent.
func joins(a, b extent) bool {
	most := uint32(maxExtent)
	if a.unwritten {
		most = maxUnwritten
	}
	return a.unwritten == b.unwritten && a.end() == uint64(b.logical) && a.start+uint64(a.n) == b.start && a.n+b.n <= most
}

// splitExt makes room in the node at a level of a path, by splitting it or one above.
// The path is to be found again afterwards.
func (fs *FS) splitExt(i *inode, path []extStep, lvl int) error {
	if lvl == 0 {
		return fs.growExt(i, &path[0])
	}
	s, up := &path[lvl], &path[lvl-1]
	if up.n.count() == up.n.room() {
		return fs.splitExt(i, path, lvl-1)
	}
	if err := fs.modExt(s); err != nil {
		return err
	}
	if err := fs.modExt(up); err != nil {
		return err
	}
	at, err := fs.newTreeBlock(i, s.at)
	if err != nil {
		return err
	}
	c := s.n.count()
	keep := c / 2
	if s.k >= c-1 {
		keep = c - 1 // files mostly grow at the end: leave full nodes behind
	}
	right := extStep{at: at, n: initExtNode(fs.fresh(at), s.n.depth(), 4)}
	copy(right.n[extHeader:], s.n[extHeader+extEntry*keep:extHeader+extEntry*c])
	right.n.setCount(c - keep)
	s.n.remove(keep, c-keep)
	up.n.insert(up.k + 1)
	up.n.setIndex(up.k+1, right.n.key(0), at)
	for _, x := range []*extStep{s, &right, up} {
		fs.sealExt(i, x)
	}
	return nil
}

// growExt puts a node between the root and what is beneath it.
func (fs *FS) growExt(i *inode, root *extStep) error {
	if root.n.depth() >= maxDepth {
		return errTooBig
	}
	at, err := fs.newTreeBlock(i, 0)
	if err != nil {
		return err
	}
	depth, c := root.n.depth(), root.n.count()
	child := extStep{at: at, n: initExtNode(fs.fresh(at), depth, 4)}
	copy(child.n[extHeader:], root.n[extHeader:extHeader+extEntry*c])
	child.n.setCount(c)
	fs.sealExt(i, &child)
	initExtNode(root.n, depth+1, 0)
	root.n.setCount(1)
	root.n.setIndex(0, child.n.key(0), at)
	return nil
}

// newTreeBlock allocates a block for a node of an inode's tree.
func (fs *FS) newTreeBlock(i *inode, near uint64) (uint64, error) {
	if near == 0 {
		near = fs.sb.groupStart((i.num - 1) / fs.sb.inodesPer)
	}
	r, err := fs.alloc(near, 1)
	if err == nil {
		fs.addBlocks(i, 1)
	}
	return r.start, err
}

// removeExtents unmaps logical blocks from..to-1 and frees what they were mapped to.
// It returns how far it came: to, or less when the operation has become large and
// should go on in another one.
func (fs *FS) removeExtents(i *inode, from, to uint64) (uint64, error) {
	for from < to {
		if fs.opFull() {
			return from, nil
		}
		path, err := fs.extPath(i, uint32(from))
		if err != nil {
			return 0, err
		}
		if from, err = fs.removeInLeaf(i, path, from, to); err != nil {
			return 0, err
		}
	}
	return to, fs.shrinkRoot(i)
}

// removeInLeaf removes from one leaf, and returns where to go on.
func (fs *FS) removeInLeaf(i *inode, path []extStep, from, to uint64) (uint64, error) {
	leaf := &path[len(path)-1]
	next := to
	for lvl := len(path) - 2; lvl >= 0; lvl-- {
		if s := path[lvl]; s.k+1 < s.n.count() {
			next = min(next, uint64(s.n.key(s.k+1)))
			break
		}
	}
	first := max(leaf.k, 0)
	if first < leaf.n.count() && leaf.n.extent(first).end() <= from {
		first++
	}
	if first >= leaf.n.count() || uint64(leaf.n.key(first)) >= min(to, next) {
		return max(next, from), nil
	}
	if err := fs.modExt(leaf); err != nil {
		return 0, err
	}
	for k := first; k < leaf.n.count(); {
		e := leaf.n.extent(k)
		if uint64(e.logical) >= to {
			break
		}
		if fs.opFull() {
			next = uint64(e.logical)
			break
		}
		lo, hi := max(from, uint64(e.logical)), min(to, e.end())
		if err := fs.freeRun(i, run{e.start + (lo - uint64(e.logical)), uint32(hi - lo)}); err != nil {
			return 0, err
		}
		left, right := e, e
		left.n = uint32(lo - uint64(e.logical))
		right.logical, right.n, right.start = uint32(hi), uint32(e.end()-hi), e.start+(hi-uint64(e.logical))
		switch {
		case left.n > 0 && right.n > 0:
			leaf.n.setExtent(k, left)
			fs.sealExt(i, leaf)
			return to, fs.insertExtent(i, right)
		case left.n > 0:
			leaf.n.setExtent(k, left)
			k++
		case right.n > 0:
			leaf.n.setExtent(k, right)
			k++
		default:
			leaf.n.remove(k, 1)
		}
	}
	fs.sealExt(i, leaf)
	if leaf.n.count() > 0 {
		return next, fs.fixKeys(i, path)
	}
	return next, fs.removeNode(i, path)
}

// removeNode takes an empty node out of the tree, and those above that become empty.
func (fs *FS) removeNode(i *inode, path []extStep) error {
	lvl := len(path) - 1
	for ; lvl > 0 && path[lvl].n.count() == 0; lvl-- {
		up := &path[lvl-1]
		if err := fs.modExt(up); err != nil {
			return err
		}
		if err := fs.freeMeta(i, path[lvl].at); err != nil {
			return err
		}
		up.n.remove(up.k, 1)
		fs.sealExt(i, up)
	}
	if lvl == 0 && path[0].n.count() == 0 {
		initExtNode(path[0].n, 0, 0)
		return nil
	}
	return fs.fixKeys(i, path[:lvl+1])
}

// shrinkRoot takes the levels away that a small tree no longer needs.
func (fs *FS) shrinkRoot(i *inode) error {
	root, err := fs.extRoot(i)
	if err != nil {
		return err
	}
	for root.depth() > 0 && root.count() == 1 {
		at := root.child(0)
		child, err := fs.extBlock(i, at, root.depth()-1)
		if err != nil {
			return err
		}
		c := child.count()
		if c > root.room() {
			return nil
		}
		initExtNode(root, child.depth(), 0)
		copy(root[extHeader:], child[extHeader:extHeader+extEntry*c])
		root.setCount(c)
		if err := fs.freeMeta(i, at); err != nil {
			return err
		}
	}
	return nil
}

// convertExtent makes n blocks from l on, which are part of the unwritten extent e,
// read as what is on the device.
func (fs *FS) convertExtent(i *inode, e extent, l, n uint32) error {
	path, err := fs.extPath(i, l)
	if err != nil {
		return err
	}
	leaf := &path[len(path)-1]
	if leaf.k < 0 || leaf.n.extent(leaf.k) != e {
		return corruptf("extents of inode %d", i.num)
	}
	if err := fs.modExt(leaf); err != nil {
		return err
	}
	// Take the middle out, then put it back in as written, which may join a neighbour.
	head, tail := e, e
	head.n = l - e.logical
	skip := head.n + n
	tail.logical, tail.n, tail.start = e.logical+skip, e.n-skip, e.start+uint64(skip)
	mid := extent{logical: l, n: n, start: e.start + uint64(head.n)}
	if head.n > 0 {
		leaf.n.setExtent(leaf.k, head)
		fs.sealExt(i, leaf)
		if err := fs.insertExtent(i, mid); err != nil {
			return err
		}
	} else {
		leaf.n.remove(leaf.k, 1)
		leaf.k--
		if !mergeExtent(leaf, mid) {
			leaf.n.insert(leaf.k + 1)
			leaf.n.setExtent(leaf.k+1, mid)
		}
		fs.sealExt(i, leaf)
		if err := fs.fixKeys(i, path); err != nil {
			return err
		}
	}
	if tail.n == 0 {
		return nil
	}
	return fs.insertExtent(i, tail)
}
