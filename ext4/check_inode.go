package ext4

import "time"

const (
	badBlocksInode  = 1
	bootLoaderInode = 5
	inFaddr         = 0x70 // of a fragment, which nobody ever had
	inVersion       = 0x24
	flagImagic      = 0x2000
)

// scanInodes checks all inodes, and finds what is in use.
func (c *checker) scanInodes() {
	for k := uint32(1); k < c.sb.firstIno && k <= c.sb.inodes && !c.stopped(); k++ {
		c.use(k) // whether or not anything was ever written there
		if k != rootInode {
			c.state(k).bits |= stateSystem
		}
	}
	buf := make([]byte, c.sb.blockSize)
	for g := uint32(0); g < c.sb.groups && !c.stopped(); g++ {
		d := c.desc(g)
		if d == nil {
			return
		}
		n := c.sb.inodesPer
		if c.groupSums() {
			if d.flags()&groupInodeUninit != 0 {
				n = 0
			}
			n -= min(d.unused(), n)
		}
		if !c.inside(d.inodeTable(), c.sb.tableBlocks()) {
			n = 0
		}
		c.scanGroup(g, d.inodeTable(), n, buf)
	}
	if c.large && c.sb.ro&roLargeFile == 0 {
		c.badSuper(ProblemFeatures, "files of 2 GiB and more without large_file")
	}
	if c.deep && c.sb.incompat&incompatLargeDir == 0 {
		c.badSuper(ProblemFeatures, "directories of 2 GiB or with deep indexes without large_dir")
	}
}

// scanGroup checks the first n inodes of a group.
func (c *checker) scanGroup(g uint32, table uint64, n uint32, buf []byte) {
	first := g*c.sb.inodesPer + 1
	per := uint32(c.sb.blockSize) / uint32(c.sb.inodeSize)
	for i := uint32(0); i < n && !c.stopped(); i += per {
		if err := c.fs.readBlock(table+uint64(i/per), buf); err != nil {
			c.err = err
			return
		}
		for k := uint32(0); k < per && i+k < n && c.err == nil; k++ {
			raw := buf[int(k)*c.sb.inodeSize:][:c.sb.inodeSize]
			c.scanInode(&inode{first + i + k, raw})
		}
	}
}

// scanInode checks one inode, in use or not.
func (c *checker) scanInode(i *inode) {
	if c.sb.csum && !inodeSealed(c.sb.seed, i.num, i.raw) && !allZero(i.raw[:oldInodeSize]) {
		c.badInode(ProblemInodeSum, i.num, "checksum")
	}
	_, orphan := c.orphans[i.num]
	if dtime := le.Uint32(i.raw[inDtime:]); dtime != 0 && !orphan && dtime < c.sb.inodes && c.timesMatter() {
		c.badInode(ProblemDeleted, i.num, "was deleted at %d, which is in no list of orphans", dtime)
	} else if dtime != 0 && i.links() != 0 && !orphan && (i.num == rootInode || i.num >= c.sb.firstIno) {
		c.badInode(ProblemDeleted, i.num, "is in use and was deleted at %v", time.Unix(int64(dtime), 0).UTC())
	}
	if c.scanReserved(i) {
		return
	}
	if i.links() == 0 && !orphan {
		if i.num >= c.sb.firstIno && le.Uint32(i.raw[inDtime:]) == 0 && i.mode() != 0 {
			c.badInode(ProblemDeleted, i.num, "has neither links nor a time of deletion")
		}
		return
	}
	s := c.use(i.num)
	s.links, s.kind = i.links(), typeOf(i.mode())
	if orphan && i.links() == 0 {
		s.bits |= stateSystem
	}
	if i.has(flagEAInode) {
		s.bits |= stateEA
	}
	if i.num == le.Uint32(c.sb.raw[sbOrphanFile:]) && c.sb.compat&compatOrphanFile != 0 || c.isQuota(i.num) {
		s.bits |= stateSystem
	}
	if i.has(flagImagic) && c.sb.compat&compatImagicInodes != 0 {
		s.bits |= stateSystem // of AFS, which finds it by number
	}
	if i.isDir() {
		c.addDir(i.num)
	}
	c.checkFields(i, s)
	c.checkContent(i, s, c.checkInnerXattrs(i))
}

// timesMatter reports whether times of deletion below the number of inodes can only
// be numbers of inodes.
func (c *checker) timesMatter() bool {
	for _, at := range []int{sbWtime, sbMtime, sbMkfsTime} {
		if t := le.Uint32(c.sb.raw[at:]); t != 0 && t < c.sb.inodes {
			return false
		}
	}
	return true
}

