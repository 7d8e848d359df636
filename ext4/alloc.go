package ext4

import (
	"math/bits"
	"math/rand/v2"
)

// allocBlocks claims up to want adjacent free blocks, near goal if possible. The run may
// be shorter when free space is fragmented; ENOSPC if no block is free. Busy blocks do not
// count as free.
func (fs *FS) allocBlocks(goal uint64, want uint32) (run, error) {
	if goal < fs.sb.firstBlock || goal >= fs.sb.blocks {
		goal = fs.sb.firstBlock
	}
	want = min(want, maxExtent)
	// The search begins in the group of the goal, at the goal, and wraps round: the first group
	// is searched a second time, from its beginning.
	goalGroup, goalIndex := fs.sb.locateBlock(goal)
	best, bestGroup := groupSpan{}, uint32(0)
	seen := 0
	for k := uint32(0); k <= fs.sb.groups; k++ {
		g, from := (goalGroup+k)%fs.sb.groups, uint32(0)
		if k == 0 {
			from = goalIndex
		}
		desc, err := fs.readGroupDesc(g)
		if err != nil {
			return run{}, err
		}
		if desc.freeBlocks() <= best.n {
			continue
		}
		free, err := fs.groupFreeMap(g, desc)
		if err != nil {
			return run{}, err
		}
		found := free.findFreeRun(from, want, k == 0)
		if found.n > best.n {
			best, bestGroup = found, g
		}
		// A piece that is large enough beats a search through a fragmented image.
		if seen++; best.n >= want || best.n > 0 && (k == 0 && best.at == goalIndex && best.n >= min(want, 16) || seen >= 32) {
			break
		}
	}
	if best.n == 0 {
		return run{}, errNoSpace
	}
	return fs.claimBlocks(bestGroup, best)
}

// claimBlocks marks free blocks of a group as used in its bitmap, descriptor and the
// totals.
func (fs *FS) claimBlocks(g uint32, s groupSpan) (run, error) {
	bitmap, d, err := fs.modifyGroupBitmap(g, false)
	if err != nil {
		return run{}, err
	}
	fs.allocHints[g] = s.at + s.n
	return run{fs.sb.groupStart(g) + uint64(s.at), s.n}, fs.takeGroupBlocks(g, d, bitmap, s)
}

// takeGroupBlocks marks free blocks as used in a group's bitmap, in its descriptor and in the
// totals. A nil bitmap: the group has none yet.
func (fs *FS) takeGroupBlocks(g uint32, d groupDesc, bitmap []byte, s groupSpan) error {
	free := d.freeBlocks()
	if free < s.n || fs.counters.freeBlocks < uint64(s.n) {
		return corruptf("group %d counts a wrong number of free blocks", g)
	}
	if bitmap != nil {
		setBits(bitmap, uint64(s.at), uint64(s.n))
	}
	d.setSplitCount(gdFreeBlocks, gdFreeBlocksHi, free-s.n)
	fs.counters.freeBlocks -= uint64(s.n)
	return nil
}

// returnGroupBlocks is the opposite of takeGroupBlocks. All blocks must be marked as used.
func (fs *FS) returnGroupBlocks(g uint32, d groupDesc, bitmap []byte, s groupSpan) error {
	if bitmap != nil {
		for k := s.at; k < s.at+s.n; k++ {
			if !testBit(bitmap, uint64(k)) {
				return corruptf("block %d is freed twice", fs.sb.groupStart(g)+uint64(k))
			}
		}
		clearBits(bitmap, uint64(s.at), uint64(s.n))
	}
	d.setSplitCount(gdFreeBlocks, gdFreeBlocksHi, d.freeBlocks()+s.n)
	fs.counters.freeBlocks += uint64(s.n)
	return nil
}

// releaseBlocks marks blocks as free. They stay busy until this is committed: until then a
// crash brings back the state in which they are in use.
func (fs *FS) releaseBlocks(r run) error {
	if r.start < fs.sb.firstBlock || r.start+uint64(r.n) > fs.sb.blocks {
		return corruptf("blocks %d+%d are outside the file system", r.start, r.n)
	}
	if fs.fastReplay != nil {
		return fs.fastReplay.noteReleased(r)
	}
	return fs.eachGroupPart(r, func(g uint32, s groupSpan) error {
		bitmap, d, err := fs.modifyGroupBitmap(g, false)
		if err == nil {
			err = fs.returnGroupBlocks(g, d, bitmap, s)
		}
		if err != nil {
			return err
		}
		fs.tx.freedBlocks.markBusy(fs.sb, g, s)
		fs.op.freed = append(fs.op.freed, run{fs.sb.groupStart(g) + uint64(s.at), s.n})
		return nil
	})
}

