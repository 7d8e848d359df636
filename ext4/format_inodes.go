package ext4

// resizeSize is the size in bytes of the resize inode: as far as double indirection
// reaches.
const resizeSize = (12 + defaultBlock/4 + defaultBlock/4*defaultBlock/4) * defaultBlock

// fillFirstInodes fills the first block of group 0's inode table with the inodes that a
// new file system has, and the superblock's fields about the journal.
func (p *formatPlan) fillFirstInodes(table, super []byte) {
	slot := func(n uint32) []byte { return table[(n-1)*newInodeSize:][:newInodeSize] }

	root := slot(rootInode)
	p.fillInode(root, typeDir|uint16(p.opts.Mode), 3, defaultBlock, 1)
	putExtents(root, []run{{p.rootDirBlock(), 1}})
	(&inode{raw: root}).setModeAndOwner(typeDir|uint16(p.opts.Mode), p.opts.UID, p.opts.GID)
	setInodeChecksum(p.csumSeed, rootInode, root)

	if !p.metaBG {
		resize := slot(resizeInode)
		p.fillInode(resize, typeRegular|0o600, 1, resizeSize, 1+uint64(p.reservedDescs)*uint64(1+len(p.backups)))
		le.PutUint32(resize[inBlock+4*13:], uint32(p.resizeInodeBlock()))
		setInodeChecksum(p.csumSeed, resizeInode, resize)
	}

	lost := slot(firstInode)
	p.fillInode(lost, typeDir|0o700, 2, lostBlocks*defaultBlock, lostBlocks)
	putExtents(lost, []run{{p.lostFoundBlock(), lostBlocks}})
	setInodeChecksum(p.csumSeed, firstInode, lost)

	if p.journalBlocks == 0 {
		return
	}
	journal := slot(journalInode)
	p.fillInode(journal, typeRegular|0o600, 1, p.journalBlocks*defaultBlock, p.journalBlocks)
	putExtents(journal, p.journalRuns)
	setInodeChecksum(p.csumSeed, journalInode, journal)

	putJournalInSuper(super, journal)
}

// putJournalInSuper enters a journal in a superblock, with the block map and size of its inode,
// where e2fsck finds the journal if the inode is damaged.
func putJournalInSuper(super, journal []byte) {
	le.PutUint32(super[sbCompat:], le.Uint32(super[sbCompat:])|compatJournal)
	le.PutUint32(super[sbJournalInode:], journalInode)
	super[sbJournalBackup] = 1 // of the inode's blocks and size
	backup := super[sbJournalBlocks:]
	copy(backup, journal[inBlock:][:blockAreaLen])
	copy(backup[blockAreaLen:], journal[inSizeHi:][:4])
	copy(backup[blockAreaLen+4:], journal[inSizeLo:][:4])
}

// fillInode fills a new inode of root's, with a size in bytes and a number of blocks.
func (p *formatPlan) fillInode(raw []byte, mode, links uint16, size, blocks uint64) {
	le.PutUint16(raw[inMode:], mode)
	le.PutUint16(raw[inLinks:], links)
	le.PutUint32(raw[inSizeLo:], uint32(size))
	le.PutUint32(raw[inSizeHi:], uint32(size>>32))
	sectors := blocks * (defaultBlock / 512)
	le.PutUint32(raw[inBlocksLo:], uint32(sectors))
	le.PutUint16(raw[inBlocksHi:], uint16(sectors>>32))
	if len(raw) > oldInodeSize {
		le.PutUint16(raw[inExtraSize:], wantExtra)
	}
	for _, stamp := range [][2]int{stampAtime, stampCtime, stampMtime, stampBirth} {
		(&inode{raw: raw}).setTime(stamp, p.opts.Time)
	}
}

// putExtents makes an inode map up to four extents, of up to maxExtent blocks each.
func putExtents(raw []byte, runs []run) {
	le.PutUint32(raw[inFlags:], flagExtents)
	root := initExtentNode(raw[inBlock:][:blockAreaLen], 0, 0)
	root.setEntryCount(len(runs))
	var logical uint32
	for i, r := range runs {
		root.setExtentAt(i, extent{logical: logical, n: r.n, start: r.start})
		logical += r.n
	}
}

// fillDirectories fills the blocks of the root directory and of lost+found.
func (p *formatPlan) fillDirectories(b []byte) {
	const end = defaultBlock - dirTailLen
	putEntry(b, rootInode, 12, ftDir, ".")
	putEntry(b[12:], rootInode, 12, ftDir, "..")
	putEntry(b[24:], firstInode, end-24, ftDir, "lost+found")
	setDirBlockChecksum(p.csumSeed, rootInode, 0, b[:defaultBlock])

	b = b[defaultBlock:]
	putEntry(b, firstInode, 12, ftDir, ".")
	putEntry(b[12:], rootInode, end-12, ftDir, "..")
	setDirBlockChecksum(p.csumSeed, firstInode, 0, b[:defaultBlock])
	for range lostBlocks - 1 {
		b = b[defaultBlock:]
		putEntry(b, 0, end, ftUnknown, "")
		setDirBlockChecksum(p.csumSeed, firstInode, 0, b[:defaultBlock])
	}
}

// fillResizeTree fills the blocks of the resize inode.
func (p *formatPlan) fillResizeTree(head []byte) {
	if p.metaBG {
		return
	}
	block := func(n uint64) []byte { return head[n*defaultBlock:][:defaultBlock] }
	p.fillResizeList(block(p.resizeInodeBlock()), p.reservedDescs, block)
}

// newJournalSuperblock returns the superblock of an empty journal of so many blocks.
func newJournalSuperblock(blocks uint32, uuid []byte) []byte {
	sb := make([]byte, defaultBlock)
	for _, f := range []struct {
		at int
		v  uint32
	}{
		{0x0, journalMagic},
		{0x4, 4}, // a superblock of version 2
		{0xc, defaultBlock},
		{0x10, blocks},
		{0x14, 1}, // first block of the log
		{0x18, 1}, // first transaction expected; where it starts is 0: nowhere
		{0x40, 1}, // users
	} {
		be.PutUint32(sb[f.at:], f.v)
	}
	copy(sb[0x30:], uuid)
	return sb
}
