package ext4

import (
	"fmt"
	"slices"
)

// Sizes of a journal in blocks. Linux refuses shorter ones ("journal file too short"
// in the kernel's log: JBD2_MIN_JOURNAL_BLOCKS); longer ones only delay its writing.
const (
	minJournal = 1024
	maxJournal = 32768
)

// The geometry of a new file system, which is that of mke2fs.
const (
	descSize         = 64
	newInodeSize     = 256
	inodesPerBlock   = defaultBlock / newInodeSize
	minBytesPerInode = 1024
	logFlexGroups    = 4 // 16 groups share what allocators count of them
	lostBlocks       = 4 // of lost+found, so that e2fsck need not allocate
)

// formatPlan says where everything lies in a new file system. In each group the blocks in
// use are the first ones, without a gap: superblock and descriptors with their spare
// blocks, where sparse_super requires a backup; the group's bitmaps and inode table;
// perhaps those of a last group that is too short for them; and a piece of the journal.
// Group 0 has the first directories and the first block of the journal between bitmaps and
// table, so that nearly everything that is not zero is one range.
//
// From 1 TiB on the descriptors do not lie at the beginning, with copies of all of them in
// each group with a backup: these copies would be nearly all that is written (200 MiB for
// 15 TiB). With the feature meta_bg each 64 groups hold their own block of descriptors, in
// three copies.
//
// Every group holds its own metadata, while mke2fs gathers those of 16 groups: so the
// block bitmap of a group without files follows from its descriptor (BLOCK_UNINIT) and is
// not written. The feature flex_bg permits both.
type formatPlan struct {
	superblock // its fields that say where things lie
	opts       FormatOptions
	descBlocks uint64 // blocks of descriptors
	metaBG     bool   // each block of descriptors is in the groups that it describes

	// backups are, in order, the groups but 0 that have a copy of the superblock and of
	// the descriptors.
	backups []uint32

	lastGroupMetaMoved bool  // the last group's metadata are in the last but one
	journalRuns        []run // at most four, which an inode can hold itself; the first is one block
	journalBlocks      uint64
}

// newFormatPlan lays out a file system of at most the given number of blocks: a last group
// that is too short for its own metadata is left out.
func newFormatPlan(blocks uint64, opts FormatOptions) (*formatPlan, error) {
	p := &formatPlan{opts: opts, superblock: superblock{
		blockSize: defaultBlock, blocksPerGroup: defaultPer, clusterBlocks: 1, descSize: descSize, inodeSize: newInodeSize,
		roCompat: newRO, csumSeed: crc32c(^uint32(0), opts.UUID[:]), blocks: blocks,
	}}
	p.computeGeometry()
	if last := p.groups - 1; last > 0 {
		if p.groupBlockCount(last) < p.baseMetaBlocks(last) {
			p.blocks = p.groupStart(last)
			p.computeGeometry()
		}
		last = p.groups - 1
		p.lastGroupMetaMoved = uint64(p.groupBlockCount(last)) < uint64(p.baseMetaBlocks(last))+p.bitmapAndTableBlocks()
	}
	if err := p.placeJournal(); err != nil {
		return nil, err
	}
	return p, nil
}

// computeGeometry derives all sizes from the number of blocks.
func (p *formatPlan) computeGeometry() {
	p.groups = p.groupsForBlocks(p.blocks)
	p.backups = backupGroups(p.groups)
	p.descBlocks = uint64(p.descBlockCount())
	p.firstMetaBG = ^uint32(0)
	if p.metaBG = p.blocks >= metaBGBlocks; p.metaBG {
		p.firstMetaBG = 0
	}
	p.reservedDescs = spareDescBlocks(p.blocks, p.descBlocks)
	p.inodesPerGroup = inodesPerGroup(p.blocks, p.groups, p.opts.BytesPerInode)
}

// metaBGBlocks is the number of blocks from which a new file system has the feature
// meta_bg: 1 TiB.
const metaBGBlocks = 1 << 40 / defaultBlock

