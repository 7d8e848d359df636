package ext4

// doubleSlot is where the resize inode has its block of double indirection.
const doubleSlot = inBlock + 4*13

// copyGroups calls f for each group that has a copy of the superblock, and for group 0.
func (s *super) copyGroups(f func(g uint32) error) error {
	for _, g := range append([]uint32{0}, backupGroups(s.groups)...) {
		if err := f(g); err != nil {
			return err
		}
	}
	return nil
}

// keepBare leaves n blocks to be kept for descriptors, none of them in the list of the
// resize inode.
func (g *grower) keepBare(n uint32) error {
	if sb := g.fs.sb; sb.reserved == n {
		if empty, err := g.fs.resizeEmpty(); empty || err != nil {
			return err
		}
	}
	return g.change(func(fs *FS) error {
		if err := fs.emptyResize(); err != nil {
			return err
		}
		_, err := fs.keep(n)
		return err
	})
}

// resizeEmpty reports whether the list of the resize inode is empty.
func (fs *FS) resizeEmpty() (bool, error) {
	i, err := fs.inode(resizeInode)
	if err != nil {
		return false, err
	}
	return fs.allocated(i) == fs.sb.blockSize, nil
}

// emptyResize empties the list of the resize inode.
func (fs *FS) emptyResize() error {
	i, at, err := fs.resizeNode()
	if err != nil {
		return err
	}
	b, err := fs.mod(at)
	if err != nil {
		return err
	}
	clear(b)
	fs.addBlocks(i, 1-fs.allocated(i)/fs.sb.blockSize)
	return fs.putInode(i)
}

// resizeNode returns the resize inode and its block of double indirection.
func (fs *FS) resizeNode() (*inode, uint64, error) {
	i, err := fs.inode(resizeInode)
	if err != nil {
		return nil, 0, err
	}
	at := uint64(le.Uint32(i.raw[doubleSlot:]))
	if at <= fs.sb.first || at >= fs.sb.blocks {
		return nil, 0, corruptf("the resize inode")
	}
	return i, at, nil
}

// keep changes how many blocks after the descriptors are kept for more of them: to n,
// or to as many as are free now, and returns how many.
func (fs *FS) keep(n uint32) (uint32, error) {
	sb := fs.sb
	old, from := sb.reserved, 1+sb.descBlocks()
	if n > old {
		err := sb.copyGroups(func(g uint32) (err error) {
			n, err = fs.freeAhead(g, from+old, n-old)
			n += old
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	err := sb.copyGroups(func(g uint32) error {
		if n > old {
			return fs.markUsed(g, from+old, n-old)
		}
		return fs.markFree(g, from+n, old-n)
	})
	sb.reserved = n
	le.PutUint16(sb.raw[sbReservedGDT:], uint16(n))
	return n, err
}

// freeAhead returns how many of the n blocks of a group that begin at from are free,
// up to the first that is not.
func (fs *FS) freeAhead(g, from, n uint32) (uint32, error) {
	d, err := fs.desc(g)
	if err != nil {
		return 0, err
	}
	m, err := fs.freeMap(g, d)
	if err != nil {
		return 0, err
	}
	return min(m.next(from, true), from+n) - from, nil
}

// keepAgain keeps as many blocks for descriptors as there were before, but for those
// that are in use by now, and lists them in the resize inode.
func (g *grower) keepAgain() error {
	sb := g.fs.sb
	if sb.compat&compatResizeInode == 0 || sb.metaBG != ^uint32(0) || g.kept == 0 && sb.reserved == 0 {
		return nil
	}
	// The list has numbers of 32 bits, and a block for those of group 0.
	want := min(g.room-min(g.room, sb.descBlocks()), uint32(sb.blockSize/4))
	if sb.blocks > 1<<32 {
		want = 0
	}
	if sb.reserved == want {
		if empty, err := g.fs.resizeEmpty(); !empty || want == 0 || err != nil {
			return err
		}
	}
	return g.change(func(fs *FS) error {
		// The list is part of the transaction.
		n, err := fs.keep(min(want, uint32(fs.txLimit/2)))
		if err != nil {
			return err
		}
		return fs.listKept(n)
	})
}

// listKept makes the list of the resize inode: of n blocks after the descriptors, as
// if each were a block of indirection, and in those of their copies.
func (fs *FS) listKept(n uint32) error {
	i, at, err := fs.resizeNode()
	if err != nil {
		return err
	}
	double, err := fs.mod(at)
	if err != nil {
		return err
	}
	clear(double)
	perBlock, first := uint32(fs.sb.blockSize/4), uint32(fs.sb.first)
	backups := backupGroups(fs.sb.groups)
	descs := fs.sb.descBlocks()
	for k := range n {
		own := 1 + descs + k
		le.PutUint32(double[(descs+k)%perBlock*4:], first+own)
		single := fs.fresh(uint64(first + own))
		for j, b := range backups {
			le.PutUint32(single[4*j:], uint32(fs.sb.groupStart(b))+own)
		}
	}
	have := fs.allocated(i) / fs.sb.blockSize
	fs.addBlocks(i, 1+int64(n)*int64(1+len(backups))-have)
	return fs.putInode(i)
}

// toMetaBG gives the image the feature meta_bg: each 64 groups (128 where descriptors
// are short) keep their own descriptors, as many groups as there may be. No block needs
// be kept for descriptors then, and the resize inode goes.
func (g *grower) toMetaBG() error {
	return g.change(func(fs *FS) error {
		raw := fs.sb.raw
		if fs.sb.compat&compatResizeInode != 0 {
			if err := fs.dropResize(); err != nil {
				return err
			}
		}
		fs.sb.metaBG = fs.sb.descBlocks()
		fs.sb.incompat |= incompatMetaBG
		le.PutUint32(raw[sbIncompat:], fs.sb.incompat)
		le.PutUint32(raw[sbFirstMetaBG:], fs.sb.metaBG)
		_, err := fs.mod(fs.sb.superBlock())
		return err
	})
}

// dropResize frees all that the resize inode holds, and the inode.
func (fs *FS) dropResize() error {
	i, at, err := fs.resizeNode()
	if err != nil {
		return err
	}
	if _, err := fs.keep(0); err != nil {
		return err
	}
	g, index := fs.sb.groupOf(at)
	if err := fs.markFree(g, index, 1); err != nil {
		return err
	}
	fs.sb.compat &^= compatResizeInode
	le.PutUint32(fs.sb.raw[sbCompat:], fs.sb.compat)
	// Nothing but zeros: Linux and e2fsck want no checksum then.
	n, off, err := fs.inodeAt(i.num)
	if err != nil {
		return err
	}
	b, err := fs.mod(n)
	if err == nil {
		clear(b[off:][:fs.sb.inodeSize])
	}
	return err
}