// eachGroupPart calls f for the part of a run in each group.
func (fs *FS) eachGroupPart(r run, f func(g uint32, s groupSpan) error) error {
	for r.n > 0 {
		g, i := fs.sb.locateBlock(r.start)
		n := min(r.n, fs.sb.groupBlockCount(g)-i)
		if err := f(g, groupSpan{i, n}); err != nil {
			return err
		}
		r.start, r.n = r.start+uint64(n), r.n-n
	}
	return nil
}

// freeDataBlocks frees blocks that an inode maps: file data, or blocks of a directory,
// which are metadata and leave the cache.
func (fs *FS) freeDataBlocks(i *inode, r run) error {
	if i.isRegular() {
		for n := range fs.journaledTails {
			if n >= r.start && n < r.start+uint64(r.n) {
				fs.forgetBlock(n)
			}
		}
	} else {
		for k := range uint64(r.n) {
			fs.forgetBlock(r.start + k)
		}
	}
	fs.changeBlockCount(i, -int64(r.n))
	return fs.releaseBlocks(r)
}

// freeMetadataBlock frees a block of an inode's metadata, such as a node of its extent
// tree.
func (fs *FS) freeMetadataBlock(i *inode, at uint64) error {
	fs.forgetBlock(at)
	fs.changeBlockCount(i, -1)
	return fs.releaseBlocks(run{at, 1})
}

// groupSpan is a range of adjacent blocks of one group, by their index in it.
type groupSpan struct{ at, n uint32 }

// freeMap tells which blocks of a group can be allocated: those set in none of its
// bitmaps, which are the group's own and the busy blocks. A nil bitmap has no bit set.
type freeMap struct {
	used [4][]byte
	len  uint32
}

// groupFreeMap returns the free map of a group's blocks.
func (fs *FS) groupFreeMap(g uint32, d groupDesc) (freeMap, error) {
	m := freeMap{len: fs.sb.groupBlockCount(g)}
	b, err := fs.readBlockBitmap(g, d)
	if err != nil {
		return m, err
	}
	m.used[0], m.used[1], m.used[2] = b, fs.tx.freedBlocks[g], fs.heldBlocks[g]
	if fs.committing != nil {
		m.used[3] = fs.committing.freedBlocks[g]
	}
	return m, nil
}

// usedWord returns 64 bits of the bitmaps, joined.
func (m *freeMap) usedWord(i uint32) uint64 {
	w := uint64(0)
	for _, b := range m.used {
		if b != nil {
			w |= le.Uint64(b[i*8:])
		}
	}
	return w
}

// findFreeRun returns the first run of want free blocks at or after from, or else the
// longest. With exact a shorter run that begins at from is taken too if it has at least 16
// blocks.
func (m *freeMap) findFreeRun(from, want uint32, exact bool) groupSpan {
	best := groupSpan{}
	for at := from; at < m.len; {
		at = m.nextBlock(at, false)
		if at >= m.len {
			break
		}
		end := m.nextBlockBefore(at, min(at+want, m.len), true)
		if n := min(end-at, want); n > best.n {
			best = groupSpan{at, n}
			if n == want || exact && at == from && n >= 16 {
				return best
			}
		}
		at = end
	}
	return best
}

// nextBlock returns the first block at or after at that is used, or free; the length of
// the map if there is none.
func (m *freeMap) nextBlock(at uint32, used bool) uint32 { return m.nextBlockBefore(at, m.len, used) }

// nextBlockBefore is nextBlock up to end, which it returns if it finds none.
func (m *freeMap) nextBlockBefore(at, end uint32, used bool) uint32 {
	for i := at / 64; i*64 < end; i++ {
		w := m.usedWord(i)
		if !used {
			w = ^w
		}
		if i == at/64 {
			w &= ^uint64(0) << (at % 64)
		}
		if w != 0 {
			return min(i*64+uint32(bits.TrailingZeros64(w)), end)
		}
	}
	return end
}

