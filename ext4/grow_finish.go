package ext4

import (
	"bytes"
	"math"
	"slices"
)

// fixOverhead stores how many blocks are the file system's own, if the superblock
// tells. That is in its second sector, as is its checksum: so this is one write.
func (g *grower) fixOverhead() error {
	sb := g.fs.sb
	was := le.Uint32(sb.raw[sbOverhead:])
	if was == 0 {
		return nil
	}
	now, err := g.overhead()
	if err != nil || was == now {
		return err
	}
	raw := slices.Clone(g.fs.diskSuper)
	le.PutUint32(raw[sbOverhead:], now)
	if sb.csum {
		le.PutUint32(raw[sbChecksum:], superChecksum(raw))
	}
	if _, err := g.dev.WriteAt(raw[512:], superOffset+512); err != nil {
		return err
	}
	if err := g.dev.Sync(); err != nil {
		return err
	}
	return g.reopen()
}

// overhead counts what Linux counts.
func (g *grower) overhead() (uint32, error) {
	sb := g.fs.sb
	n := sb.first + uint64(sb.groups)*(2+sb.tableBlocks())
	for k := range sb.groups {
		n += uint64(sb.baseBlocks(k))
	}
	j, err := g.fs.openJournal()
	if err != nil {
		return 0, err
	}
	if j != nil {
		n += uint64(j.blocks)
	}
	return uint32(min(n, math.MaxUint32)), nil
}

// refreshBackups writes the copies of the superblock and of the descriptors in the
// groups where they tell of another file system than the superblock does.
func (g *grower) refreshBackups() error {
	sb := g.fs.sb
	var table []byte
	for _, k := range backupGroups(sb.groups) {
		want := g.backup(k)
		have := make([]byte, superSize)
		if err := readFull(g.dev, have, int64(sb.groupStart(k))*g.fs.sb.blockSize); err != nil {
			return err
		}
		if sameShape(want, have) {
			continue
		}
		if table == nil {
			var err error
			if table, err = g.descTable(); err != nil {
				return err
			}
		}
		at := int64(sb.groupStart(k)) * g.fs.sb.blockSize
		if uint64(k/sb.descsPerBlock()) < uint64(sb.metaBG) {
			if _, err := g.dev.WriteAt(table, at+sb.blockSize); err != nil {
				return err
			}
		}
		if _, err := g.dev.WriteAt(want, at); err != nil {
			return err
		}
	}
	return g.dev.Sync()
}

// backup returns the copy of the superblock for a group.
func (g *grower) backup(k uint32) []byte {
	raw := slices.Clone(g.fs.diskSuper)
	le.PutUint16(raw[sbGroupNumber:], uint16(k))
	le.PutUint32(raw[sbIncompat:], le.Uint32(raw[sbIncompat:])&^incompatRecover)
	clear(raw[sbGrowMark:][:8])
	if g.fs.sb.csum {
		le.PutUint32(raw[sbChecksum:], superChecksum(raw))
	}
	return raw
}

// sameShape reports whether two superblocks tell of the same layout.
func sameShape(a, b []byte) bool {
	for _, f := range []struct{ at, n int }{
		{sbInodes, 8}, {sbMagic, 2}, {sbGroupNumber, 2}, {sbCompat, 8}, {sbUUID, 16}, {sbReservedGDT, 2}, {sbJournalInode, 4},
		{sbFirstMetaBG, 4}, {sbBlocksHi, 4}, {sbOverhead, 4},
	} {
		if !bytes.Equal(a[f.at:f.at+f.n], b[f.at:f.at+f.n]) {
			return false
		}
	}
	return true
}

// descTable returns the descriptors of which the groups with a superblock have a copy.
func (g *grower) descTable() ([]byte, error) {
	sb := g.fs.sb
	var table []byte
	for n := range min(sb.metaBG, sb.descBlocks()) {
		b, err := g.fs.get(sb.superBlock() + 1 + uint64(n))
		if err != nil {
			return nil, err
		}
		table = append(table, b.data...)
	}
	return table, nil
}
