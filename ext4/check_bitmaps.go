package ext4

import "fmt"

// freeTotals adds up what is free in all groups.
type freeTotals struct {
	blocks uint64 // free clusters
	inodes uint64 // free
}

// checkBitmaps compares bitmaps and counts of all groups, and the counts of the
// superblock, with the blocks and inodes found in use.
func (c *checker) checkBitmaps() {
	sb := c.sb
	size := max(int(sb.blockSize), int(c.usedClusters.perGroup+7)/8)
	found, disk := make([]byte, size), make([]byte, size)
	var total freeTotals
	for g := uint32(0); g < sb.groups && !c.shouldStop(); g++ {
		d := c.readGroupDesc(g)
		if d == nil {
			return
		}
		c.checkBlockBitmap(g, d, found, disk, &total)
		c.checkInodeBitmap(g, d, found, disk, &total)
	}
	if c.err != nil || c.logReplayed {
		return // Linux writes the counts of the superblock only when it unmounts
	}
	if n := sb.splitCount(sbFreeBlocksLo, sbFreeBlocksHi); n != total.blocks*uint64(sb.clusterBlocks) {
		c.reportHarmless(ProblemSuperCount, 0, -1, "counts %d free blocks, but has %d free clusters", n, total.blocks)
	}
	if n := uint64(le.Uint32(sb.raw[sbFreeInodes:])); n != total.inodes {
		c.reportHarmless(ProblemSuperCount, 0, -1, "counts %d free inodes, but has %d", n, total.inodes)
	}
}

// readDiskBitmap reads a group's bitmap into m, and checks its checksum and padding: bits
// from n on stand for nothing and must be set.
func (c *checker) readDiskBitmap(g uint32, d groupDesc, inodes bool, n uint32, m []byte) bool {
	at, csumLo, csumHi, size := d.blockBitmap(), gdBlockCsum, gdBlockCsumHi, c.usedClusters.perGroup/8
	what := "block bitmap"
	if inodes {
		at, csumLo, csumHi, size, what = d.inodeBitmap(), gdInodeCsum, gdInodeCsumHi, c.sb.inodesPerGroup/8, "inode bitmap"
	}
	if !c.containsBlocks(at, 1) {
		return false
	}
	b := c.readMetadata(at)
	if b == nil {
		return false
	}
	if c.sb.metadataCsum {
		sum := crc32c(c.sb.csumSeed, b[:size])
		if c.sb.descSize < 64 {
			sum &= 0xffff
		}
		if sum != d.splitCount(csumLo, csumHi) {
			c.reportGroup(ProblemBitmapSum, g, "the %s has a wrong checksum", what)
		}
	}
	for i := n; i < uint32(len(b))*8; i++ {
		if i%8 == 0 && b[i/8] == 0xff {
			i += 7
		} else if !testBit(b, uint64(i)) {
			c.reportGroup(ProblemBitmapEnd, g, "padding bit %d of the %s is not set", i, what)
			break
		}
	}
	copy(m, b)
	return true
}

// compareBitmaps compares the first n bits of the bitmap of what was found with that on
// disk. It reports the first difference of each kind and their number, and returns how
// many are free.
func (c *checker) compareBitmaps(g uint32, found, disk []byte, n uint32, report func(inUse bool, first, count uint32)) (free uint32) {
	var first, count [2]uint32 // index 0: unused, but marked; 1: used, but not marked
	for i := uint32(0); i < n; i++ {
		// Whole bytes that are equal are skipped: most are.
		if i%8 == 0 && i+8 <= n && found[i/8] == disk[i/8] && (found[i/8] == 0 || found[i/8] == 0xff) {
			if found[i/8] == 0 {
				free += 8
			}
			i += 7
			continue
		}
		f := testBit(found, uint64(i))
		if !f {
			free++
		}
		if f == testBit(disk, uint64(i)) {
			continue
		}
		k := 0
		if f {
			k = 1
		}
		if count[k]++; count[k] == 1 {
			first[k] = i
		}
	}
	for k := range count {
		if count[k] > 0 {
			report(k == 1, first[k], count[k])
		}
	}
	return free
}

// checkBlockBitmap checks the block bitmap and free count of a group.
func (c *checker) checkBlockBitmap(g uint32, d groupDesc, found, disk []byte, total *freeTotals) {
	clear(found)
	clear(disk)
	c.usedClusters.copyToBitmap(g, found)
	k := c.sb.clusterBlocks
	n := (c.sb.groupBlockCount(g) + k - 1) / k
	if c.sb.hasGroupChecksums() && d.flags()&groupBlockUninit != 0 {
		c.sb.fillInitialBlockBitmap(g, d, disk)
	} else if !c.readDiskBitmap(g, d, false, n, disk) {
		return
	}
	free := c.compareBitmaps(g, found, disk, n, func(inUse bool, first, count uint32) {
		at := c.sb.groupStart(g) + uint64(first)*uint64(k)
		code, text := ProblemBlockLeaked, "clusters are unused, but not free in the bitmap"
		if inUse {
			code, text = ProblemBlockFree, "clusters are used, but free in the bitmap"
		}
		c.reportProblem(Problem{Code: code, Block: at, Group: int64(g), Detail: fmt.Sprint(count, " ", text)})
	})
	total.blocks += uint64(free)
	if d.freeBlocks() != free {
		c.reportGroup(ProblemGroupCount, g, "counts %d free clusters, but has %d", d.freeBlocks(), free)
	}
}

// checkInodeBitmap checks the inode bitmap of a group, and its counts of inodes and
// directories.
func (c *checker) checkInodeBitmap(g uint32, d groupDesc, found, disk []byte, total *freeTotals) {
	clear(found)
	clear(disk)
	first, n, dirs := g*c.sb.inodesPerGroup+1, c.sb.inodesPerGroup, uint32(0)
	for p := first / inodesOfPage; p <= (first+n-1)/inodesOfPage; p++ {
		page := c.inodes[p]
		if page == nil {
			continue
		}
		for k := range page {
			i := p*inodesOfPage + uint32(k) - first // wraps before the first
			if i < n && page[k].flags&stateUsed != 0 {
				setBits(found, uint64(i), 1)
				if page[k].kind == ftDir {
					dirs++
				}
			}
		}
	}
	if !(c.sb.hasGroupChecksums() && d.flags()&groupInodeUninit != 0) && !c.readDiskBitmap(g, d, true, n, disk) {
		return
	}
	free := c.compareBitmaps(g, found, disk, n, func(inUse bool, i, count uint32) {
		code, text := ProblemInodeLeaked, "inodes are unused, but not free in the bitmap"
		if inUse {
			code, text = ProblemInodeFree, "inodes are used, but free in the bitmap"
		}
		c.reportProblem(Problem{Code: code, Inode: first + i, Group: int64(g), Detail: fmt.Sprint(count, " ", text)})
	})
	total.inodes += uint64(free)
	if d.freeInodes() != free || d.usedDirs() != dirs {
		c.reportGroup(ProblemGroupCount, g, "counts %d free inodes and %d directories, but has %d and %d",
			d.freeInodes(), d.usedDirs(), free, dirs)
	}
}
