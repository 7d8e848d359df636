package ext4

// desc is a group descriptor, where it lies in memory. To change one, take it from
// modDesc.
type desc []byte

func (d desc) count(lo, hi int) uint32 {
	n := uint32(le.Uint16(d[lo:]))
	if len(d) >= 64 {
		n |= uint32(le.Uint16(d[hi:])) << 16
	}
	return n
}

func (d desc) setCount(lo, hi int, v uint32) {
	le.PutUint16(d[lo:], uint16(v))
	if len(d) >= 64 {
		le.PutUint16(d[hi:], uint16(v>>16))
	}
}

func (d desc) place(lo, hi int) uint64 {
	n := uint64(le.Uint32(d[lo:]))
	if len(d) >= 64 {
		n |= uint64(le.Uint32(d[hi:])) << 32
	}
	return n
}

func (d desc) blockBitmap() uint64 { return d.place(gdBlockBitmap, gdBlockHi) }
func (d desc) inodeBitmap() uint64 { return d.place(gdInodeBitmap, gdInodeHi) }
func (d desc) inodeTable() uint64  { return d.place(gdInodeTable, gdTableHi) }
func (d desc) freeBlocks() uint32  { return d.count(gdFreeBlocks, gdFreeBlocksHi) } // clusters, with bigalloc
func (d desc) freeInodes() uint32  { return d.count(gdFreeInodes, gdFreeInodesHi) }
func (d desc) dirs() uint32        { return d.count(gdDirs, gdDirsHi) }
func (d desc) unused() uint32      { return d.count(gdUnused, gdUnusedHi) }
func (d desc) flags() uint16       { return le.Uint16(d[gdFlags:]) }

// desc returns a group's descriptor, to be read.
func (fs *FS) desc(g uint32) (desc, error) {
	n, off := fs.sb.descAt(g)
	b, err := fs.get(n)
	if err != nil {
		return nil, err
	}
	if key := passKey(checkDesc, 0); b.passed.Load() != key {
		if err := fs.checkDescs(g, b.data); err != nil {
			return nil, err
		}
		b.passed.Store(key)
	}
	return desc(b.data[off : off+fs.sb.descSize]), nil
}

// checkDescs checks all descriptors in the block that holds that of group g.
func (fs *FS) checkDescs(g uint32, data []byte) error {
	per := fs.sb.descsPerBlock()
	for k, i := g/per*per, 0; k < fs.sb.groups && i < int(per); k, i = k+1, i+1 {
		d := data[i*fs.sb.descSize:][:fs.sb.descSize]
		sum := le.Uint16(d[gdChecksum:])
		switch {
		case fs.sb.csum:
			if descChecksum(fs.sb.seed, k, d) != sum {
				return corruptf("checksum of the descriptor of group %d", k)
			}
		case fs.sb.ro&roGDTCsum != 0:
			if fs.oldDescChecksum(k, d) != sum {
				return corruptf("checksum of the descriptor of group %d", k)
			}
		}
	}
	return nil
}

// oldDescChecksum is the CRC-16 that the feature uninit_bg keeps.
func (fs *FS) oldDescChecksum(g uint32, d []byte) uint16 {
	var num [4]byte
	le.PutUint32(num[:], g)
	c := crc16(0xffff, fs.sb.raw[sbUUID:sbUUID+16])
	c = crc16(crc16(c, num[:]), d[:gdChecksum])
	return crc16(c, d[gdChecksum+2:])
}

func crc16(c uint16, b []byte) uint16 {
	for _, v := range b {
		c ^= uint16(v)
		for range 8 {
			if c&1 != 0 {
				c = c>>1 ^ 0xa001
			} else {
				c >>= 1
			}
		}
	}
	return c
}

// modDesc returns a group's descriptor, to be changed.
func (fs *FS) modDesc(g uint32) (desc, error) {
	if _, err := fs.desc(g); err != nil {
		return nil, err
	}
	n, off := fs.sb.descAt(g)
	b, err := fs.mod(n)
	if err != nil {
		return nil, err
	}
	if _, ok := fs.tx.groups[g]; !ok {
		fs.tx.groups[g] = 0
	}
	return desc(b[off : off+fs.sb.descSize]), nil
}

