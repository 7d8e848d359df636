package ext4

// repairPrimarySuper reads the superblock on the device into superOnDevice. If it is
// damaged, so that a backup was used, it first rewrites the primary from that.
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
	putFreeCounts(raw, fs.sb, fs.counters)
	fs.sb.setChecksum(raw)
	copy(fs.superOnDevice, raw)
	return writeAndSync(fs.dev, raw, superOffset)
}

// setChecksum sets the checksum in raw, a version of the superblock.
func (s *superblock) setChecksum(raw []byte) {
	if s.metadataCsum {
		le.PutUint32(raw[sbChecksum:], superblockChecksum(raw))
	}
}

// finalizeSuperblock puts the superblock into the open transaction: free counts, time of
// the last write, head of the orphan list, and with a journal the flag needs_recovery. All
// of these lie in the first sector, which is the only one that changes.
func (fs *FS) finalizeSuperblock() error {
	b, err := fs.modifyBlock(fs.sb.superblockNumber())
	if err != nil {
		return err
	}
	raw, old := b[fs.sb.superblockOffset():][:superSize], fs.sb.raw
	putFreeCounts(old, fs.sb, fs.counters)
	le.PutUint32(old[sbWtime:], uint32(fs.now().Add(-clockTick).Unix()))
	var first uint32
	if len(fs.orphans) > 0 {
		first = fs.orphans[0]
	}
	le.PutUint32(old[sbLastOrphan:], first)
	// In the log, and in place until the log is emptied, the superblock has the flag.
	le.PutUint32(old[sbIncompat:], le.Uint32(old[sbIncompat:])|incompatRecover)
	if fs.journal == nil {
		le.PutUint32(old[sbIncompat:], le.Uint32(old[sbIncompat:])&^incompatRecover)
	}
	fs.balanceSuperChecksum(old)
	copy(raw, old)
	return nil
}

// balanceSuperChecksum makes the superblock's checksum field right without changing it: it
// gives four unused bytes in the first sector the value for which the checksum of the
// whole comes out as it is stored. So an update changes only the first of the superblock's
// two sectors, and cannot be torn.
//
// The register of a CRC can be run backwards. The stored checksum is taken back to the
// beginning of the four bytes, as if they were zeros; the difference to the register that
// the bytes before them give is their value.
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

// reverseCRCByte undoes the step of a CRC-32C register that took in byte b.
func reverseCRCByte(register uint32, b byte) uint32 {
	i := reverseCRCTable[register>>24]
	return (register^castagnoli[i])<<8 | uint32(i^b)
}

// reverseCRCTable maps the highest byte of each entry of the CRC-32C table to its index.
var reverseCRCTable = func() (t [256]byte) {
	for i, v := range castagnoli {
		t[v>>24] = byte(i)
	}
	return t
}()

// writeNeedsRecovery writes the superblock's first sector with the flag needs_recovery set
// or cleared. raw is the superblock as it was last committed. The caller syncs.
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
