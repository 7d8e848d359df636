package ext4

import "slices"

// addGroups adds groups until the file system is as large as planned.
func (g *grower) addGroups() error {
	for g.fs.sb.blocks < g.blocks {
		if err := g.ctx.Err(); err != nil {
			return err
		}
		groups, err := g.prepareDescRoom()
		if err != nil {
			return err
		}
		if err := g.addGroupsUpTo(groups); err != nil {
			return err
		}
	}
	return nil
}

// prepareDescRoom makes room for the descriptors of new groups: it empties the resize
// inode's list, or converts to meta_bg. It returns how many groups the next step can
// reach.
func (g *grower) prepareDescRoom() (uint32, error) {
	all := g.fs.sb.groupsForBlocks(g.blocks)
	sb := g.fs.sb
	per := sb.descsPerBlock()
	if sb.firstMetaBG != ^uint32(0) {
		return all, nil
	}
	need := (all + per - 1) / per
	if need > sb.descBlockCount() && (need > g.descRoom || g.blocks > 1<<32) {
		return all, g.convertToMetaBG()
	}
	if sb.compat&compatResizeInode == 0 || need == sb.descBlockCount() && !g.hasBackupGroup(sb.groups, all) {
		return all, nil
	}
	if err := g.reserveUnlisted(min(maxUnlistedDescs, g.descRoom-sb.descBlockCount())); err != nil {
		return 0, err
	}
	sb = g.fs.sb
	return min(all, (sb.descBlockCount()+sb.reservedDescs)*per), nil
}

// hasBackupGroup reports whether one of the groups from..to-1 holds a backup of the
// superblock.
func (g *grower) hasBackupGroup(from, to uint32) bool {
	return slices.ContainsFunc(backupGroups(to), func(k uint32) bool { return k >= from })
}

// addGroupsUpTo writes new groups, and then the superblock that makes them part of the
// file system.
func (g *grower) addGroupsUpTo(groups uint32) error {
	old := g.fs.sb
	n, err := g.grownSuperblock(groups)
	if err != nil {
		return err
	}
	// The new groups become part of the file system only by the superblock, after the sync.
	w := &groupWriter{g: g, sb: n}
	if err := w.writeGroups(old.groups); err != nil {
		return err
	}
	if err := g.dev.Sync(); err != nil {
		return err
	}
	// All counts change together with the number of groups, in one sector.
	free := g.fs.counters
	free.freeBlocks += w.free
	free.freeInodes += n.inodes - old.inodes
	putFreeCounts(n.raw, n, free)
	return g.switchSuperblock(n.raw)
}

// switchSuperblock writes the first sector of a superblock whose second sector is
// unchanged, which is atomic, and reopens the image.
func (g *grower) switchSuperblock(raw []byte) error {
	if err := g.fs.writeNeedsRecovery(raw, false); err != nil {
		return err
	}
	if err := g.dev.Sync(); err != nil {
		return err
	}
	return g.reopenImage()
}

// grownSuperblock returns the superblock for more groups.
func (g *grower) grownSuperblock(groups uint32) (*superblock, error) {
	old := g.fs.sb
	raw := slices.Clone(old.raw)
	blocks := min(g.blocks, old.groupStart(groups))
	putBlockCount(raw, old, blocks)
	le.PutUint32(raw[sbInodes:], groups*old.inodesPerGroup)
	per := old.descsPerBlock()
	if need := (groups + per - 1) / per; old.firstMetaBG == ^uint32(0) && need > old.descBlockCount() {
		le.PutUint16(raw[sbReservedGDT:], uint16(old.reservedDescs-(need-old.descBlockCount())))
	}
	g.fs.balanceSuperChecksum(raw)
	return parseSuperblock(raw, 0)
}

// groupWriter writes groups that are not part of the file system yet.
type groupWriter struct {
	g    *grower
	sb   *superblock // of the file system that they will be part of
	free uint64      // blocks that are free in them
}

