package ext4

import "slices"

// addGroups adds new groups until the file system is as large as planned.
func (g *grower) addGroups() error {
	for g.fs.sb.blocks < g.blocks {
		if err := g.ctx.Err(); err != nil {
			return err
		}
		groups, err := g.prepare()
		if err != nil {
			return err
		}
		if err := g.addUpTo(groups); err != nil {
			return err
		}
	}
	return nil
}

// prepare makes the resize inode stand aside, finds a place for the descriptors of new
// groups, and returns how many groups there can be after the next step.
func (g *grower) prepare() (uint32, error) {
	all := g.fs.sb.groupsOf(g.blocks)
	sb := g.fs.sb
	per := sb.descsPerBlock()
	if sb.metaBG != ^uint32(0) {
		return all, nil
	}
	need := (all + per - 1) / per
	if need > sb.descBlocks() && (need > g.room || g.blocks > 1<<32) {
		return all, g.toMetaBG()
	}
	if sb.compat&compatResizeInode == 0 || need == sb.descBlocks() && !g.newCopies(sb.groups, all) {
		return all, nil
	}
	if err := g.keepBare(min(keptBare, g.room-sb.descBlocks())); err != nil {
		return 0, err
	}
	sb = g.fs.sb
	return min(all, (sb.descBlocks()+sb.reserved)*per), nil
}

// newCopies reports whether one of the groups from..to-1 has a copy of the superblock.
func (g *grower) newCopies(from, to uint32) bool {
	for k := from; k < to; k++ {
		if sparseGroup(k) {
			return true
		}
	}
	return false
}

// addUpTo adds groups until there are so many.
func (g *grower) addUpTo(groups uint32) error {
	old := g.fs.sb
	n, err := g.grown(groups)
	if err != nil {
		return err
	}
	w := &groupWriter{g: g, sb: n}
	if err := w.write(old.groups); err != nil {
		return err
	}
	if err := g.dev.Sync(); err != nil {
		return err
	}
	free := g.fs.counters
	free.freeBlocks += w.free
	free.freeInodes += n.inodes - old.inodes
	putFree(n.raw, n, free)
	return g.switchSuper(n.raw)
}

// switchSuper writes the first sector of a superblock of which the second one did not
// change, and reads the file system anew.
func (g *grower) switchSuper(raw []byte) error {
	if err := g.fs.writeFlag(raw, false); err != nil {
		return err
	}
	if err := g.dev.Sync(); err != nil {
		return err
	}
	return g.reopen()
}

// grown returns the superblock of the file system with more groups.
func (g *grower) grown(groups uint32) (*super, error) {
	old := g.fs.sb
	raw := slices.Clone(old.raw)
	blocks := min(g.blocks, old.groupStart(groups))
	putBlocks(raw, old, blocks)
	le.PutUint32(raw[sbInodes:], groups*old.inodesPer)
	per := old.descsPerBlock()
	if need := (groups + per - 1) / per; old.metaBG == ^uint32(0) && need > old.descBlocks() {
		le.PutUint16(raw[sbReservedGDT:], uint16(old.reserved-(need-old.descBlocks())))
	}
	g.fs.balance(raw)
	return parseSuper(raw, 0)
}

// groupWriter writes groups that are not yet part of the file system.
type groupWriter struct {
	g    *grower
	sb   *super // of the file system that they will be part of
	free uint64 // blocks that are free in them
}

// write writes the groups from first on: what of them is not zero, and descriptors.
func (w *groupWriter) write(first uint32) error {
	old, per := w.g.fs.sb, w.sb.descsPerBlock()
	for k := first; k < w.sb.groups; {
		if err := w.g.ctx.Err(); err != nil {
			return err
		}
		table := make([]byte, w.sb.blockSize)
		n := k / per
		if n < old.descBlocks() {
			at, _ := old.descAt(n * per)
			b, err := w.g.fs.get(at)
			if err != nil {
				return err
			}
			copy(table, b.data)
		}
		for ; k < w.sb.groups && k/per == n; k++ {
			d := desc(table[int(k%per)*w.sb.descSize:][:w.sb.descSize])
			if err := w.group(k, d); err != nil {
				return err
			}
		}
		if err := w.put(n, table); err != nil {
			return err
		}
	}
	return nil
}

