package ext4

import (
	"fmt"
	"slices"
)

// groupSums reports whether descriptors have checksums, without which their flags
// mean nothing.
func (c *checker) groupSums() bool { return c.sb.csum || c.sb.ro&roGDTCsum != 0 }

// desc returns a group's descriptor, whatever it says; nil: the check ended.
func (c *checker) desc(g uint32) desc {
	n, off := c.sb.descAt(g)
	b := c.read(n)
	if b == nil {
		return nil
	}
	return desc(b[off : off+c.sb.descSize])
}

// descriptors checks the descriptors of all groups.
func (c *checker) descriptors() {
	sb := c.sb
	for g := uint32(0); g < sb.groups && !c.stopped(); g++ {
		if n, _ := sb.descAt(g); !c.inside(n, 1) {
			c.badGroup(ProblemDesc, g, "there is no place for its descriptor")
			c.err = corruptf("there is no place for the descriptor of group %d", g)
			return
		}
		d := c.desc(g)
		if d == nil {
			return
		}
		sum := le.Uint16(d[gdChecksum:])
		if sb.csum && descChecksum(sb.seed, g, d) != sum || !sb.csum && c.groupSums() && c.fs.oldDescChecksum(g, d) != sum {
			c.badGroup(ProblemDescChecksum, g, "checksum")
		}
		c.descPlaces(g, d)
		if f := d.flags() & (groupBlockUninit | groupInodeUninit); !c.groupSums() && (f != 0 || d.unused() != 0) {
			c.bad(Problem{Code: ProblemDesc, Group: int64(g), minor: f == groupBlockUninit && d.unused() == 0,
				Detail: fmt.Sprintf("flags %#x and %d unused inodes without checksums", f, d.unused())})
		}
		if c.groupSums() && g == sb.groups-1 && d.flags()&groupBlockUninit != 0 {
			c.badGroup(ProblemDesc, g, "the last group has no block bitmap")
		}
		if d.unused() > sb.inodesPer {
			c.badGroup(ProblemDesc, g, "%d unused inodes of %d", d.unused(), sb.inodesPer)
		}
	}
}

// place is part of the fixed metadata of a group.
type place struct {
	at, n uint64
	what  string
}

func (c *checker) places(d desc) []place {
	return []place{
		{d.blockBitmap(), 1, "block bitmap"}, {d.inodeBitmap(), 1, "inode bitmap"}, {d.inodeTable(), c.sb.tableBlocks(), "inode table"},
	}
}

// descPlaces checks that a group's bitmaps and inodes lie where they may.
func (c *checker) descPlaces(g uint32, d desc) {
	lo, hi := c.sb.groupStart(g), c.sb.groupStart(g)+uint64(c.sb.groupLen(g))
	if c.sb.incompat&incompatFlexBG != 0 {
		lo, hi = c.sb.first, c.sb.blocks
	}
	for _, p := range c.places(d) {
		if p.at < lo || p.at >= hi || p.n > hi-p.at {
			c.badGroup(ProblemDesc, g, "%s at block %d", p.what, p.at)
		}
	}
}

// baseBlocks returns how many blocks at the start of a group are the superblock's and
// descriptors'.
func (c *checker) baseBlocks(g uint32) uint64 {
	n := uint64(c.sb.baseBlocks(g))
	if g == 0 && c.sb.first == 0 && c.sb.blockSize == 1024 {
		n++
	}
	return min(n, uint64(c.sb.groupLen(g)))
}

// layout claims the blocks of all fixed metadata.
func (c *checker) layout() {
	sb := c.sb
	for g := uint32(0); g < sb.groups && !c.stopped(); g++ {
		if n := c.baseBlocks(g); n > 0 {
			c.meta.add(uint64(g)*uint64(sb.perGroup), n)
		}
	}
	if at := le.Uint64(sb.raw[sbMMPBlock:]); sb.incompat&incompatMMP != 0 && c.inside(at, 1) {
		c.claimMeta(0, place{at, 1, "block against mounting twice"})
	}
	for g := uint32(0); g < sb.groups && !c.stopped(); g++ {
		d := c.desc(g)
		if d == nil {
			return
		}
		for _, p := range c.places(d) {
			c.claimMeta(g, p)
		}
	}
	c.claimClusters()
}

// claimMeta claims a part of the metadata that lies inside the file system.
func (c *checker) claimMeta(g uint32, p place) {
	if !c.inside(p.at, p.n) {
		return
	}
	if at, twice := c.meta.add(p.at-c.sb.first, p.n); twice {
		c.bad(Problem{Code: ProblemOverlap, Block: at + c.sb.first, Group: int64(g), Detail: "in the " + p.what})
	}
}

// claimClusters makes the clusters that hold metadata used. Parts of it may share one.
func (c *checker) claimClusters() {
	k := c.sb.cluster
	bits := make([]byte, (c.sb.perGroup+7)/8)
	for g, s := range c.meta.groups {
		if c.stopped() {
			return
		}
		for _, r := range s.runs {
			from, to := r.from/k, (r.to+k-1)/k
			c.used.add(uint64(g)*uint64(c.used.per)+uint64(from), uint64(to-from))
		}
		if s.bits == nil {
			continue
		}
		clear(bits)
		c.meta.fill(g, bits)
		for i := range c.sb.perGroup {
			if bit(bits, uint64(i)) {
				c.used.add(uint64(g)*uint64(c.used.per)+uint64(i/k), 1)
			}
		}
	}
}

// isMeta reports whether a block belongs to the fixed metadata.
func (c *checker) isMeta(at uint64) bool { return c.meta.has(at - c.sb.first) }

// ownBits makes the bitmap of a group that has none on disk: what is its own in it.
func (c *checker) ownBits(g uint32, d desc, m []byte) {
	clear(m)
	lo, hi := c.sb.groupStart(g), c.sb.groupStart(g)+uint64(c.sb.groupLen(g))
	k := uint64(c.sb.cluster)
	for _, p := range append(c.places(d), place{at: lo, n: c.baseBlocks(g)}) {
		if p.at >= c.sb.blocks || p.n > c.sb.blocks {
			continue
		}
		if a, b := max(p.at, lo), min(p.at+p.n, hi); a < b {
			from, to := (a-lo)/k, (b-lo+k-1)/k
			setBits(m, from, to-from)
		}
	}
}

// rawInode returns a copy of an inode, whatever it says; nil: there is none.
func (c *checker) rawInode(ino uint32) *inode {
	if ino == 0 || ino > c.sb.inodes {
		return nil
	}
	g, index := (ino-1)/c.sb.inodesPer, (ino-1)%c.sb.inodesPer
	d := c.desc(g)
	if d == nil {
		return nil
	}
	at := int64(index) * int64(c.sb.inodeSize)
	n, off := d.inodeTable()+uint64(at/c.sb.blockSize), at%c.sb.blockSize
	if !c.inside(n, 1) {
		return nil
	}
	b := c.read(n)
	if b == nil {
		return nil
	}
	return &inode{ino, slices.Clone(b[off : off+int64(c.sb.inodeSize)])}
}
