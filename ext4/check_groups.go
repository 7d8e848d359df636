package ext4

import (
	"fmt"
	"slices"
)

// readGroupDesc returns a group's descriptor, unchecked; nil if the check has to end.
func (c *checker) readGroupDesc(g uint32) groupDesc {
	n, off := c.sb.locateGroupDesc(g)
	b := c.readMetadata(n)
	if b == nil {
		return nil
	}
	return groupDesc(b[off : off+c.sb.descSize])
}

// checkDescriptors checks the descriptors of all groups.
func (c *checker) checkDescriptors() {
	sb := c.sb
	for g := uint32(0); g < sb.groups && !c.shouldStop(); g++ {
		if n, _ := sb.locateGroupDesc(g); !c.containsBlocks(n, 1) {
			c.reportGroup(ProblemDesc, g, "its descriptor lies outside the file system")
			c.err = corruptf("the descriptor of group %d lies outside the file system", g)
			return
		}
		d := c.readGroupDesc(g)
		if d == nil {
			return
		}
		if !sb.verifyDescChecksum(g, d) {
			c.reportGroup(ProblemDescChecksum, g, "wrong checksum")
		}
		c.checkMetadataAreas(g, d)
		if f := d.flags() & (groupBlockUninit | groupInodeUninit); !c.sb.hasGroupChecksums() && (f != 0 || d.unusedInodes() != 0) {
			c.reportProblem(Problem{Code: ProblemDesc, Group: int64(g), minor: f == groupBlockUninit && d.unusedInodes() == 0,
				Detail: fmt.Sprintf("flags %#x and %d unused inodes without checksums", f, d.unusedInodes())})
		}
		if c.sb.hasGroupChecksums() && g == sb.groups-1 && d.flags()&groupBlockUninit != 0 {
			c.reportGroup(ProblemDesc, g, "the last group has no block bitmap")
		}
		if d.unusedInodes() > sb.inodesPerGroup {
			c.reportGroup(ProblemDesc, g, "%d unused inodes of %d", d.unusedInodes(), sb.inodesPerGroup)
		}
	}
}

// checkMetadataAreas checks that a group's bitmaps and inode table lie where they may.
func (c *checker) checkMetadataAreas(g uint32, d groupDesc) {
	lo, hi := c.sb.groupStart(g), c.sb.groupStart(g)+uint64(c.sb.groupBlockCount(g))
	if c.sb.incompat&incompatFlexBG != 0 {
		lo, hi = c.sb.firstBlock, c.sb.blocks
	}
	for _, p := range c.sb.metadataAreas(d) {
		if p.at < lo || p.at >= hi || p.n > hi-p.at {
			c.reportGroup(ProblemDesc, g, "%s at block %d", p.what, p.at)
		}
	}
}

// claimFixedMetadata claims the blocks of all fixed metadata.
func (c *checker) claimFixedMetadata() {
	sb := c.sb
	for g := uint32(0); g < sb.groups && !c.shouldStop(); g++ {
		if n := min(sb.baseMetaBlocks(g), sb.groupBlockCount(g)); n > 0 {
			c.fixedMetadata.claimRange(uint64(g)*uint64(sb.blocksPerGroup), uint64(n))
		}
	}
	if at := le.Uint64(sb.raw[sbMMPBlock:]); sb.incompat&incompatMMP != 0 && c.containsBlocks(at, 1) {
		c.claimMetadataArea(0, metadataArea{at, 1, "MMP block"})
	}
	for g := uint32(0); g < sb.groups && !c.shouldStop(); g++ {
		d := c.readGroupDesc(g)
		if d == nil {
			return
		}
		for _, p := range c.sb.metadataAreas(d) {
			c.claimMetadataArea(g, p)
		}
	}
	c.claimMetadataClusters()
}

// claimMetadataArea claims a part of the metadata that lies inside the file system.
func (c *checker) claimMetadataArea(g uint32, p metadataArea) {
	if !c.containsBlocks(p.at, p.n) {
		return
	}
	if at, twice := c.fixedMetadata.claimRange(p.at-c.sb.firstBlock, p.n); twice {
		c.reportProblem(Problem{Code: ProblemOverlap, Block: at + c.sb.firstBlock, Group: int64(g), Detail: "overlaps the " + p.what})
	}
}

// claimMetadataClusters marks the clusters that hold metadata as used. Several areas may
// share one.
func (c *checker) claimMetadataClusters() {
	k := c.sb.clusterBlocks
	bits := make([]byte, (c.sb.blocksPerGroup+7)/8)
	for g, s := range c.fixedMetadata.groups {
		if c.shouldStop() {
			return
		}
		for _, r := range s.runs {
			from, to := r.from/k, (r.to+k-1)/k
			c.usedClusters.claimRange(uint64(g)*uint64(c.usedClusters.perGroup)+uint64(from), uint64(to-from))
		}
		if s.bits == nil {
			continue
		}
		clear(bits)
		c.fixedMetadata.copyToBitmap(g, bits)
		for i := range c.sb.blocksPerGroup {
			if testBit(bits, uint64(i)) {
				c.usedClusters.claimRange(uint64(g)*uint64(c.usedClusters.perGroup)+uint64(i/k), 1)
			}
		}
	}
}

// isFixedMetadata reports whether a block belongs to the fixed metadata.
func (c *checker) isFixedMetadata(at uint64) bool {
	return c.fixedMetadata.isClaimed(at - c.sb.firstBlock)
}

// readRawInode returns a copy of an inode, unchecked; nil if there is none.
func (c *checker) readRawInode(ino uint32) *inode {
	if ino == 0 || ino > c.sb.inodes {
		return nil
	}
	g, index := (ino-1)/c.sb.inodesPerGroup, (ino-1)%c.sb.inodesPerGroup
	d := c.readGroupDesc(g)
	if d == nil {
		return nil
	}
	at := int64(index) * int64(c.sb.inodeSize)
	n, off := d.inodeTable()+uint64(at/c.sb.blockSize), at%c.sb.blockSize
	if !c.containsBlocks(n, 1) {
		return nil
	}
	b := c.readMetadata(n)
	if b == nil {
		return nil
	}
	return &inode{ino, slices.Clone(b[off : off+int64(c.sb.inodeSize)])}
}
