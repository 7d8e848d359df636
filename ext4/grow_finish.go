package ext4

import (
	"bytes"
	"math"
	"slices"
)

// updateOverhead stores the number of the file system's own blocks, if the superblock has
// it. The field lies in the second sector, like the checksum, so this is one atomic write.
func (g *grower) updateOverhead() error {
	sb := g.fs.sb
	was := le.Uint32(sb.raw[sbOverhead:])
	if was == 0 {
		return nil
	}
	now, err := g.countOverhead()
	if err != nil || was == now {
		return err
	}
	raw := slices.Clone(g.fs.superOnDevice)
	le.PutUint32(raw[sbOverhead:], now)
	sb.setChecksum(raw)
	if err := writeAndSync(g.dev, raw[512:], superOffset+512); err != nil {
		return err
	}
	return g.reopenImage()
}

// countOverhead counts the file system's own blocks as Linux does.
func (g *grower) countOverhead() (uint32, error) {
	sb := g.fs.sb
	n := sb.firstBlock + uint64(sb.groups)*(2+sb.inodeTableBlocks())
	for k := range sb.groups {
		n += uint64(sb.baseMetaBlocks(k))
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

// refreshBackups writes the backups of superblock and descriptors that describe another
// layout than the primary does.
func (g *grower) refreshBackups() error {
	sb := g.fs.sb
	var table []byte
	for _, k := range backupGroups(sb.groups) {
		want := g.backupSuperblock(k)
		have := make([]byte, superSize)
		if err := readFull(g.dev, have, int64(sb.groupStart(k))*g.fs.sb.blockSize); err != nil {
			return err
		}
		if sameLayout(want, have) {
			continue
		}
		if table == nil {
			var err error
			if table, err = g.readDescTable(); err != nil {
				return err
			}
		}
		at := int64(sb.groupStart(k)) * g.fs.sb.blockSize
		if uint64(k/sb.descsPerBlock()) < uint64(sb.firstMetaBG) {
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

// backupSuperblock returns the superblock for the backup in a group.
func (g *grower) backupSuperblock(k uint32) []byte {
	raw := slices.Clone(g.fs.superOnDevice)
	le.PutUint16(raw[sbGroupNumber:], uint16(k))
	le.PutUint32(raw[sbIncompat:], le.Uint32(raw[sbIncompat:])&^incompatRecover)
	clear(raw[sbGrowMark:][:8])
	g.fs.sb.setChecksum(raw)
	return raw
}

// sameLayout reports whether two superblocks describe the same layout.
func sameLayout(a, b []byte) bool {
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

// readDescTable returns the descriptors of which groups with a superblock hold a copy.
func (g *grower) readDescTable() ([]byte, error) {
	sb := g.fs.sb
	var table []byte
	for n := range min(sb.firstMetaBG, sb.descBlockCount()) {
		b, err := g.fs.getBlock(sb.superblockNumber() + 1 + uint64(n))
		if err != nil {
			return nil, err
		}
		table = append(table, b.data...)
	}
	return table, nil
}