// put writes a block of descriptors, and with meta_bg its two copies.
func (w *groupWriter) put(n uint32, table []byte) error {
	per := w.sb.descsPerBlock()
	at, _ := w.sb.descAt(n * per)
	places := []uint64{at}
	if n >= w.sb.metaBG {
		for _, k := range []uint32{n*per + 1, n*per + per - 1} {
			if k < w.sb.groups {
				at := w.sb.groupStart(k)
				if w.sb.hasSuper(k) {
					at++
				}
				places = append(places, at)
			}
		}
	}
	for _, at := range places {
		if _, err := w.g.dev.WriteAt(table, int64(at)*w.sb.blockSize); err != nil {
			return err
		}
	}
	return nil
}

// group fills the descriptor of a new group and writes its bitmaps if need be.
func (w *groupWriter) group(k uint32, d desc) error {
	sb := w.sb
	base := max(sb.baseBlocks(k), w.g.copyRoom(k))
	at := sb.groupStart(k) + uint64(base)
	used := sb.baseBlocks(k) + 2 + uint32(sb.tableBlocks())
	free := sb.groupLen(k) - used
	clear(d)
	for i, f := range []struct{ lo, hi int }{
		{gdBlockBitmap, gdBlockHi}, {gdInodeBitmap, gdInodeHi}, {gdInodeTable, gdTableHi},
	} {
		n := at + uint64(i)
		le.PutUint32(d[f.lo:], uint32(n))
		if len(d) >= 64 {
			le.PutUint32(d[f.hi:], uint32(n>>32))
		}
	}
	d.setCount(gdFreeBlocks, gdFreeBlocksHi, free)
	d.setCount(gdFreeInodes, gdFreeInodesHi, sb.inodesPer)
	w.free += uint64(free)
	if sb.csum {
		d.setCount(gdUnused, gdUnusedHi, sb.inodesPer)
		le.PutUint16(d[gdFlags:], groupInodeUninit|groupBlockUninit|groupInodeZeroed)
	}
	if err := w.bitmaps(k, d); err != nil {
		return err
	}
	if sb.csum {
		le.PutUint16(d[gdChecksum:], descChecksum(sb.seed, k, d))
	}
	return nil
}

// copyRoom returns how many blocks at the beginning of a group with a copy of the
// superblock stay free of its bitmaps and its inodes, because descriptors may come there.
func (g *grower) copyRoom(k uint32) uint32 {
	if g.fs.sb.metaBG != ^uint32(0) || !sparseGroup(k) {
		return 0
	}
	return 1 + g.room
}

// bitmaps writes the bitmaps of a new group that do not follow from its descriptor:
// that of the blocks of the last group, or all where there are no checksums.
func (w *groupWriter) bitmaps(k uint32, d desc) error {
	sb := w.sb
	if sb.csum && k != sb.groups-1 {
		return nil
	}
	b := make([]byte, w.sb.blockSize)
	layout := FS{sb: sb}
	layout.initialBitmap(k, d, b)
	if _, err := w.g.dev.WriteAt(b, int64(d.blockBitmap())*w.sb.blockSize); err != nil {
		return err
	}
	if sb.csum {
		le.PutUint16(d[gdFlags:], d.flags()&^groupBlockUninit)
		d.setCount(gdBlockCsum, gdBlockCsumHi, crc32c(sb.seed, b))
		return nil
	}
	clear(b)
	setBits(b, uint64(sb.inodesPer), uint64(len(b)*8)-uint64(sb.inodesPer))
	_, err := w.g.dev.WriteAt(b, int64(d.inodeBitmap())*w.sb.blockSize)
	return err
}
