package ext4

// blockKind is the role of a block in an indexed directory.
type blockKind byte

// Roles of blocks.
const (
	leafBlock blockKind = iota
	rootBlock
	nodeBlock
)

// indexCheck is the state of the check of a directory's index. Inner nodes tell which
// hashes each block may hold; checkHashRanges compares them with the names at the end.
type indexCheck struct {
	d       *dirCheck
	version byte
	levels  int // of nodes beneath the root
	blocks  []indexBlock
	broken  bool // was reported
}

// indexBlock is the state of one block of an indexed directory.
type indexBlock struct {
	lo, hi    uint32 // hashes that the names in it have
	from, to  uint32 // those that the index leads here
	parent    uint32
	refs      byte
	kind      blockKind
	any, seen bool
}

// startIndexCheck prepares the check of the index, if the directory has one.
func (d *dirCheck) startIndexCheck(blocks uint32) {
	if !d.dir.hasFlag(flagIndexed) {
		return
	}
	c := d.c
	if c.sb.compat&compatDirIndex == 0 {
		d.reportBlock(ProblemIndex, 0, "has an index without the feature dir_index")
		return
	}
	if !c.chargeMemory(int(blocks) * 24) {
		return
	}
	c.memoryBudget += int64(blocks) * 24 // it is given back at the end
	d.index = &indexCheck{d: d, blocks: make([]indexBlock, blocks)}
}

// reportIndex reports a problem of the index.
func (x *indexCheck) reportIndex(format string, args ...any) {
	x.broken = true
	x.d.c.reportInode(ProblemIndex, x.d.dir.num, format, args...)
}

// expectedLimit returns how many entries the node at block l must have room for.
func (x *indexCheck) expectedLimit(l uint32) int { return x.d.c.fs.dxEntryLimit(l) }

// classifyBlock tells the role of a block from its bytes, as other implementations do.
func (x *indexCheck) classifyBlock(l uint32, b []byte) blockKind {
	kind, n := leafBlock, int(le.Uint16(b[4:]))
	if l == 0 {
		kind = rootBlock
	} else if le.Uint32(b) == 0 && (n == len(b) || len(b) == 65536 && (n == 0 || n == 65535)) && b[6] == 0 &&
		dxNode(b[dxNodeEntries:]).entryLimit() == x.expectedLimit(l) {
		kind = nodeBlock
	}
	x.blocks[l].kind, x.blocks[l].seen = kind, true
	return kind
}

// checkIndexNode checks an inner node.
func (x *indexCheck) checkIndexNode(l uint32, at uint64, b []byte) {
	if l == 0 {
		info := b[dxRootInfo:]
		x.version, x.levels = info[4], int(info[6])
		if le.Uint32(info) != 0 || info[5] != dxRootEntries-dxRootInfo || info[7]&1 != 0 ||
			x.version > hashTEA && !(x.version == hashSip && x.d.dir.hasFlag(flagCasefold)) || x.levels > 2 {
			x.reportIndex("the index root has hash function %d and %d levels", x.version, x.levels)
			return
		}
		x.d.c.hasLargeDir = x.d.c.hasLargeDir || x.levels > 1
	}
	n := dxNode(b[dxEntriesOffset(l):])
	if n.entryLimit() != x.expectedLimit(l) || n.entryCount() > n.entryLimit() || n.entryCount() == 0 {
		x.reportIndex("the index node at block %d has %d entries, with room for %d", l, n.entryCount(), n.entryLimit())
		return
	}
	if x.d.c.sb.metadataCsum {
		if sum, end := x.d.c.fs.indexChecksum(x.d.dir, l, b); sum != le.Uint32(b[end+4:]) {
			x.d.reportBlock(ProblemDirSum, at, "an index node has a wrong checksum")
		}
	}
	for k := range n.entryCount() {
		x.checkIndexEntry(l, n, k)
	}
}

// checkIndexEntry records where one entry of an inner node leads.
func (x *indexCheck) checkIndexEntry(l uint32, n dxNode, k int) {
	from, to := n.hashAt(k)&^1, ^uint32(1)
	if k+1 < n.entryCount() {
		to = n.hashAt(k+1) &^ 1
	}
	child := n.childBlock(k)
	if child == 0 || child >= uint32(len(x.blocks)) {
		x.reportIndex("the index node at block %d leads to block %d", l, child)
		return
	}
	if k > 0 && to < from {
		x.reportIndex("the hashes in the index node at block %d are out of order", l)
	}
	b := &x.blocks[child]
	if b.refs > 0 {
		x.reportIndex("two index entries lead to block %d", child)
		return
	}
	b.refs, b.parent, b.from, b.to = 1, l, from, to
}

// addLeafName adds the hash of a name to the range of its leaf.
func (x *indexCheck) addLeafName(l uint32, name string) {
	if x.broken || x.d.dir.hasFlag(flagCasefold) {
		return
	}
	h, _, _ := x.d.c.sb.hash.hashName(x.version, name)
	b := &x.blocks[l]
	if !b.any || h < b.lo {
		b.lo = h
	}
	b.any, b.hi = true, max(b.hi, h)
}

// checkHashRanges checks that each block is reached once, at the right depth, and that
// leaves hold only hashes of their range.
func (x *indexCheck) checkHashRanges() {
	for l := 1; l < len(x.blocks) && !x.broken && !x.d.c.shouldStop(); l++ {
		b := &x.blocks[l]
		switch {
		case b.refs == 0:
			x.reportIndex("no index entry leads to block %d", l)
		case b.kind == leafBlock && x.blockDepth(uint32(l)) != x.levels+1:
			x.reportIndex("block %d is %d levels deep, not %d", l, x.blockDepth(uint32(l)), x.levels+1)
		case b.kind == nodeBlock && x.blockDepth(uint32(l)) > x.levels:
			x.reportIndex("block %d is too deep", l)
		case b.any:
			if from, to := x.pathHashRange(uint32(l)); b.lo < from || b.hi > to {
				x.reportIndex("block %d holds hashes from %#x to %#x, outside of %#x to %#x", l, b.lo, b.hi, from, to)
			}
		}
	}
}

// pathHashRange returns the hashes for which the index leads to a block.
func (x *indexCheck) pathHashRange(l uint32) (from, to uint32) {
	to = ^uint32(0)
	for n := 0; l != 0 && n <= 4; n++ {
		b := &x.blocks[l]
		from, to = max(from, b.from), min(to, b.to)
		l = b.parent
	}
	return from, to
}

// blockDepth returns how many steps lead from the root to a block; -1: the root is not
// reached.
func (x *indexCheck) blockDepth(l uint32) int {
	n := 0
	for ; l != 0 && n <= 4; n++ {
		if x.blocks[l].refs == 0 {
			return -1
		}
		l = x.blocks[l].parent
	}
	return n
}
