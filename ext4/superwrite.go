package ext4

// repairPrimarySuper writes the first superblock when it was its copy that was read, and
// remembers what is on the device.
func (fs *FS) repairPrimarySuper() error {
	fs.superOnDevice = make([]byte, superSize)
	if err := readFull(fs.dev, fs.superOnDevice, superOffset); err != nil {
		return err
	}
	if _, err := parseSuperblock(fs.superOnDevice, fs.size); err == nil {
		return nil
	}
	raw := fs.sb.raw
	le.PutUint16(raw[sbGroupNumber:], 0)
	le.PutUint32(raw[sbFreeBlocksLo:], uint32(fs.counters.freeBlocks))
	le.PutUint32(raw[sbFreeInodes:], fs.counters.freeInodes)
	if fs.sb.incompat&incompat64bit != 0 {
		le.PutUint32(raw[sbFreeBlocksHi:], uint32(fs.counters.freeBlocks>>32))
	}
	if fs.sb.metadataCsum {
		le.PutUint32(raw[sbChecksum:], superblockChecksum(raw))
	}
	copy(fs.superOnDevice, raw)
	if _, err := fs.dev.WriteAt(raw, superOffset); err != nil {
		return err
	}
	return fs.dev.Sync()
}

func (fs *FS) finalizeSuperblock() error {
	b, err := fs.modifyBlock(fs.sb.superblockNumber())
	if err != nil {
		return err
	}
	raw, old := b[fs.sb.superblockOffset():][:superSize], fs.sb.raw
	c := fs.counters
	le.PutUint32(old[sbFreeBlocksLo:], uint32(c.freeBlocks))
	if fs.sb.incompat&incompat64bit != 0 {
		le.PutUint32(old[sbFreeBlocksHi:], uint32(c.freeBlocks>>32))
	}
	le.PutUint32(old[sbFreeInodes:], c.freeInodes)
	le.PutUint32(old[sbWtime:], uint32(fs.now().Add(-clockTick).Unix()))
	var first uint32
	if len(fs.orphans) > 0 {
		first = fs.orphans[0]
	}
	le.PutUint32(old[sbLastOrphan:], first)
	le.PutUint32(old[sbIncompat:], le.Uint32(old[sbIncompat:])|incompatRecover)
	if fs.journal == nil {
		le.PutUint32(old[sbIncompat:], le.Uint32(old[sbIncompat:])&^incompatRecover)
	}
	fs.balanceSuperChecksum(old)
	copy(raw, old)
	return nil
}

// balanceSuperChecksum keeps the checksum of the superblock right without changing it: it gives
// four unused bytes the value that makes the sum come out as before. So an update
// changes the first of the superblock's two sectors only, and cannot be torn.
func (fs *FS) balanceSuperChecksum(raw []byte) {
	if !fs.sb.metadataCsum {
		return
	}
	before := crc32c(^uint32(0), raw[:sbSnapshotID])
	after := le.Uint32(raw[sbChecksum:])
	for i := sbChecksum - 1; i >= sbSnapshotID+4; i-- {
		after = reverseCRCByte(after, raw[i])
	}
	for range 4 {
		after = reverseCRCByte(after, 0)
	}
	le.PutUint32(raw[sbSnapshotID:], before^after)
}

// reverseCRCByte takes one byte back out of a checksum's register.
func reverseCRCByte(register uint32, b byte) uint32 {
	i := reverseCRCTable[register>>24]
	return (register^castagnoli[i])<<8 | uint32(i^b)
}

// reverseCRCTable finds the entry of the checksum's table with a given highest byte.
var reverseCRCTable = func() (t [256]byte) {
	for i, v := range castagnoli {
		t[v>>24] = byte(i)
	}
	return t
}()

// writeNeedsRecovery writes the superblock's first sector as it was last committed, with or
// without the mark that the log is in use.
func (fs *FS) writeNeedsRecovery(raw []byte, inUse bool) error {
	s := append([]byte(nil), raw...)
	v := le.Uint32(s[sbIncompat:]) &^ incompatRecover
	if inUse {
		v |= incompatRecover
	}
	le.PutUint32(s[sbIncompat:], v)
	fs.balanceSuperChecksum(s)
	_, err := fs.dev.WriteAt(s[:512], superOffset)
	return err
}
