package ext4

import "errors"

const jsbUsers = 0x40 // of the journal, as many as file systems

// orphanLists reads the list of inodes that lost their last name, and the file of them.
func (c *checker) orphanLists() {
	num := le.Uint32(c.sb.raw[sbLastOrphan:])
	for num != 0 && !c.stopped() {
		_, twice := c.orphans[num]
		if twice || len(c.orphans) >= maxOrphans || num < c.sb.firstIno && num != rootInode || num > c.sb.inodes {
			c.badInode(ProblemOrphans, num, "is in the list of orphans")
			return
		}
		i := c.rawInode(num)
		if i == nil || typeOf(i.mode()) == ftUnknown {
			c.badInode(ProblemOrphans, num, "is in the list of orphans, and no inode in use")
			return
		}
		c.addOrphan(num)
		num = le.Uint32(i.raw[inDtime:])
	}
	c.readOrphans()
}

func (c *checker) addOrphan(num uint32) {
	c.charge(48)
	c.orphans[num] = struct{}{}
}

// readOrphans reads the file of orphans.
func (c *checker) readOrphans() {
	num := le.Uint32(c.sb.raw[sbOrphanFile:])
	if c.sb.compat&compatOrphanFile == 0 {
		return
	}
	i := c.rawInode(num)
	if i == nil || !i.isRegular() || i.links() == 0 || i.size() <= 0 || i.size()%c.sb.blockSize != 0 {
		c.badInode(ProblemOrphans, num, "is no file for orphans")
		return
	}
	for l := range uint32(min(i.size()/c.sb.blockSize, 512)) {
		if c.stopped() {
			return
		}
		e, err := c.fs.lookup(i, l)
		if err != nil || e.start == 0 || !c.inside(e.start, uint64(e.n)) {
			c.badInode(ProblemOrphans, num, "block %d of the file for orphans cannot be found", l)
			return
		}
		at := e.start + uint64(l-e.logical)
		b := c.read(at)
		if b == nil {
			return
		}
		tail := b[len(b)-8:]
		if le.Uint32(tail) != orphanMagic || c.sb.csum && c.fs.orphanSum(i, at, b) != le.Uint32(tail[4:]) {
			c.badBlock(ProblemOrphans, num, at, "checksum of the file for orphans")
			continue
		}
		c.orphansIn(num, at, b[:len(b)-8])
	}
}

// orphansIn notes the orphans in a block of the file of them.
func (c *checker) orphansIn(file uint32, at uint64, b []byte) {
	for k := 0; k < len(b); k += 4 {
		o := le.Uint32(b[k:])
		if o == 0 {
			continue
		}
		if c.sb.ro&roOrphanPresent == 0 || o < c.sb.firstIno || o > c.sb.inodes || len(c.orphans) >= maxOrphans {
			c.badBlock(ProblemOrphans, file, at, "names inode %d", o)
			return
		}
		c.addOrphan(o)
	}
}

// journal checks the journal's superblock.
func (c *checker) journal() {
	raw := c.sb.raw
	num := le.Uint32(raw[sbJournalInode:])
	if c.sb.compat&compatJournal == 0 {
		if num == journalInode {
			c.minor(ProblemJournal, num, -1, "a journal without has_journal")
		} else if num != 0 {
			c.badInode(ProblemJournal, num, "a journal without has_journal")
		} else if le.Uint32(raw[sbJournalDev:]) != 0 || !allZero(raw[sbJournalUUID:sbJournalUUID+16]) {
			c.badSuper(ProblemJournal, "an external journal without has_journal")
		}
		return
	}
	if le.Uint32(raw[sbJournalDev:]) != 0 || !allZero(raw[sbJournalUUID:sbJournalUUID+16]) {
		c.badInode(ProblemJournal, num, "an external journal, which is not checked, or both kinds")
		return
	}
	j, err := c.fs.openJournal()
	switch {
	case errors.Is(err, ErrUnsupported):
		if j == nil {
			c.badSuper(ProblemJournal, "there is none")
			return
		}
		if f := j.sb; f != nil && be.Uint32(f[jsbIncompat:])&^(jRevoke|j64bit|jAsyncCommit|jCsumV2|jCsumV3|jFastCommit) == 0 &&
			be.Uint32(f[jsbROCompat:]) == 0 && be.Uint32(f[jsbCompat:])&^jCompatCsum == 0 {
			return // features that we do not use, but Linux does
		}
		c.badInode(ProblemJournal, num, "%v", err)
		return
	case isCorrupt(err):
		c.badInode(ProblemJournal, num, "%v", err)
		return
	case err != nil:
		c.err = err
		return
	}
	have := int64(0) // before parse took what the superblock says
	for _, e := range j.extents {
		have += int64(e.n)
	}
	if i := c.rawInode(num); i != nil && (i.size()/c.sb.blockSize < minLog || i.size() > have*c.sb.blockSize || i.links() == 0) {
		c.badInode(ProblemJournal, num, "a journal of %d bytes, %d blocks and %d links", i.size(), have, i.links())
	}
	if n := be.Uint32(j.sb[jsbUsers:]); n > 1 {
		c.badInode(ProblemJournal, num, "has %d users", n)
	}
	if j.start != 0 && !c.dirty {
		c.badInode(ProblemJournal, num, "is not empty, and not to be replayed")
	}
}