// scanReserved checks an inode that has a number for a purpose, but for the root
// directory. It returns false when the inode is an ordinary one.
func (c *checker) scanReserved(i *inode) bool {
	if i.num == rootInode || i.num >= c.sb.firstIno {
		if i.num == rootInode && !i.isDir() {
			c.badInode(ProblemRoot, i.num, "is no directory")
		}
		return false
	}
	s := c.state(i.num)
	s.links, s.kind = i.links(), typeOf(i.mode())
	wantMode, system := uint16(0), false
	switch {
	case i.num == badBlocksInode:
		c.checkBadBlocks(i)
		return true
	case i.num == le.Uint32(c.sb.raw[sbJournalInode:]) && (c.sb.compat&compatJournal != 0 || i.num == journalInode):
		wantMode, system = typeRegular, true
	case c.isQuota(i.num):
		wantMode, system = typeRegular, true
	case i.num == resizeInode && i.mode() != 0:
		wantMode = typeRegular
	case i.num == bootLoaderInode && !i.isDir():
		wantMode = i.kind()
	}
	if system && i.kind() != wantMode || !system && i.mode() != 0 && i.kind() != wantMode {
		c.badInode(ProblemInodeMode, i.num, "reserved inode of mode %#o", i.mode())
	}
	if (i.num == journalInode || i.num == 3 || i.num == 4) && !system && (i.links() != 0 || le.Uint32(i.raw[inBlocksLo:]) != 0 || le.Uint32(i.area()) != 0) {
		c.badInode(ProblemInode, i.num, "is in use without its feature")
	}
	if i.num == resizeInode {
		c.checkResize(i)
		return true
	}
	c.checkContent(i, s, 0)
	return true
}

func (c *checker) isQuota(ino uint32) bool {
	if c.sb.ro&roQuota == 0 {
		return false
	}
	raw := c.sb.raw
	return ino == le.Uint32(raw[sbUserQuota:]) || ino == le.Uint32(raw[sbGroupQuota:]) ||
		c.sb.ro&roProject != 0 && ino == le.Uint32(raw[sbProjQuota:])
}

// checkFields checks the fields of an inode by themselves.
func (c *checker) checkFields(i *inode, s *inodeState) {
	bad := func(code, format string, args ...any) { c.badInode(code, i.num, format, args...) }
	if s.kind == ftUnknown {
		bad(ProblemInodeMode, "mode %#o", i.mode())
	}
	if le.Uint32(i.raw[inFaddr:]) != 0 {
		bad(ProblemInode, "has a fragment")
	}
	if i.isDir() && le.Uint32(i.raw[inSizeHi:]) != 0 && c.sb.incompat&incompatLargeDir == 0 {
		bad(ProblemInodeSize, "a directory of %d bytes", uint64(i.size()))
	}
	if c.sb.incompat&incompat64bit == 0 && le.Uint16(i.raw[inFileACLHi:]) != 0 {
		bad(ProblemXattr, "block of attributes %d", i.xattrBlock())
	}
	if c.sb.ro&roHugeFile == 0 && le.Uint16(i.raw[inBlocksHi:]) != 0 {
		bad(ProblemInodeBlocks, "needs huge_file")
	}
	if i.has(flagImagic) && c.sb.compat&compatImagicInodes == 0 {
		bad(ProblemInode, "flags %#x", i.flags())
	}
	if i.has(flagCasefold) && (!i.isDir() || c.sb.incompat&incompatCasefold == 0) {
		bad(ProblemInode, "is casefolded, and no directory or without the feature")
	}
	if i.has(flagEncrypted) && c.sb.incompat&incompatEncrypt == 0 {
		bad(ProblemInode, "is encrypted, which the file system is not")
	}
	if i.has(flagEAInode) && !i.isRegular() {
		bad(ProblemInode, "is no file and flagged as one that holds an attribute")
	}
	if i.has(flagExtents) && i.has(flagInline) || i.has(flagExtents) && c.sb.incompat&incompatExtents == 0 ||
		i.has(flagInline) && c.sb.incompat&incompatInlineData == 0 {
		bad(ProblemInode, "flags %#x", i.flags())
	}
	if c.sb.incompat&incompatExtents != 0 && !i.has(flagExtents|flagInline) && (i.isRegular() || i.isDir()) && c.looksLikeExtents(i) {
		bad(ProblemMapping, "has extents without the flag for it")
	}
	if n := i.extra(); n != 0 && !goodExtra(n, c.sb.inodeSize) {
		bad(ProblemInode, "extra size %d", n)
	}
	if k := i.kind(); k == typeChar || k == typeBlock || k == typeFifo || k == typeSocket {
		if i.size() != 0 || i.has(flagExtents|flagInline|flagImmutable|flagAppend|flagIndexed) {
			bad(ProblemInode, "a node with size %d and flags %#x", uint64(i.size()), i.flags())
		}
	}
	if i.kind() == typeSymlink && i.has(flagImmutable|flagAppend|flagIndexed) {
		bad(ProblemSymlink, "flags %#x", i.flags())
	}
}

func (c *checker) looksLikeExtents(i *inode) bool {
	n := extNode(i.area())
	return le.Uint16(n) == extentMagic && n.count() <= n.room() && n.room() <= 4 && n.room() >= 2
}