// spareDescBlocks returns how many blocks are reserved for descriptors of groups to come.
// Each of them is worth 8 GiB, and is a block that is not zero as soon as there is a
// backup of the descriptors. The image can be grown beyond that, with the meta_bg
// feature, so this is room for growing to four times the size, or to 16 GiB (one
// group) or 32 GiB (more), and never more than half a MiB. With meta_bg no room is needed.
func spareDescBlocks(blocks, descs uint64) uint32 {
	switch {
	case blocks >= metaBGBlocks:
		return 0
	case blocks <= defaultPer:
		return 1
	}
	return uint32(min(3*descs, 128))
}

// inodesPerGroup returns the number of inodes of each group. The rates are those of
// mke2fs.conf, but that an image of one group has an inode per 4 KiB only up to the
// number of a whole group, because the number stays when the image grows.
func inodesPerGroup(blocks uint64, groups uint32, rate int64) uint32 {
	group := min(blocks, defaultPer) * defaultBlock
	var n uint64
	switch size := blocks * defaultBlock; {
	case rate != 0:
		n = group / uint64(rate)
	case size >= 16<<40:
		n = group / 65536
	case size >= 4<<40:
		n = group / 32768
	default:
		n = min(group/4096, defaultPer*defaultBlock/16384)
	}
	n = min(n, 8*defaultBlock, (1<<32-1)/uint64(groups))
	n = n / inodesPerBlock * inodesPerBlock
	return uint32(max(n, inodesPerBlock))
}

// hasMetaBGDescs reports whether, with meta_bg, a group holds a block of descriptors: the
// first, second and last of the groups that the block describes do.
func (p *formatPlan) hasMetaBGDescs(g uint32) bool {
	k := g % p.descsPerBlock()
	return p.metaBG && (k <= 1 || k == p.descsPerBlock()-1)
}

// metaBGDescGroups returns, in order, the groups for which hasMetaBGDescs is true.
func (p *formatPlan) metaBGDescGroups() (gs []uint32) {
	for n := uint32(0); p.metaBG && n < p.descBlockCount(); n++ {
		gs = append(gs, p.metaBGGroups(n)...)
	}
	return gs
}

// bitmapAndTableBlocks returns how many blocks the bitmaps and the inode table of a group
// take.
func (p *formatPlan) bitmapAndTableBlocks() uint64 { return 2 + p.inodeTableBlocks() }

// firstGroupBlocks returns how many more blocks group 0 has in use: the resize inode's
// tree, the root directory, lost+found, and the journal's superblock.
func (p *formatPlan) firstGroupBlocks() uint64 {
	n := uint64(1 + lostBlocks)
	if !p.metaBG {
		n++
	}
	if p.journalBlocks > 0 {
		n++
	}
	return n
}

// metadataBlocks returns how many blocks of a group are in use, except those of the
// journal after its first.
func (p *formatPlan) metadataBlocks(g uint32) uint64 {
	n := uint64(p.baseMetaBlocks(g))
	last := p.groups - 1
	if g != last || !p.lastGroupMetaMoved {
		n += p.bitmapAndTableBlocks()
	}
	if p.lastGroupMetaMoved && g == last-1 {
		n += p.bitmapAndTableBlocks()
	}
	if g == 0 {
		n += p.firstGroupBlocks()
	}
	return n
}

// usedBlocks returns how many blocks of a group are in use.
func (p *formatPlan) usedBlocks(g uint32) uint64 {
	n := p.metadataBlocks(g)
	for _, r := range p.journalRuns[min(1, len(p.journalRuns)):] {
		if r.start/defaultPer == uint64(g) {
			n += uint64(r.n)
		}
	}
	return n
}

// locateGroupMetadata returns where a group's block bitmap, inode bitmap and inode table
// lie.
func (p *formatPlan) locateGroupMetadata(g uint32) (blockMap, inodeMap, table uint64) {
	at := p.groupStart(g) + uint64(p.baseMetaBlocks(g))
	if p.lastGroupMetaMoved && g == p.groups-1 {
		at = p.groupStart(g-1) + p.metadataBlocks(g-1) - p.bitmapAndTableBlocks()
	}
	table = at + 2
	if g == 0 {
		table += p.firstGroupBlocks()
	}
	return at, at + 1, table
}

