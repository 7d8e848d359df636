package ext4

import "time"

// Features that the check supports, or that do not affect it.
const (
	checkedCompat = compatDirPrealloc | compatImagicInodes | compatJournal | compatExtAttr | compatResizeInode | compatDirIndex |
		compatSparseSuper2 | compatFastCommit | compatStableInodes | compatOrphanFile
	checkedRO = roSparseSuper | roLargeFile | roHugeFile | roGDTCsum | roDirNlink | roExtraIsize | roQuota | roBigalloc |
		roMetadataCsum | roReadonly | roProject | roVerity | roOrphanPresent

	sbMMPBlock   = 0x168
	sbUserQuota  = 0x240
	sbGroupQuota = 0x244
	sbProjQuota  = 0x26c

	maxPerGroup = 1<<16 - 8 // clusters
	minLog      = 1024      // blocks of a journal
)

// checkSuperblock refuses features that the checks do not know, and reports fields out of range.
func (c *checker) checkSuperblock() {
	sb, raw := c.sb, c.sb.raw
	if x := sb.compat &^ checkedCompat; x != 0 {
		c.err = unsupportedf("checking features %s; run e2fsck", featureNames(compatNames, x))
		return
	}
	if x := sb.roCompat &^ checkedRO; x != 0 {
		c.err = unsupportedf("checking features %s; run e2fsck", featureNames(roNames, x))
		return
	}
	if le.Uint16(raw[sbState:])&stateErrors != 0 || le.Uint32(raw[sbErrorCount:]) != 0 && le.Uint16(raw[sbState:])&stateClean == 0 {
		c.reportSuper(ProblemErrors, "%d errors are recorded", le.Uint32(raw[sbErrorCount:]))
	}
	c.checkSuperSizes()
	c.checkFeatureSet()
	c.checkSystemInodeNumbers()
	limit := time.Now().Unix()
	for _, at := range []int{sbMtime, sbWtime} {
		if t := int64(le.Uint32(raw[at:])); t > limit {
			c.reportHarmless(ProblemTime, 0, -1, "was used at %v, in the future", time.Unix(t, 0).UTC())
		}
	}
}

// checkSuperSizes checks sizes that parseSuperblock does not rely on.
func (c *checker) checkSuperSizes() {
	sb, raw := c.sb, c.sb.raw
	badIf := func(bad bool, format string, args ...any) {
		if bad {
			c.reportSuper(ProblemSuper, format, args...)
		}
	}
	revision, reserved := le.Uint32(raw[sbRevision:]), sb.splitCount(sbReservedLo, sbReservedHi)
	badIf(revision > 1, "revision %d", revision)
	badIf(reserved > sb.blocks/2, "%d of %d blocks are reserved", reserved, sb.blocks)
	clusters := sb.blocksPerGroup / sb.clusterBlocks
	badIf(clusters%8 != 0 || clusters > maxPerGroup, "groups of %d blocks", sb.blocksPerGroup)
	badIf(sb.inodesPerGroup%8 != 0 || int64(sb.inodesPerGroup) > 65536-sb.blockSize/int64(sb.inodeSize), "groups of %d inodes", sb.inodesPerGroup)
	badIf(le.Uint32(raw[sbClustersPer:]) != clusters, "groups of %d clusters", le.Uint32(raw[sbClustersPer:]))
	badIf(sb.roCompat&roBigalloc == 0 && le.Uint32(raw[sbLogCluster:]) != le.Uint32(raw[sbLogBlock:]),
		"clusters of 2^%d KiB", le.Uint32(raw[sbLogCluster:]))
	badIf(raw[sbLogFlex] > 31, "flexible groups of 2^%d groups", raw[sbLogFlex])
	badIf(sb.firstBlock == 0 && sb.blockSize == 1024 && sb.clusterBlocks == 1, "the first data block is 0")
	badIf(sb.incompat&incompatMetaBG != 0 && sb.firstMetaBG > sb.descBlockCount(),
		"the first meta_bg descriptor block is %d of %d", sb.firstMetaBG, sb.descBlockCount())
	if sb.inodeSize == oldInodeSize {
		return
	}
	for _, at := range []int{sbMinExtraIsize, sbWantExtraIsize} {
		if n := int(le.Uint16(raw[at:])); n != 0 && !validExtraSize(n, sb.inodeSize) {
			c.reportHarmless(ProblemSuper, 0, -1, "inodes use %d extra bytes", n)
		}
	}
}

// validExtraSize reports whether an inode may use n bytes beyond the first 128.
func validExtraSize(n, inodeSize int) bool { return n >= 4 && n <= inodeSize-oldInodeSize && n%4 == 0 }

// checkFeatureSet checks which features occur together.
func (c *checker) checkFeatureSet() {
	sb := c.sb
	for _, f := range []struct {
		bad  bool
		what string
	}{
		{sb.metadataCsum && sb.roCompat&roGDTCsum != 0, "uninit_bg together with metadata_csum"},
		{sb.incompat&incompatMetaBG != 0 && sb.compat&compatResizeInode != 0, "meta_bg together with resize_inode"},
		{sb.incompat&incompat64bit != 0 && sb.incompat&incompatExtents == 0, "64bit without extent"},
		{sb.incompat&incompatCsumSeed != 0 && !sb.metadataCsum, "metadata_csum_seed without metadata_csum"},
		{sb.compat&compatOrphanFile == 0 && sb.roCompat&roOrphanPresent != 0, "orphan_present without orphan_file"},
	} {
		if f.bad {
			c.reportSuper(ProblemFeatures, "%s", f.what)
		}
	}
}

// checkSystemInodeNumbers checks the superblock's inode numbers for quotas and the orphan
// file.
func (c *checker) checkSystemInodeNumbers() {
	if n := le.Uint32(c.sb.raw[sbOrphanFile:]); n != 0 && c.sb.compat&compatOrphanFile == 0 {
		if i := c.readRawInode(n); i == nil || i.linkCount() != 0 {
			c.reportInode(ProblemOrphans, n, "is named as the orphan file without the feature")
		}
	}
	for _, at := range []int{sbUserQuota, sbGroupQuota, sbProjQuota} {
		n := le.Uint32(c.sb.raw[at:])
		if n == 0 {
			continue
		}
		i := c.readRawInode(n)
		if i == nil || n < c.sb.firstUserInode && n != 3 && n != 4 || i.linkCount() != 0 && !c.isQuotaInode(n) {
			c.reportInode(ProblemInode, n, "is named as a quota file, but cannot be one")
		}
	}
}
