package ext4

// extentStep is one node on the path from the root of an extent tree to a leaf.
type extentStep struct {
	blockNumber uint64 // its block; 0: the root, in the inode
	node        extentNode
	entry       int // that leads on; in a leaf the last one that begins at or before the block sought, or -1
}

// findExtentPath finds the leaf in which a logical block is mapped, or would be.
func (fs *FS) findExtentPath(i *inode, logical uint32) ([]extentStep, error) {
	n, err := fs.extentRoot(i)
	if err != nil {
		return nil, err
	}
	path := make([]extentStep, 0, maxDepth+1)
	at := uint64(0)
	for {
		k := n.findEntryFor(logical)
		if n.treeDepth() == 0 {
			return append(path, extentStep{at, n, k}), nil
		}
		k = max(k, 0)
		path = append(path, extentStep{at, n, k})
		at = n.childBlock(k)
		if n, err = fs.readExtentNode(i, at, n.treeDepth()-1); err != nil {
			return nil, err
		}
	}
}

// modifyExtentNode makes a node of a path changeable. The root is part of the inode, which
// the caller stores.
func (fs *FS) modifyExtentNode(s *extentStep) error {
	if s.blockNumber == 0 {
		return nil
	}
	b, err := fs.modifyBlock(s.blockNumber)
	s.node = b
	return err
}

// setExtentChecksum sets the checksum of a changed node.
func (fs *FS) setExtentChecksum(i *inode, s *extentStep) {
	if s.blockNumber != 0 && fs.sb.metadataCsum {
		end := extentHeaderLen + extentEntryLen*s.node.maxEntries()
		le.PutUint32(s.node[end:], ownedBlockChecksum(fs.sb.csumSeed, i.num, i.generation(), s.node[:end]))
	}
}

// fixParentKeys updates the keys in the nodes above a leaf whose first entry changed.
func (fs *FS) fixParentKeys(i *inode, path []extentStep) error {
	for lvl := len(path) - 1; lvl > 0; lvl-- {
		s, up := &path[lvl], &path[lvl-1]
		if s.node.entryCount() == 0 || up.node.firstLogical(up.entry) == s.node.firstLogical(0) {
			return nil
		}
		if err := fs.modifyExtentNode(up); err != nil {
			return err
		}
		le.PutUint32(up.node.entryBytes(up.entry), s.node.firstLogical(0))
		fs.setExtentChecksum(i, up)
		if up.entry > 0 {
			return nil
		}
	}
	return nil
}

// insertExtent maps a range that is a hole. It merges the extent with its neighbours if
// possible, and splits full nodes.
func (fs *FS) insertExtent(i *inode, e extent) error {
	for {
		path, err := fs.findExtentPath(i, e.logical)
		if err != nil {
			return err
		}
		leaf := &path[len(path)-1]
		if err := fs.modifyExtentNode(leaf); err != nil {
			return err
		}
		merged := mergeExtent(leaf, e)
		if !merged && leaf.node.entryCount() < leaf.node.maxEntries() {
			leaf.node.insertSlot(leaf.entry + 1)
			leaf.node.setExtentAt(leaf.entry+1, e)
			merged = true
		}
		if merged {
			fs.setExtentChecksum(i, leaf)
			return fs.fixParentKeys(i, path)
		}
		if err := fs.splitExtentNode(i, path, len(path)-1); err != nil {
			return err
		}
	}
}

// mergeExtent joins e to the entry before it in the leaf, after it, or both, and reports
// whether it could.
func mergeExtent(leaf *extentStep, e extent) bool {
	n, k := leaf.node, leaf.entry
	if k >= 0 {
		if a := n.extentAt(k); canMergeExtents(a, e) {
			a.n += e.n
			if k+1 < n.entryCount() {
				if b := n.extentAt(k + 1); canMergeExtents(a, b) {
					a.n += b.n
					n.removeEntries(k+1, 1)
				}
			}
			n.setExtentAt(k, a)
			return true
		}
	}
	if k+1 < n.entryCount() {
		if b := n.extentAt(k + 1); canMergeExtents(e, b) {
			e.n += b.n
			n.setExtentAt(k+1, e)
			return true
		}
	}
	return false
}

// canMergeExtents reports whether b continues a, in the file and on the device, and both
// fit into one extent.
func canMergeExtents(a, b extent) bool {
	most := uint32(maxExtent)
	if a.unwritten {
		most = maxUnwritten
	}
	return a.unwritten == b.unwritten && a.endBlock() == uint64(b.logical) && a.start+uint64(a.n) == b.start && a.n+b.n <= most
}