// sealGroups sets the checksums of the groups that the transaction changed.
func (fs *FS) sealGroups() error {
	if !fs.sb.csum {
		return nil
	}
	for g, dirty := range fs.tx.groups {
		if n, _ := fs.sb.descAt(g); fs.tx.blocks[n] == nil {
			continue // an operation that was undone
		}
		d, err := fs.modDesc(g)
		if err != nil {
			return err
		}
		if dirty&blockBitmapDirty != 0 && d.flags()&groupBlockUninit == 0 {
			if b := fs.cache.get(d.blockBitmap()); b != nil {
				d.setCount(gdBlockCsum, gdBlockCsumHi, crc32c(fs.sb.seed, b.data[:fs.sb.perGroup/8]))
			}
		}
		if dirty&inodeBitmapDirty != 0 && d.flags()&groupInodeUninit == 0 {
			if b := fs.cache.get(d.inodeBitmap()); b != nil {
				d.setCount(gdInodeCsum, gdInodeCsumHi, crc32c(fs.sb.seed, b.data[:fs.sb.inodesPer/8]))
			}
		}
		le.PutUint16(d[gdChecksum:], descChecksum(fs.sb.seed, g, d))
	}
	return nil
}

// readBitmap returns a bitmap of a group as it is on the device, checked. Nil: the
// group has none yet, and its flags say what it would be.
func (fs *FS) readBitmap(g uint32, d desc, inodes bool) ([]byte, error) {
	n, flag, lo, hi, size := d.blockBitmap(), uint16(groupBlockUninit), gdBlockCsum, gdBlockCsumHi, fs.sb.perGroup/fs.sb.cluster/8
	if inodes {
		n, flag, lo, hi, size = d.inodeBitmap(), groupInodeUninit, gdInodeCsum, gdInodeCsumHi, fs.sb.inodesPer/8
	}
	if d.flags()&flag != 0 && (fs.sb.csum || fs.sb.ro&roGDTCsum != 0) {
		return nil, nil
	}
	if n < fs.sb.first {
		return nil, corruptf("a bitmap of group %d", g)
	}
	b, err := fs.get(n)
	if err != nil {
		return nil, err
	}
	key := passKey(checkBitmap, g)
	if b.passed.Load() == key || !fs.sb.csum {
		return b.data, nil
	}
	sum, want := crc32c(fs.sb.seed, b.data[:size]), d.count(lo, hi)
	if fs.sb.descSize < 64 {
		sum &= 0xffff
	}
	if b.tx == nil && sum != want {
		return nil, corruptf("checksum of a bitmap of group %d", g)
	}
	b.passed.Store(key)
	return b.data, nil
}

// initialBitmap is the block bitmap of a group that has none: what Linux takes to be in use in it.
func (fs *FS) initialBitmap(g uint32, d desc, m []byte) {
	sb := fs.sb
	setBits(m, 0, uint64(sb.baseBlocks(g)))
	lo, hi := sb.groupStart(g), sb.groupStart(g)+uint64(sb.groupLen(g))
	own := func(n, count uint64) {
		if a, b := max(n, lo), min(n+count, hi); a < b {
			setBits(m, a-lo, b-a)
		}
	}
	own(d.blockBitmap(), 1)
	own(d.inodeBitmap(), 1)
	own(d.inodeTable(), sb.tableBlocks())
	setBits(m, uint64(sb.groupLen(g)), uint64(len(m)*8)-uint64(sb.groupLen(g)))
}

// modBitmap returns a bitmap to be changed, and its group's descriptor likewise.
func (fs *FS) modBitmap(g uint32, inodes bool) (bitmap []byte, d desc, err error) {
	if d, err = fs.modDesc(g); err != nil {
		return nil, nil, err
	}
	old, err := fs.readBitmap(g, d, inodes)
	if err != nil {
		return nil, nil, err
	}
	n, flag, dirty := d.blockBitmap(), uint16(groupBlockUninit), blockBitmapDirty
	if inodes {
		n, flag, dirty = d.inodeBitmap(), groupInodeUninit, inodeBitmapDirty
	}
	if old != nil {
		bitmap, err = fs.mod(n)
	} else {
		if n < fs.sb.first || n >= fs.sb.blocks {
			return nil, nil, corruptf("a bitmap of group %d", g)
		}
		bitmap = fs.fresh(n)
		if inodes {
			setBits(bitmap, uint64(fs.sb.inodesPer), uint64(len(bitmap)*8)-uint64(fs.sb.inodesPer))
		} else {
			fs.initialBitmap(g, d, bitmap)
		}
		le.PutUint16(d[gdFlags:], d.flags()&^flag)
	}
	fs.tx.groups[g] |= dirty
	return bitmap, d, err
}
