package ext4

import "time"

// Reserved inodes, and fields and flags of inodes, that only the check reads.
const (
	badBlocksInode  = 1
	bootLoaderInode = 5
	inFaddr         = 0x70 // fragment address: never used
	inVersion       = 0x24
	flagImagic      = 0x2000
)

// checkInodes checks all inodes, and records which are in use.
func (c *checker) checkInodes() {
	for k := uint32(1); k < c.sb.firstUserInode && k <= c.sb.inodes && !c.shouldStop(); k++ {
		c.markInodeUsed(k) // whether or not anything was ever written there
		if k != rootInode {
			c.stateOfInode(k).flags |= stateSystem
		}
	}
	buf := make([]byte, c.sb.blockSize)
	for g := uint32(0); g < c.sb.groups && !c.shouldStop(); g++ {
		d := c.readGroupDesc(g)
		if d == nil {
			return
		}
		n := c.sb.inodesPerGroup
		if c.sb.hasGroupChecksums() {
			if d.flags()&groupInodeUninit != 0 {
				n = 0
			}
			n -= min(d.unusedInodes(), n)
		}
		if !c.containsBlocks(d.inodeTable(), c.sb.inodeTableBlocks()) {
			n = 0
		}
		c.checkInodeTable(g, d.inodeTable(), n, buf)
	}
	if c.hasLargeFile && c.sb.roCompat&roLargeFile == 0 {
		c.reportSuper(ProblemFeatures, "there are files of 2 GiB or more without the feature large_file")
	}
	if c.hasLargeDir && c.sb.incompat&incompatLargeDir == 0 {
		c.reportSuper(ProblemFeatures, "there are directories of 2 GiB, or with deep indexes, without the feature large_dir")
	}
}

// checkInodeTable checks the first n inodes of a group.
func (c *checker) checkInodeTable(g uint32, table uint64, n uint32, buf []byte) {
	first := g*c.sb.inodesPerGroup + 1
	per := uint32(c.sb.blockSize) / uint32(c.sb.inodeSize)
	for i := uint32(0); i < n && !c.shouldStop(); i += per {
		if err := c.fs.readBlockUncached(table+uint64(i/per), buf); err != nil {
			c.err = err
			return
		}
		for k := uint32(0); k < per && i+k < n && c.err == nil; k++ {
			raw := buf[int(k)*c.sb.inodeSize:][:c.sb.inodeSize]
			c.checkInode(&inode{first + i + k, raw})
		}
	}
}

// checkInode checks one inode, in use or not.
func (c *checker) checkInode(i *inode) {
	if c.sb.metadataCsum && !verifyInodeChecksum(c.sb.csumSeed, i.num, i.raw) && !isAllZero(i.raw[:oldInodeSize]) {
		c.reportInode(ProblemInodeSum, i.num, "wrong checksum")
	}
	_, orphan := c.orphans[i.num]
	if dtime := le.Uint32(i.raw[inDtime:]); dtime != 0 && !orphan && dtime < c.sb.inodes && c.dtimeMustBeOrphanLink() {
		c.reportInode(ProblemDeleted, i.num, "has the deletion time %d, which is an orphan link, but is not in the orphan list", dtime)
	} else if dtime != 0 && i.linkCount() != 0 && !orphan && (i.num == rootInode || i.num >= c.sb.firstUserInode) {
		c.reportInode(ProblemDeleted, i.num, "is used, but was deleted at %v", time.Unix(int64(dtime), 0).UTC())
	}
	if c.checkReservedInode(i) {
		return
	}
	if i.linkCount() == 0 && !orphan {
		if i.num >= c.sb.firstUserInode && le.Uint32(i.raw[inDtime:]) == 0 && i.mode() != 0 {
			c.reportInode(ProblemDeleted, i.num, "has neither links nor a time of deletion")
		}
		return
	}
	s := c.markInodeUsed(i.num)
	s.links, s.kind = i.linkCount(), entryTypeOf(i.mode())
	if orphan && i.linkCount() == 0 {
		s.flags |= stateSystem
	}
	if i.hasFlag(flagEAInode) {
		s.flags |= stateEA
	}
	if i.num == le.Uint32(c.sb.raw[sbOrphanFile:]) && c.sb.compat&compatOrphanFile != 0 || c.isQuotaInode(i.num) {
		s.flags |= stateSystem
	}
	if i.hasFlag(flagImagic) && c.sb.compat&compatImagicInodes != 0 {
		s.flags |= stateSystem // of AFS, which finds it by number
	}
	if i.isDir() {
		c.addDirectory(i.num)
	}
	c.checkInodeFields(i, s)
	c.checkContent(i, s, c.checkInodeXattrs(i))
}

// dtimeMustBeOrphanLink reports whether deletion times below the number of inodes can only
// be links of the orphan list, since the file system was not used so early.
func (c *checker) dtimeMustBeOrphanLink() bool {
	for _, at := range []int{sbWtime, sbMtime, sbMkfsTime} {
		if t := le.Uint32(c.sb.raw[at:]); t != 0 && t < c.sb.inodes {
			return false
		}
	}
	return true
}