// splitExtentNode makes room in the node at level lvl of a path, by splitting it or a node
// above. The path is invalid afterwards.
func (fs *FS) splitExtentNode(i *inode, path []extentStep, lvl int) error {
	if lvl == 0 {
		return fs.deepenExtentTree(i, &path[0])
	}
	split, parent := &path[lvl], &path[lvl-1]
	if parent.node.entryCount() == parent.node.maxEntries() {
		return fs.splitExtentNode(i, path, lvl-1)
	}
	if err := fs.modifyExtentNode(split); err != nil {
		return err
	}
	if err := fs.modifyExtentNode(parent); err != nil {
		return err
	}
	at, err := fs.allocExtentBlock(i, split.blockNumber)
	if err != nil {
		return err
	}
	// Half of the entries move to a new node on the right, whose first key goes into the parent.
	count := split.node.entryCount()
	keep := count / 2
	if split.entry >= count-1 {
		keep = count - 1 // files mostly grow at the end, so keep this node full
	}
	right := extentStep{blockNumber: at, node: initExtentNode(fs.createZeroedBlock(at), split.node.treeDepth(), 4)}
	copy(right.node[extentHeaderLen:], split.node[extentHeaderLen+extentEntryLen*keep:extentHeaderLen+extentEntryLen*count])
	right.node.setEntryCount(count - keep)
	split.node.removeEntries(keep, count-keep)
	parent.node.insertSlot(parent.entry + 1)
	parent.node.setIndexAt(parent.entry+1, right.node.firstLogical(0), at)
	for _, x := range []*extentStep{split, &right, parent} {
		fs.setExtentChecksum(i, x)
	}
	return nil
}

// deepenExtentTree adds a level: the root's entries move to a new node beneath it.
func (fs *FS) deepenExtentTree(i *inode, root *extentStep) error {
	if root.node.treeDepth() >= maxDepth {
		return errTooBig
	}
	at, err := fs.allocExtentBlock(i, 0)
	if err != nil {
		return err
	}
	depth, count := root.node.treeDepth(), root.node.entryCount()
	child := extentStep{blockNumber: at, node: initExtentNode(fs.createZeroedBlock(at), depth, 4)}
	copy(child.node[extentHeaderLen:], root.node[extentHeaderLen:extentHeaderLen+extentEntryLen*count])
	child.node.setEntryCount(count)
	fs.setExtentChecksum(i, &child)
	initExtentNode(root.node, depth+1, 0)
	root.node.setEntryCount(1)
	root.node.setIndexAt(0, child.node.firstLogical(0), at)
	return nil
}

// allocExtentBlock allocates a block for a node of an inode's extent tree.
func (fs *FS) allocExtentBlock(i *inode, near uint64) (uint64, error) {
	if near == 0 {
		near = fs.sb.groupStart((i.num - 1) / fs.sb.inodesPerGroup)
	}
	r, err := fs.allocBlocks(near, 1)
	if err == nil {
		fs.changeBlockCount(i, 1)
	}
	return r.start, err
}

// removeExtents unmaps logical blocks from..to-1 and frees their blocks. It returns how
// far it got: to, or less when the operation is full and the caller has to go on in
// another one.
func (fs *FS) removeExtents(i *inode, from, to uint64) (uint64, error) {
	for from < to {
		if fs.operationFull() {
			return from, nil
		}
		path, err := fs.findExtentPath(i, uint32(from))
		if err != nil {
			return 0, err
		}
		if from, err = fs.removeFromLeaf(i, path, from, to); err != nil {
			return 0, err
		}
	}
	return to, fs.flattenExtentTree(i)
}

