package ext4

import (
	"math/bits"
	"math/rand/v2"
)

// alloc claims up to want adjacent free blocks, near goal if possible. What it returns
// may be shorter when the free space is in pieces; ENOSPC when there is none.
func (fs *FS) alloc(goal uint64, want uint32) (run, error) {
	if goal < fs.sb.first || goal >= fs.sb.blocks {
		goal = fs.sb.first
	}
	want = min(want, maxExtent)
	g0, i0 := fs.sb.groupOf(goal)
	best, bestG := span{}, uint32(0)
	seen := 0
	for k := uint32(0); k <= fs.sb.groups; k++ {
		g, from := (g0+k)%fs.sb.groups, uint32(0)
		if k == 0 {
			from = i0
		}
		d, err := fs.desc(g)
		if err != nil {
			return run{}, err
		}
		if d.freeBlocks() <= best.n {
			continue
		}
		m, err := fs.freeMap(g, d)
		if err != nil {
			return run{}, err
		}
		s := m.find(from, want, k == 0)
		if s.n > best.n {
			best, bestG = s, g
		}
		// A piece that is large enough beats a search through a fragmented image.
		if seen++; best.n >= want || best.n > 0 && (k == 0 && best.at == i0 && best.n >= min(want, 16) || seen >= 32) {
			break
		}
	}
	if best.n == 0 {
		return run{}, errNoSpace
	}
	return fs.claim(bestG, best)
}

// claim marks free blocks as used.
func (fs *FS) claim(g uint32, s span) (run, error) {
	bitmap, d, err := fs.modBitmap(g, false)
	if err != nil {
		return run{}, err
	}
	free := d.freeBlocks()
	if free < s.n || fs.counters.freeBlocks < uint64(s.n) {
		return run{}, corruptf("the count of free blocks of group %d", g)
	}
	setBits(bitmap, uint64(s.at), uint64(s.n))
	d.setCount(gdFreeBlocks, gdFreeBlocksHi, free-s.n)
	fs.counters.freeBlocks -= uint64(s.n)
	fs.hints[g] = s.at + s.n
	return run{fs.sb.groupStart(g) + uint64(s.at), s.n}, nil
}

// release marks blocks as free. They are not used again before that is certain to last.
func (fs *FS) release(r run) error {
	if r.start < fs.sb.first || r.start+uint64(r.n) > fs.sb.blocks {
		return corruptf("blocks %d+%d are not in the image", r.start, r.n)
	}
	if fs.fastReplay != nil {
		return fs.fastReplay.release(r)
	}
	for r.n > 0 {
		g, i := fs.sb.groupOf(r.start)
		n := min(r.n, fs.sb.groupLen(g)-i)
		bitmap, d, err := fs.modBitmap(g, false)
		if err != nil {
			return err
		}
		for k := i; k < i+n; k++ {
			if !bit(bitmap, uint64(k)) {
				return corruptf("block %d is free already", fs.sb.groupStart(g)+uint64(k))
			}
		}
		clearBits(bitmap, uint64(i), uint64(n))
		d.setCount(gdFreeBlocks, gdFreeBlocksHi, d.freeBlocks()+n)
		fs.counters.freeBlocks += uint64(n)
		fs.tx.freed.mark(fs.sb, g, i, n)
		fs.op.freed = append(fs.op.freed, run{r.start, n})
		r.start, r.n = r.start+uint64(n), r.n-n
	}
	return nil
}

// freeRun frees blocks of a file's data.
func (fs *FS) freeRun(i *inode, r run) error {
	if i.isRegular() {
		for n := range fs.tails {
			if n >= r.start && n < r.start+uint64(r.n) {
				fs.drop(n)
			}
		}
	} else {
		for k := range uint64(r.n) {
			fs.drop(r.start + k)
		}
	}
	fs.addBlocks(i, -int64(r.n))
	return fs.release(r)
}

// freeMeta frees a block of an inode's metadata.
func (fs *FS) freeMeta(i *inode, at uint64) error {
	fs.drop(at)
	fs.addBlocks(i, -1)
	return fs.release(run{at, 1})
}

// span is a number of adjacent blocks of one group.
type span struct{ at, n uint32 }

// freeMap tells which blocks of a group can be used: those that are neither in use nor
// busy. Nil maps count as zeros.
type freeMap struct {
	used [4][]byte
	len  uint32
}

func (fs *FS) freeMap(g uint32, d desc) (freeMap, error) {
	m := freeMap{len: fs.sb.groupLen(g)}
	b, err := fs.readBitmap(g, d, false)
	if err != nil {
		return m, err
	}
	if b == nil {
		b = make([]byte, fs.sb.blockSize)
		fs.initialBitmap(g, d, b)
	}
	m.used[0], m.used[1], m.used[2] = b, fs.tx.freed[g], fs.held[g]
	if fs.committing != nil {
		m.used[3] = fs.committing.freed[g]
	}
	return m, nil
}

func (m *freeMap) word(i uint32) uint64 {
	w := uint64(0)
	for _, b := range m.used {
		if b != nil {
			w |= le.Uint64(b[i*8:])
		}
	}
	return w
}

