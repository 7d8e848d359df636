package ext4

// doubleSlot is the offset of the double-indirect block in the resize inode.
const doubleSlot = inBlock + 4*13

// eachSuperGroup calls f for group 0 and each group with a backup of the superblock.
func (s *superblock) eachSuperGroup(f func(g uint32) error) error {
	for _, g := range append([]uint32{0}, backupGroups(s.groups)...) {
		if err := f(g); err != nil {
			return err
		}
	}
	return nil
}

// reserveUnlisted reserves n blocks for descriptors, none of which the resize inode lists.
func (g *grower) reserveUnlisted(n uint32) error {
	if sb := g.fs.sb; sb.reservedDescs == n {
		if empty, err := g.fs.isResizeListEmpty(); empty || err != nil {
			return err
		}
	}
	return g.changeAndReopen(func(fs *FS) error {
		if err := fs.emptyResizeList(); err != nil {
			return err
		}
		_, err := fs.setReservedDescs(n)
		return err
	})
}

// isResizeListEmpty reports whether the resize inode lists no blocks.
func (fs *FS) isResizeListEmpty() (bool, error) {
	i, err := fs.readInode(resizeInode)
	if err != nil {
		return false, err
	}
	return fs.allocatedBytes(i) == fs.sb.blockSize, nil
}

// emptyResizeList empties the list in the resize inode.
func (fs *FS) emptyResizeList() error {
	i, at, err := fs.readResizeInode()
	if err != nil {
		return err
	}
	b, err := fs.modifyBlock(at)
	if err != nil {
		return err
	}
	clear(b)
	fs.changeBlockCount(i, 1-fs.allocatedBytes(i)/fs.sb.blockSize)
	return fs.storeInode(i)
}

// readResizeInode returns the resize inode and its double-indirect block.
func (fs *FS) readResizeInode() (*inode, uint64, error) {
	i, err := fs.readInode(resizeInode)
	if err != nil {
		return nil, 0, err
	}
	at := uint64(le.Uint32(i.raw[doubleSlot:]))
	if at <= fs.sb.firstBlock || at >= fs.sb.blocks {
		return nil, 0, corruptf("the resize inode is invalid")
	}
	return i, at, nil
}

// setReservedDescs sets how many blocks after the descriptors are reserved for more of
// them: n, or as many as are free. It returns how many there are.
func (fs *FS) setReservedDescs(n uint32) (uint32, error) {
	sb := fs.sb
	old, from := sb.reservedDescs, 1+sb.descBlockCount()
	if n > old {
		err := sb.eachSuperGroup(func(g uint32) (err error) {
			n, err = fs.countFreeFrom(g, from+old, n-old)
			n += old
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	err := sb.eachSuperGroup(func(g uint32) error {
		if n > old {
			return fs.markBlocksUsed(g, from+old, n-old)
		}
		return fs.markBlocksFree(g, from+n, old-n)
	})
	sb.reservedDescs = n
	le.PutUint16(sb.raw[sbReservedGDT:], uint16(n))
	return n, err
}

// countFreeFrom returns how many of n blocks of a group are free from one on, up to the
// first that is not.
func (fs *FS) countFreeFrom(g, from, n uint32) (uint32, error) {
	d, err := fs.readGroupDesc(g)
	if err != nil {
		return 0, err
	}
	m, err := fs.groupFreeMap(g, d)
	if err != nil {
		return 0, err
	}
	return min(m.nextBlock(from, true), from+n) - from, nil
}

// restoreReservedDescs reserves as many blocks for descriptors as before, less those that
// are in use now, and lists them in the resize inode.
func (g *grower) restoreReservedDescs() error {
	sb := g.fs.sb
	if sb.compat&compatResizeInode == 0 || sb.firstMetaBG != ^uint32(0) || g.reservedBefore == 0 && sb.reservedDescs == 0 {
		return nil
	}
	// The list has numbers of 32 bits, and a block for those of group 0.
	want := min(g.descRoom-min(g.descRoom, sb.descBlockCount()), uint32(sb.blockSize/4))
	if sb.blocks > 1<<32 {
		want = 0
	}
	if sb.reservedDescs == want {
		if empty, err := g.fs.isResizeListEmpty(); !empty || want == 0 || err != nil {
			return err
		}
	}
	return g.changeAndReopen(func(fs *FS) error {
		// The list is part of the transaction.
		n, err := fs.setReservedDescs(min(want, uint32(fs.maxTxBlocks/2)))
		if err != nil {
			return err
		}
		return fs.writeResizeList(n)
	})
}

// writeResizeList lists n blocks after the descriptors in the resize inode.
func (fs *FS) writeResizeList(n uint32) error {
	i, at, err := fs.readResizeInode()
	if err != nil {
		return err
	}
	double, err := fs.modifyBlock(at)
	if err != nil {
		return err
	}
	clear(double)
	fs.sb.fillResizeList(double, n, fs.createZeroedBlock)
	have := fs.allocatedBytes(i) / fs.sb.blockSize
	fs.changeBlockCount(i, 1+int64(n)*int64(1+len(backupGroups(fs.sb.groups)))-have)
	return fs.storeInode(i)
}

// fillResizeList fills the zeros of the resize inode's double-indirect block: it lists n
// blocks after the descriptors as if they were indirect blocks, and each of those, which
// single returns as zeros, lists its copies in the groups with backups.
func (s *superblock) fillResizeList(double []byte, n uint32, single func(at uint64) []byte) {
	perBlock, first, descs := uint32(s.blockSize/4), uint32(s.firstBlock), s.descBlockCount()
	backups := backupGroups(s.groups)
	for k := range n {
		own := 1 + descs + k
		le.PutUint32(double[(descs+k)%perBlock*4:], first+own)
		b := single(uint64(first + own))
		for j, g := range backups {
			le.PutUint32(b[4*j:], uint32(s.groupStart(g))+own)
		}
	}
}

// convertToMetaBG gives the image the feature meta_bg: every 64 groups (128 with short
// descriptors) hold their own descriptors, so their number is not limited. No blocks have
// to be reserved any more, and the resize inode goes.
func (g *grower) convertToMetaBG() error {
	return g.changeAndReopen(func(fs *FS) error {
		raw := fs.sb.raw
		if fs.sb.compat&compatResizeInode != 0 {
			if err := fs.removeResizeInode(); err != nil {
				return err
			}
		}
		fs.sb.firstMetaBG = fs.sb.descBlockCount()
		fs.sb.incompat |= incompatMetaBG
		le.PutUint32(raw[sbIncompat:], fs.sb.incompat)
		le.PutUint32(raw[sbFirstMetaBG:], fs.sb.firstMetaBG)
		_, err := fs.modifyBlock(fs.sb.superblockNumber())
		return err
	})
}

// removeResizeInode frees the resize inode and the blocks that it holds.
func (fs *FS) removeResizeInode() error {
	i, at, err := fs.readResizeInode()
	if err != nil {
		return err
	}
	if _, err := fs.setReservedDescs(0); err != nil {
		return err
	}
	g, index := fs.sb.locateBlock(at)
	if err := fs.markBlocksFree(g, index, 1); err != nil {
		return err
	}
	fs.sb.compat &^= compatResizeInode
	le.PutUint32(fs.sb.raw[sbCompat:], fs.sb.compat)
	// Nothing but zeros: Linux and e2fsck want no checksum then.
	raw, err := fs.modifyRawInode(i.num)
	clear(raw)
	return err
}