// writeGroups writes the groups from first on: metadata that is not zero, and descriptors.
func (w *groupWriter) writeGroups(first uint32) error {
	old, per := w.g.fs.sb, w.sb.descsPerBlock()
	for k := first; k < w.sb.groups; {
		if err := w.g.ctx.Err(); err != nil {
			return err
		}
		table := make([]byte, w.sb.blockSize)
		n := k / per
		if n < old.descBlockCount() {
			at, _ := old.locateGroupDesc(n * per)
			b, err := w.g.fs.getBlock(at)
			if err != nil {
				return err
			}
			copy(table, b.data)
		}
		for ; k < w.sb.groups && k/per == n; k++ {
			d := groupDesc(table[int(k%per)*w.sb.descSize:][:w.sb.descSize])
			if err := w.writeGroup(k, d); err != nil {
				return err
			}
		}
		if err := w.writeDescBlock(n, table); err != nil {
			return err
		}
	}
	return nil
}

// writeDescBlock writes a block of descriptors and, with meta_bg, its two copies.
func (w *groupWriter) writeDescBlock(n uint32, table []byte) error {
	at, _ := w.sb.locateGroupDesc(n * w.sb.descsPerBlock())
	places := []uint64{at}
	if n >= w.sb.firstMetaBG {
		for _, k := range w.sb.metaBGGroups(n)[1:] {
			at := w.sb.groupStart(k)
			if w.sb.hasSuperblock(k) {
				at++
			}
			places = append(places, at)
		}
	}
	for _, at := range places {
		if _, err := w.g.dev.WriteAt(table, int64(at)*w.sb.blockSize); err != nil {
			return err
		}
	}
	return nil
}

// writeGroup fills the descriptor of a new group, and writes its bitmaps if necessary.
func (w *groupWriter) writeGroup(k uint32, d groupDesc) error {
	sb := w.sb
	base := max(sb.baseMetaBlocks(k), w.g.backupGroupBaseRoom(k))
	at := sb.groupStart(k) + uint64(base)
	used := sb.baseMetaBlocks(k) + 2 + uint32(sb.inodeTableBlocks())
	free := sb.groupBlockCount(k) - used
	clear(d)
	d.setPlaces(at, at+1, at+2)
	d.setSplitCount(gdFreeBlocks, gdFreeBlocksHi, free)
	d.setSplitCount(gdFreeInodes, gdFreeInodesHi, sb.inodesPerGroup)
	w.free += uint64(free)
	if sb.metadataCsum {
		d.setSplitCount(gdUnused, gdUnusedHi, sb.inodesPerGroup)
		le.PutUint16(d[gdFlags:], groupInodeUninit|groupBlockUninit|groupInodeZeroed)
	}
	if err := w.writeBitmaps(k, d); err != nil {
		return err
	}
	if sb.metadataCsum {
		le.PutUint16(d[gdChecksum:], descChecksum(sb.csumSeed, k, d))
	}
	return nil
}

// backupGroupBaseRoom returns how many blocks at the start of a group with a backup of the
// superblock its bitmaps and inodes must leave for descriptors.
func (g *grower) backupGroupBaseRoom(k uint32) uint32 {
	if g.fs.sb.firstMetaBG != ^uint32(0) || !isSparseSuperGroup(k) {
		return 0
	}
	return 1 + g.descRoom
}

// writeBitmaps writes the bitmaps of a new group that do not follow from its descriptor:
// the block bitmap of the last group, or all bitmaps if there are no checksums.
func (w *groupWriter) writeBitmaps(k uint32, d groupDesc) error {
	sb := w.sb
	if sb.metadataCsum && k != sb.groups-1 {
		return nil
	}
	b := make([]byte, w.sb.blockSize)
	sb.fillInitialBlockBitmap(k, d, b)
	if _, err := w.g.dev.WriteAt(b, int64(d.blockBitmap())*w.sb.blockSize); err != nil {
		return err
	}
	if sb.metadataCsum {
		le.PutUint16(d[gdFlags:], d.flags()&^groupBlockUninit)
		d.setSplitCount(gdBlockCsum, gdBlockCsumHi, crc32c(sb.csumSeed, b))
		return nil
	}
	clear(b)
	setBits(b, uint64(sb.inodesPerGroup), uint64(len(b)*8)-uint64(sb.inodesPerGroup))
	_, err := w.g.dev.WriteAt(b, int64(d.inodeBitmap())*w.sb.blockSize)
	return err
}
