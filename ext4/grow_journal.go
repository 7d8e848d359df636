package ext4

import (
	"errors"
)

// leastWithJournal is the size in blocks from which an image gets a journal: 16 MiB.
const leastWithJournal = 4096

// addJournal gives an image without a journal one, as a single extent in one group.
func (g *grower) addJournal() error {
	sb := g.fs.sb
	if g.fs.journal != nil || g.opts.NoJournal || sb.incompat&incompatExtents == 0 || sb.blockSize != defaultBlock || sb.blocks < leastWithJournal {
		return nil
	}
	group, s, err := g.findJournalSpan(defaultJournalBlocks(g.blocks))
	if err != nil || s.n == 0 {
		return err
	}
	start := sb.groupStart(group) + uint64(s.at)
	if err := g.writeEmptyJournal(start, s.n); err != nil {
		return err
	}
	return g.changeAndReopen(func(fs *FS) error {
		in := newJournalInode(fs, start, s.n)
		putJournalInSuper(fs.sb.raw, in.raw)
		return errors.Join(fs.markBlocksUsed(group, s.at, s.n), fs.storeInode(in))
	})
}

// newJournalInode returns the inode of a journal of n blocks from start on.
func newJournalInode(fs *FS, start uint64, n uint32) *inode {
	in := &inode{journalInode, make([]byte, fs.sb.inodeSize)}
	p := formatPlan{opts: FormatOptions{Time: fs.now()}}
	p.fillInode(in.raw, typeRegular|0o600, 1, uint64(n)*defaultBlock, uint64(n))
	putExtents(in.raw, []run{{start, n}})
	return in
}

// findJournalSpan finds room for a journal of n blocks, or of one of the smaller sizes
// that Format uses, in a group of which half stays free. It returns no blocks if there is
// none.
func (g *grower) findJournalSpan(n uint64) (group uint32, s groupSpan, err error) {
	for ; n >= minJournal; n /= 2 {
		for k := range g.fs.sb.groups {
			d, err := g.fs.readGroupDesc(k)
			if err != nil {
				return 0, groupSpan{}, err
			}
			if home, _ := g.fs.sb.locateBlock(d.blockBitmap()); home != k || uint64(d.freeBlocks()) < 2*n {
				continue
			}
			m, err := g.fs.groupFreeMap(k, d)
			if err != nil {
				return 0, groupSpan{}, err
			}
			if start, length := g.fs.sb.growMark().logRange(); length > 0 && start >= g.fs.sb.groupStart(k) {
				m.len = uint32(min(uint64(m.len), start-g.fs.sb.groupStart(k)))
			}
			if s := m.findFreeRun(0, uint32(n), false); uint64(s.n) == n {
				return k, s, nil
			}
		}
	}
	return 0, groupSpan{}, nil
}

// writeEmptyJournal turns free blocks into a journal without transactions: its superblock,
// then zeros.
func (g *grower) writeEmptyJournal(start uint64, n uint32) error {
	buf := make([]byte, maxWrite)
	for off, end := int64(start)*g.fs.sb.blockSize, (int64(start)+int64(n))*g.fs.sb.blockSize; off < end; {
		b := buf[:min(maxWrite, end-off)]
		if err := readFull(g.dev, b, off); err != nil {
			return err
		}
		if !isAllZero(b) {
			clear(b)
			if _, err := g.dev.WriteAt(b, off); err != nil {
				return err
			}
		}
		off += int64(len(b))
	}
	sb := newJournalSuperblock(n, g.fs.sb.raw[sbUUID:][:16])
	return writeAndSync(g.dev, sb, int64(start)*g.fs.sb.blockSize)
}