// checkReservedInode checks an inode whose number is reserved, except the root directory.
// It returns false for an ordinary inode.
func (c *checker) checkReservedInode(i *inode) bool {
	if i.num == rootInode || i.num >= c.sb.firstUserInode {
		if i.num == rootInode && !i.isDir() {
			c.reportInode(ProblemRoot, i.num, "is not a directory")
		}
		return false
	}
	s := c.stateOfInode(i.num)
	s.links, s.kind = i.linkCount(), entryTypeOf(i.mode())
	wantMode, system := uint16(0), false
	switch {
	case i.num == badBlocksInode:
		c.checkBadBlocksInode(i)
		return true
	case i.num == le.Uint32(c.sb.raw[sbJournalInode:]) && (c.sb.compat&compatJournal != 0 || i.num == journalInode):
		wantMode, system = typeRegular, true
	case c.isQuotaInode(i.num):
		wantMode, system = typeRegular, true
	case i.num == resizeInode && i.mode() != 0:
		wantMode = typeRegular
	case i.num == bootLoaderInode && !i.isDir():
		wantMode = i.fileType()
	}
	if system && i.fileType() != wantMode || !system && i.mode() != 0 && i.fileType() != wantMode {
		c.reportInode(ProblemInodeMode, i.num, "is a reserved inode of mode %#o", i.mode())
	}
	if (i.num == journalInode || i.num == 3 || i.num == 4) && !system && (i.linkCount() != 0 || le.Uint32(i.raw[inBlocksLo:]) != 0 || le.Uint32(i.blockArea()) != 0) {
		c.reportInode(ProblemInode, i.num, "is used without its feature")
	}
	if i.num == resizeInode {
		c.checkResizeInode(i)
		return true
	}
	c.checkContent(i, s, 0)
	return true
}

// isQuotaInode reports whether an inode holds quotas.
func (c *checker) isQuotaInode(ino uint32) bool {
	if c.sb.roCompat&roQuota == 0 {
		return false
	}
	raw := c.sb.raw
	return ino == le.Uint32(raw[sbUserQuota:]) || ino == le.Uint32(raw[sbGroupQuota:]) ||
		c.sb.roCompat&roProject != 0 && ino == le.Uint32(raw[sbProjQuota:])
}

// checkInodeFields checks the fields of an inode by themselves.
func (c *checker) checkInodeFields(i *inode, s *inodeState) {
	bad := func(code, format string, args ...any) { c.reportInode(code, i.num, format, args...) }
	if s.kind == ftUnknown {
		bad(ProblemInodeMode, "mode %#o", i.mode())
	}
	if le.Uint32(i.raw[inFaddr:]) != 0 {
		bad(ProblemInode, "has a fragment address")
	}
	if i.isDir() && le.Uint32(i.raw[inSizeHi:]) != 0 && c.sb.incompat&incompatLargeDir == 0 {
		bad(ProblemInodeSize, "is a directory of %d bytes", uint64(i.size()))
	}
	if c.sb.incompat&incompat64bit == 0 && le.Uint16(i.raw[inFileACLHi:]) != 0 {
		bad(ProblemXattr, "has attribute block %d", i.xattrBlock())
	}
	if c.sb.roCompat&roHugeFile == 0 && le.Uint16(i.raw[inBlocksHi:]) != 0 {
		bad(ProblemInodeBlocks, "needs the feature huge_file")
	}
	if i.hasFlag(flagImagic) && c.sb.compat&compatImagicInodes == 0 {
		bad(ProblemInode, "flags %#x", i.flags())
	}
	if i.hasFlag(flagCasefold) && (!i.isDir() || c.sb.incompat&incompatCasefold == 0) {
		bad(ProblemInode, "is casefolded, but not a directory, or without the feature")
	}
	if i.hasFlag(flagEncrypted) && c.sb.incompat&incompatEncrypt == 0 {
		bad(ProblemInode, "is encrypted without the feature")
	}
	if i.hasFlag(flagEAInode) && !i.isRegular() {
		bad(ProblemInode, "is flagged as an attribute inode, but not a file")
	}
	if i.hasFlag(flagExtents) && i.hasFlag(flagInline) || i.hasFlag(flagExtents) && c.sb.incompat&incompatExtents == 0 ||
		i.hasFlag(flagInline) && c.sb.incompat&incompatInlineData == 0 {
		bad(ProblemInode, "flags %#x", i.flags())
	}
	if c.sb.incompat&incompatExtents != 0 && !i.hasFlag(flagExtents|flagInline) && (i.isRegular() || i.isDir()) && c.looksLikeExtents(i) {
		bad(ProblemMapping, "has extents, but not their flag")
	}
	if n := i.extraSize(); n != 0 && !validExtraSize(n, c.sb.inodeSize) {
		bad(ProblemInode, "has extra size %d", n)
	}
	if k := i.fileType(); k == typeChar || k == typeBlock || k == typeFifo || k == typeSocket {
		if i.size() != 0 || i.hasFlag(flagExtents|flagInline|flagImmutable|flagAppend|flagIndexed) {
			bad(ProblemInode, "is a special file with size %d and flags %#x", uint64(i.size()), i.flags())
		}
	}
	if i.fileType() == typeSymlink && i.hasFlag(flagImmutable|flagAppend|flagIndexed) {
		bad(ProblemSymlink, "flags %#x", i.flags())
	}
}

// looksLikeExtents reports whether the block area of an inode begins like an extent tree.
func (c *checker) looksLikeExtents(i *inode) bool {
	n := extentNode(i.blockArea())
	return le.Uint16(n) == extentMagic && n.entryCount() <= n.maxEntries() && n.maxEntries() <= 4 && n.maxEntries() >= 2
}