// resizeInodeBlock returns the double-indirect block of the resize inode. This block and
// the following ones lie in group 0 between the bitmaps and the inode table.
func (p *formatPlan) resizeInodeBlock() uint64 { return uint64(p.baseMetaBlocks(0)) + 2 }

// rootDirBlock returns the block of the root directory.
func (p *formatPlan) rootDirBlock() uint64 {
	if p.metaBG {
		return p.resizeInodeBlock() // there is none
	}
	return p.resizeInodeBlock() + 1
}

// lostFoundBlock returns the first block of lost+found.
func (p *formatPlan) lostFoundBlock() uint64 { return p.rootDirBlock() + 1 }

// firstJournalBlock returns the block of the journal's superblock.
func (p *formatPlan) firstJournalBlock() uint64 { return p.lostFoundBlock() + lostBlocks }

// groupsWithBitmap returns, in order, the groups whose block bitmaps are written because
// they do not follow from the descriptors. The last group's would follow, but mke2fs
// writes it, and other tools may rely on that.
func (p *formatPlan) groupsWithBitmap() []uint32 {
	gs := []uint32{0, p.groups - 1}
	for _, r := range p.journalRuns {
		gs = append(gs, uint32(r.start/defaultPer))
	}
	if p.lastGroupMetaMoved {
		gs = append(gs, p.groups-2)
	}
	slices.Sort(gs)
	return slices.Compact(gs)
}

// backupGroups returns, in order, the groups that hold a backup of the superblock with
// sparse_super: 1 and the powers of 3, 5 and 7.
func backupGroups(groups uint32) []uint32 {
	var gs []uint32
	if groups > 1 {
		gs = append(gs, 1)
	}
	for _, base := range []uint64{3, 5, 7} {
		for g := base; g < uint64(groups); g *= base {
			gs = append(gs, uint32(g))
		}
	}
	slices.Sort(gs)
	return gs
}

// defaultJournalBlocks returns the size of the journal for a file system of so many
// blocks; the steps are those of mke2fs.
func defaultJournalBlocks(blocks uint64) uint64 {
	steps := []struct{ below, journal uint64 }{
		{2 << 10, 0},
		{32 << 10, minJournal},
		{256 << 10, 4096},
		{512 << 10, 8192},
		{4 << 20, 16384},
	}
	for _, s := range steps {
		if blocks < s.below {
			return s.journal
		}
	}
	return maxJournal
}

// placeJournal puts the journal's superblock beside the first directories, and the rest
// into the first free blocks.
func (p *formatPlan) placeJournal() error {
	p.journalBlocks = defaultJournalBlocks(p.blocks)
	if p.opts.Journal != 0 {
		p.journalBlocks = uint64(max(p.opts.Journal, 0)) / defaultBlock
	}
	left := p.journalBlocks
	if left > 0 {
		p.journalRuns = []run{{p.firstJournalBlock(), 1}}
		left--
	}
	for g := uint32(0); left > 0 && g < p.groups && len(p.journalRuns) < 4; g++ {
		meta, size := p.metadataBlocks(g), uint64(p.groupBlockCount(g))
		if n := min(left, size-min(meta, size)); n > 0 {
			p.journalRuns = append(p.journalRuns, run{p.groupStart(g) + meta, uint32(n)})
			left -= n
		}
	}
	if left > 0 || p.metadataBlocks(0) > uint64(p.groupBlockCount(0)) {
		return fmt.Errorf("%w: an image of %d bytes is too small for a journal of %d bytes and %d inodes",
			errInvalid, p.blocks*defaultBlock, p.journalBlocks*defaultBlock, uint64(p.inodesPerGroup)*uint64(p.groups))
	}
	return nil
}

// overheadBlocks returns what Linux counts as the file system's own blocks, which statfs
// subtracts from the total.
func (p *formatPlan) overheadBlocks() uint64 {
	n := uint64(p.groups)*p.bitmapAndTableBlocks() + uint64(1+len(p.backups)) + p.journalBlocks
	if p.metaBG {
		return n + uint64(len(p.metaBGDescGroups()))
	}
	return n + uint64(1+len(p.backups))*(p.descBlocks+uint64(p.reservedDescs))
}
