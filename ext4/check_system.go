package ext4

import "errors"

// jsbUsers is the offset in the journal's superblock of the number of file systems that
// use it.
const jsbUsers = 0x40 // of the journal, as many as file systems

// readOrphanLists reads the orphan list and the orphan file.
func (c *checker) readOrphanLists() {
	num := le.Uint32(c.sb.raw[sbLastOrphan:])
	for num != 0 && !c.shouldStop() {
		_, twice := c.orphans[num]
		if twice || len(c.orphans) >= maxOrphans || num < c.sb.firstUserInode && num != rootInode || num > c.sb.inodes {
			c.reportInode(ProblemOrphans, num, "the orphan list has an invalid or repeated entry")
			return
		}
		i := c.readRawInode(num)
		if i == nil || entryTypeOf(i.mode()) == ftUnknown {
			c.reportInode(ProblemOrphans, num, "is in the orphan list, but unused")
			return
		}
		c.addOrphan(num)
		num = le.Uint32(i.raw[inDtime:])
	}
	c.readOrphanFile()
}

// addOrphan records an orphan.
func (c *checker) addOrphan(num uint32) {
	c.chargeMemory(48)
	c.orphans[num] = struct{}{}
}

// readOrphanFile reads the orphan file.
func (c *checker) readOrphanFile() {
	num := le.Uint32(c.sb.raw[sbOrphanFile:])
	if c.sb.compat&compatOrphanFile == 0 {
		return
	}
	i := c.readRawInode(num)
	if i == nil || !i.isRegular() || i.linkCount() == 0 || i.size() <= 0 || i.size()%c.sb.blockSize != 0 {
		c.reportInode(ProblemOrphans, num, "is not a valid orphan file")
		return
	}
	for l := range uint32(min(i.size()/c.sb.blockSize, 512)) {
		if c.shouldStop() {
			return
		}
		e, err := c.fs.lookupExtent(i, l)
		if err != nil || e.start == 0 || !c.containsBlocks(e.start, uint64(e.n)) {
			c.reportInode(ProblemOrphans, num, "block %d of the orphan file cannot be found", l)
			return
		}
		at := e.start + uint64(l-e.logical)
		b := c.readMetadata(at)
		if b == nil {
			return
		}
		tail := b[len(b)-8:]
		if le.Uint32(tail) != orphanMagic || c.sb.metadataCsum && c.fs.orphanBlockChecksum(i, at, b) != le.Uint32(tail[4:]) {
			c.reportBlock(ProblemOrphans, num, at, "a block of the orphan file has a wrong checksum")
			continue
		}
		c.readOrphanBlock(num, at, b[:len(b)-8])
	}
}

// readOrphanBlock records the orphans in a block of the orphan file.
func (c *checker) readOrphanBlock(file uint32, at uint64, b []byte) {
	for k := 0; k < len(b); k += 4 {
		o := le.Uint32(b[k:])
		if o == 0 {
			continue
		}
		if c.sb.roCompat&roOrphanPresent == 0 || o < c.sb.firstUserInode || o > c.sb.inodes || len(c.orphans) >= maxOrphans {
			c.reportBlock(ProblemOrphans, file, at, "the orphan file lists inode %d", o)
			return
		}
		c.addOrphan(o)
	}
}

// checkJournal checks the journal's superblock and inode.
func (c *checker) checkJournal() {
	raw := c.sb.raw
	num := le.Uint32(raw[sbJournalInode:])
	if c.sb.compat&compatJournal == 0 {
		if num == journalInode {
			c.reportHarmless(ProblemJournal, num, -1, "there is a journal without the feature has_journal")
		} else if num != 0 {
			c.reportInode(ProblemJournal, num, "there is a journal without the feature has_journal")
		} else if le.Uint32(raw[sbJournalDev:]) != 0 || !isAllZero(raw[sbJournalUUID:sbJournalUUID+16]) {
			c.reportSuper(ProblemJournal, "there is an external journal without the feature has_journal")
		}
		return
	}
	if le.Uint32(raw[sbJournalDev:]) != 0 || !isAllZero(raw[sbJournalUUID:sbJournalUUID+16]) {
		c.reportInode(ProblemJournal, num, "there is an external journal, which is not checked, or two journals")
		return
	}
	j, err := c.fs.openJournal()
	switch {
	case errors.Is(err, ErrUnsupported):
		if j == nil {
			c.reportSuper(ProblemJournal, "the journal is missing")
			return
		}
		if f := j.rawSuper; f != nil && be.Uint32(f[jsbIncompat:])&^(jRevoke|j64bit|jAsyncCommit|jCsumV2|jCsumV3|jFastCommit) == 0 &&
			be.Uint32(f[jsbROCompat:]) == 0 && be.Uint32(f[jsbCompat:])&^jCompatCsum == 0 {
			return // features that we do not use, but Linux does
		}
		c.reportInode(ProblemJournal, num, "%v", err)
		return
	case isCorrupt(err):
		c.reportInode(ProblemJournal, num, "%v", err)
		return
	case err != nil:
		c.err = err
		return
	}
	have := int64(0) // blocks of the inode; j.blocks is limited to the superblock's number
	for _, e := range j.extents {
		have += int64(e.n)
	}
	if i := c.readRawInode(num); i != nil && (i.size()/c.sb.blockSize < minLog || i.size() > have*c.sb.blockSize || i.linkCount() == 0) {
		c.reportInode(ProblemJournal, num, "the journal has %d bytes, %d blocks and %d links", i.size(), have, i.linkCount())
	}
	if n := be.Uint32(j.rawSuper[jsbUsers:]); n > 1 {
		c.reportInode(ProblemJournal, num, "the journal has %d users", n)
	}
	if j.start != 0 && !c.logReplayed {
		c.reportInode(ProblemJournal, num, "the journal is not empty, but needs_recovery is not set")
	}
}