// removeFromLeaf unmaps logical blocks from..to-1 as far as one leaf maps them, and
// returns where to go on.
func (fs *FS) removeFromLeaf(i *inode, path []extentStep, from, to uint64) (uint64, error) {
	leaf := &path[len(path)-1]
	// next is the first logical block of the leaf to the right, where the caller goes on.
	next := to
	for lvl := len(path) - 2; lvl >= 0; lvl-- {
		if s := path[lvl]; s.entry+1 < s.node.entryCount() {
			next = min(next, uint64(s.node.firstLogical(s.entry+1)))
			break
		}
	}
	first := max(leaf.entry, 0)
	if first < leaf.node.entryCount() && leaf.node.extentAt(first).endBlock() <= from {
		first++
	}
	if first >= leaf.node.entryCount() || uint64(leaf.node.firstLogical(first)) >= min(to, next) {
		return max(next, from), nil
	}
	if err := fs.modifyExtentNode(leaf); err != nil {
		return 0, err
	}
	for k := first; k < leaf.node.entryCount(); {
		e := leaf.node.extentAt(k)
		if uint64(e.logical) >= to {
			break
		}
		if fs.operationFull() {
			next = uint64(e.logical)
			break
		}
		lo, hi := max(from, uint64(e.logical)), min(to, e.endBlock())
		if err := fs.freeDataBlocks(i, run{e.start + (lo - uint64(e.logical)), uint32(hi - lo)}); err != nil {
			return 0, err
		}
		// The parts of the extent before and after the range stay.
		left, right := e, e
		left.n = uint32(lo - uint64(e.logical))
		right.logical, right.n, right.start = uint32(hi), uint32(e.endBlock()-hi), e.start+(hi-uint64(e.logical))
		switch {
		case left.n > 0 && right.n > 0:
			leaf.node.setExtentAt(k, left)
			fs.setExtentChecksum(i, leaf)
			return to, fs.insertExtent(i, right)
		case left.n > 0:
			leaf.node.setExtentAt(k, left)
			k++
		case right.n > 0:
			leaf.node.setExtentAt(k, right)
			k++
		default:
			leaf.node.removeEntries(k, 1)
		}
	}
	fs.setExtentChecksum(i, leaf)
	if leaf.node.entryCount() > 0 {
		return next, fs.fixParentKeys(i, path)
	}
	return next, fs.removeEmptyNodes(i, path)
}

// removeEmptyNodes frees the node at the end of a path, which is empty, and the nodes
// above that become empty.
func (fs *FS) removeEmptyNodes(i *inode, path []extentStep) error {
	lvl := len(path) - 1
	for ; lvl > 0 && path[lvl].node.entryCount() == 0; lvl-- {
		up := &path[lvl-1]
		if err := fs.modifyExtentNode(up); err != nil {
			return err
		}
		if err := fs.freeMetadataBlock(i, path[lvl].blockNumber); err != nil {
			return err
		}
		up.node.removeEntries(up.entry, 1)
		fs.setExtentChecksum(i, up)
	}
	if lvl == 0 && path[0].node.entryCount() == 0 {
		initExtentNode(path[0].node, 0, 0)
		return nil
	}
	return fs.fixParentKeys(i, path[:lvl+1])
}

// flattenExtentTree moves the entries of a single child into the root while they fit.
func (fs *FS) flattenExtentTree(i *inode) error {
	root, err := fs.extentRoot(i)
	if err != nil {
		return err
	}
	for root.treeDepth() > 0 && root.entryCount() == 1 {
		at := root.childBlock(0)
		child, err := fs.readExtentNode(i, at, root.treeDepth()-1)
		if err != nil {
			return err
		}
		count := child.entryCount()
		if count > root.maxEntries() {
			return nil
		}
		initExtentNode(root, child.treeDepth(), 0)
		copy(root[extentHeaderLen:], child[extentHeaderLen:extentHeaderLen+extentEntryLen*count])
		root.setEntryCount(count)
		if err := fs.freeMetadataBlock(i, at); err != nil {
			return err
		}
	}
	return nil
}

// convertUnwritten marks n blocks from logical on, part of the unwritten extent ext, as written:
// from now on they read as their content on the device.
func (fs *FS) convertUnwritten(i *inode, ext extent, logical, n uint32) error {
	path, err := fs.findExtentPath(i, logical)
	if err != nil {
		return err
	}
	leaf := &path[len(path)-1]
	if leaf.entry < 0 || leaf.node.extentAt(leaf.entry) != ext {
		return corruptf("the extent tree of inode %d is invalid", i.num)
	}
	if err := fs.modifyExtentNode(leaf); err != nil {
		return err
	}
	// Take the middle out, then put it back in as written, which may join a neighbour.
	head, tail := ext, ext
	head.n = logical - ext.logical
	skip := head.n + n
	tail.logical, tail.n, tail.start = ext.logical+skip, ext.n-skip, ext.start+uint64(skip)
	mid := extent{logical: logical, n: n, start: ext.start + uint64(head.n)}
	if head.n > 0 {
		leaf.node.setExtentAt(leaf.entry, head)
		fs.setExtentChecksum(i, leaf)
		if err := fs.insertExtent(i, mid); err != nil {
			return err
		}
	} else {
		leaf.node.removeEntries(leaf.entry, 1)
		leaf.entry--
		if !mergeExtent(leaf, mid) {
			leaf.node.insertSlot(leaf.entry + 1)
			leaf.node.setExtentAt(leaf.entry+1, mid)
		}
		fs.setExtentChecksum(i, leaf)
		if err := fs.fixParentKeys(i, path); err != nil {
			return err
		}
	}
	if tail.n == 0 {
		return nil
	}
	return fs.insertExtent(i, tail)
}