// find returns the first run of want free blocks at or after from, or else the
// longest. With exact a run that begins at from is taken even if it is shorter, as
// long as it is no mere scrap.
func (m *freeMap) find(from, want uint32, exact bool) span {
	best := span{}
	for at := from; at < m.len; {
		at = m.next(at, false)
		if at >= m.len {
			break
		}
		end := m.nextBefore(at, min(at+want, m.len), true)
		if n := min(end-at, want); n > best.n {
			best = span{at, n}
			if n == want || exact && at == from && n >= 16 {
				return best
			}
		}
		at = end
	}
	return best
}

// next returns the first block at or after at that is used, or free; the length of
// the map if there is none.
func (m *freeMap) next(at uint32, used bool) uint32 { return m.nextBefore(at, m.len, used) }

// nextBefore is next, but returns end if there is none before it.
func (m *freeMap) nextBefore(at, end uint32, used bool) uint32 {
	for i := at / 64; i*64 < end; i++ {
		w := m.word(i)
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

// newInode claims an inode. The caller fills it in and stores it.
func (fs *FS) newInode(parent *inode, dir bool) (*inode, error) {
	goal, err := fs.inodeGoal(parent, dir)
	if err != nil {
		return nil, err
	}
	for k := range fs.sb.groups {
		g := (goal + k) % fs.sb.groups
		d, err := fs.desc(g)
		if err != nil {
			return nil, err
		}
		if d.freeInodes() == 0 {
			continue
		}
		num, err := fs.claimInode(g, dir)
		if err != nil {
			return nil, err
		}
		return fs.blankInode(num), nil
	}
	return nil, errNoSpace
}

// inodeGoal chooses the group of a new inode: that of its directory, but for
// directories of the root, which are spread so that each has room about it.
func (fs *FS) inodeGoal(parent *inode, dir bool) (uint32, error) {
	home := (parent.num - 1) / fs.sb.inodesPer
	if !dir || parent.num != rootInode {
		return home, nil
	}
	best, most := home, uint64(0)
	for g := range min(fs.sb.groups, 128) {
		d, err := fs.desc(g)
		if err != nil {
			return 0, err
		}
		score := uint64(d.freeBlocks()) * uint64(d.freeInodes()) / (uint64(d.dirs()) + 1)
		if score > most {
			best, most = g, score
		}
	}
	return best, nil
}

func (fs *FS) claimInode(g uint32, dir bool) (uint32, error) {
	bitmap, d, err := fs.modBitmap(g, true)
	if err != nil {
		return 0, err
	}
	first := uint32(0)
	if g == 0 {
		first = fs.sb.firstIno - 1
	}
	m := freeMap{used: [4][]byte{bitmap}, len: fs.sb.inodesPer}
	i := m.next(first, false)
	if i >= fs.sb.inodesPer || fs.counters.freeInodes == 0 {
		return 0, corruptf("the count of free inodes of group %d", g)
	}
	setBits(bitmap, uint64(i), 1)
	d.setCount(gdFreeInodes, gdFreeInodesHi, d.freeInodes()-1)
	if fs.sb.csum && fs.sb.inodesPer-d.unused() <= i {
		d.setCount(gdUnused, gdUnusedHi, fs.sb.inodesPer-i-1)
	}
	if dir {
		d.setCount(gdDirs, gdDirsHi, d.dirs()+1)
	}
	fs.counters.freeInodes--
	return g*fs.sb.inodesPer + i + 1, nil
}

func (fs *FS) blankInode(num uint32) *inode {
	i := &inode{num, make([]byte, fs.sb.inodeSize)}
	extra := uint16(wantExtra)
	if w := le.Uint16(fs.sb.raw[sbWantExtraIsize:]); w >= wantExtra && int(w) <= fs.sb.inodeSize-oldInodeSize && w%4 == 0 {
		extra = w
	}
	le.PutUint16(i.raw[inExtraSize:], extra)
	le.PutUint32(i.raw[inGeneration:], rand.Uint32())
	fs.touch(i, stampAtime, stampMtime, stampCtime, stampBirth)
	return i
}

// freeInode gives an inode back that nothing refers to and that maps no blocks.
func (fs *FS) freeInode(i *inode) error {
	g, index := (i.num-1)/fs.sb.inodesPer, (i.num-1)%fs.sb.inodesPer
	bitmap, d, err := fs.modBitmap(g, true)
	if err != nil {
		return err
	}
	if !bit(bitmap, uint64(index)) {
		return corruptf("inode %d is free already", i.num)
	}
	clearBits(bitmap, uint64(index), 1)
	d.setCount(gdFreeInodes, gdFreeInodesHi, d.freeInodes()+1)
	if i.isDir() {
		d.setCount(gdDirs, gdDirsHi, d.dirs()-1)
	}
	fs.counters.freeInodes++
	le.PutUint16(i.raw[inLinks:], 0)
	le.PutUint32(i.raw[inDtime:], uint32(fs.op.now.Unix()))
	fs.setSize(i, 0)
	return fs.putInode(i)
}