// allocInode claims a free inode. The caller fills it in and stores it.
func (fs *FS) allocInode(parent *inode, dir bool) (*inode, error) {
	goal, err := fs.chooseInodeGroup(parent, dir)
	if err != nil {
		return nil, err
	}
	for k := range fs.sb.groups {
		g := (goal + k) % fs.sb.groups
		d, err := fs.readGroupDesc(g)
		if err != nil {
			return nil, err
		}
		if d.freeInodes() == 0 {
			continue
		}
		num, err := fs.claimInodeInGroup(g, dir)
		if err != nil {
			return nil, err
		}
		return fs.newBlankInode(num), nil
	}
	return nil, errNoSpace
}

// chooseInodeGroup chooses the group for a new inode: the one of its parent directory,
// except for directories in the root, which are spread to where there is room for their
// content.
func (fs *FS) chooseInodeGroup(parent *inode, dir bool) (uint32, error) {
	home := (parent.num - 1) / fs.sb.inodesPerGroup
	if !dir || parent.num != rootInode {
		return home, nil
	}
	best, most := home, uint64(0)
	for g := range min(fs.sb.groups, 128) {
		d, err := fs.readGroupDesc(g)
		if err != nil {
			return 0, err
		}
		score := uint64(d.freeBlocks()) * uint64(d.freeInodes()) / (uint64(d.usedDirs()) + 1)
		if score > most {
			best, most = g, score
		}
	}
	return best, nil
}

// claimInodeInGroup marks the first free inode of a group as used.
func (fs *FS) claimInodeInGroup(g uint32, dir bool) (uint32, error) {
	bitmap, d, err := fs.modifyGroupBitmap(g, true)
	if err != nil {
		return 0, err
	}
	first := uint32(0)
	if g == 0 {
		first = fs.sb.firstUserInode - 1
	}
	m := freeMap{used: [4][]byte{bitmap}, len: fs.sb.inodesPerGroup}
	i := m.nextBlock(first, false)
	if i >= fs.sb.inodesPerGroup || fs.counters.freeInodes == 0 {
		return 0, corruptf("group %d counts a wrong number of free inodes", g)
	}
	setBits(bitmap, uint64(i), 1)
	d.setSplitCount(gdFreeInodes, gdFreeInodesHi, d.freeInodes()-1)
	if fs.sb.metadataCsum && fs.sb.inodesPerGroup-d.unusedInodes() <= i {
		d.setSplitCount(gdUnused, gdUnusedHi, fs.sb.inodesPerGroup-i-1)
	}
	if dir {
		d.setSplitCount(gdDirs, gdDirsHi, d.usedDirs()+1)
	}
	fs.counters.freeInodes--
	return g*fs.sb.inodesPerGroup + i + 1, nil
}

// newBlankInode returns an empty inode with a random generation and all times set to now.
func (fs *FS) newBlankInode(num uint32) *inode {
	i := &inode{num, make([]byte, fs.sb.inodeSize)}
	extra := uint16(wantExtra)
	if w := le.Uint16(fs.sb.raw[sbWantExtraIsize:]); w >= wantExtra && int(w) <= fs.sb.inodeSize-oldInodeSize && w%4 == 0 {
		extra = w
	}
	le.PutUint16(i.raw[inExtraSize:], extra)
	le.PutUint32(i.raw[inGeneration:], rand.Uint32())
	fs.setTimesToNow(i, stampAtime, stampMtime, stampCtime, stampBirth)
	return i
}

// freeInode marks an inode as free that has no links and maps no blocks.
func (fs *FS) freeInode(i *inode) error {
	g, index := (i.num-1)/fs.sb.inodesPerGroup, (i.num-1)%fs.sb.inodesPerGroup
	bitmap, d, err := fs.modifyGroupBitmap(g, true)
	if err != nil {
		return err
	}
	if !testBit(bitmap, uint64(index)) {
		return corruptf("inode %d is freed twice", i.num)
	}
	clearBits(bitmap, uint64(index), 1)
	d.setSplitCount(gdFreeInodes, gdFreeInodesHi, d.freeInodes()+1)
	if i.isDir() {
		d.setSplitCount(gdDirs, gdDirsHi, d.usedDirs()-1)
	}
	fs.counters.freeInodes++
	le.PutUint16(i.raw[inLinks:], 0)
	le.PutUint32(i.raw[inDtime:], uint32(fs.op.now.Unix()))
	fs.setFileSize(i, 0)
	return fs.storeInode(i)
}
