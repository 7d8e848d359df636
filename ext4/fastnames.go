package ext4

import "errors"

// replayInode brings an inode to the state that a fast commit logs. Its mapping is kept,
// since ranges are logged apart; so is everything that follows from the names in a
// directory, since Linux logs only the names.
//
// Another generation means that the inode was freed and its number reused: the new file
// gets nothing of the old one. Linux, and e2fsck, leave it the old mapping if no removal
// was replayed before, as when the old file was an orphan in the last transaction; deleted
// data then shows in holes of the new file.
func (r *fastReplay) replayInode(num uint32, raw []byte) error {
	fs := r.fs
	logged := &inode{num, make([]byte, fs.sb.inodeSize)}
	copy(logged.raw, raw)
	if logged.hasFlag(flagInline | flagEncrypted | flagEAInode) {
		return unsupportedf("a fast commit of inode %d with flags %#x; run e2fsck, or mount it once", num, logged.flags())
	}
	if err := fs.checkInodeFields(logged); err != nil {
		return err
	}
	old, err := r.usedInode(num)
	if err != nil {
		return err
	}
	if old != nil && num != rootInode && old.generation() != logged.generation() {
		if err := r.freeUnnamedInode(old); err != nil {
			return err
		}
		old = nil
	}
	if old == nil {
		if err := r.claimInodeNumber(num, logged.isDir()); err != nil {
			return err
		}
		if logged.xattrBlock() != 0 {
			return corruptf("a fast commit gives the new inode %d a block of attributes", num)
		}
		r.initLoggedInode(logged)
		return fs.storeInode(logged)
	}
	if old.fileType() != logged.fileType() || old.hasFlag(flagExtents) != logged.hasFlag(flagExtents) || old.xattrBlock() != logged.xattrBlock() {
		return corruptf("a fast commit makes inode %d another kind of file", num)
	}
	r.keepUnloggedFields(old, logged, len(raw))
	return fs.storeInode(logged)
}

// initLoggedInode turns an inode as logged into a new one without blocks and names.
func (r *fastReplay) initLoggedInode(i *inode) {
	le.PutUint32(i.raw[inDtime:], 0)
	r.fs.setBlockCount(i, 0)
	switch {
	case i.isDir():
		le.PutUint16(i.raw[inLinks:], 0)
		le.PutUint32(i.raw[inFlags:], i.flags()&^uint32(flagIndexed)|flagExtents)
		le.PutUint32(i.raw[inSizeLo:], 0)
		le.PutUint32(i.raw[inSizeHi:], 0)
		initExtentNode(i.blockArea(), 0, 0)
	case i.hasFlag(flagExtents):
		initExtentNode(i.blockArea(), 0, 0)
	case r.fs.mapsBlocks(i):
		clear(i.blockArea())
	}
}

// keepUnloggedFields copies from the old inode the fields that a fast commit does not log;
// n is the number of bytes logged.
func (r *fastReplay) keepUnloggedFields(old, logged *inode, n int) {
	copy(logged.raw[n:], old.raw[n:])
	copy(logged.blockArea(), old.blockArea())
	le.PutUint32(logged.raw[inDtime:], 0)
	if r.orphans[old.num] {
		le.PutUint32(logged.raw[inDtime:], le.Uint32(old.raw[inDtime:]))
	}
	if !old.isDir() {
		return
	}
	copy(logged.raw[inLinks:inLinks+2], old.raw[inLinks:])
	copy(logged.raw[inSizeLo:inSizeLo+4], old.raw[inSizeLo:])
	copy(logged.raw[inSizeHi:inSizeHi+4], old.raw[inSizeHi:])
	le.PutUint32(logged.raw[inFlags:], logged.flags()&^uint32(flagIndexed)|old.flags()&flagIndexed)
}

// claimInodeNumber marks an inode as used. It clears the inodes before it in the table
// that were never used: they would count as used otherwise.
func (r *fastReplay) claimInodeNumber(num uint32, dir bool) error {
	fs := r.fs
	g, index := (num-1)/fs.sb.inodesPerGroup, (num-1)%fs.sb.inodesPerGroup
	bitmap, d, err := fs.modifyGroupBitmap(g, true)
	if err != nil {
		return err
	}
	if testBit(bitmap, uint64(index)) || d.freeInodes() == 0 || fs.counters.freeInodes == 0 {
		return corruptf("group %d counts a wrong number of free inodes", g)
	}
	setBits(bitmap, uint64(index), 1)
	d.setSplitCount(gdFreeInodes, gdFreeInodesHi, d.freeInodes()-1)
	if dir {
		d.setSplitCount(gdDirs, gdDirsHi, d.usedDirs()+1)
	}
	fs.counters.freeInodes--
	r.touched[num] = false
	used := fs.sb.inodesPerGroup - min(d.unusedInodes(), fs.sb.inodesPerGroup)
	if !fs.sb.metadataCsum && fs.sb.roCompat&roGDTCsum == 0 || used > index {
		return nil
	}
	d.setSplitCount(gdUnused, gdUnusedHi, fs.sb.inodesPerGroup-index-1)
	for k := used; d.flags()&groupInodeZeroed == 0 && k < index; k++ {
		raw, err := fs.modifyRawInode(g*fs.sb.inodesPerGroup + k + 1)
		if err != nil {
			return err
		}
		clear(raw)
		if err := r.checkChangeLimit(len(fs.op.undoLog)); err != nil { // a table may be as large as memory
			return err
		}
	}
	return nil
}

// replayAddName gives an inode a name. A new directory gets its first block.
func (r *fastReplay) replayAddName(t fastTag, created bool) error {
	fs := r.fs
	dir, child, err := r.entryInodes(t)
	if dir == nil || child == nil || err != nil {
		return err
	}
	if dir.linkCount() == 0 {
		return corruptf("a fast commit names inode %d in directory %d, which was removed", t.ino, dir.num)
	}
	p, err := fs.findEntry(dir, t.name)
	if err == nil && p.ino == t.ino {
		return nil
	}
	if err == nil {
		return corruptf("a fast commit gives inode %d the name of inode %d", t.ino, p.ino)
	}
	if !errors.Is(err, errNoEntry) {
		return err
	}
	switch {
	case child.isDir() && child.size() == 0:
		if !created {
			return corruptf("a fast commit names directory %d, which it did not make", t.ino)
		}
		if err := fs.initDirectory(child, dir.num); err != nil {
			return err
		}
		le.PutUint16(child.raw[inLinks:], 2)
	case child.isDir():
		if up, err := fs.parentInode(child); err != nil || up != dir.num || child.linkCount() == 0 {
			return corruptf("a fast commit moves directory %d", t.ino)
		}
		r.extraNames[child.num]++
	case created:
		le.PutUint16(child.raw[inLinks:], 1)
	default:
		if err := fs.changeLinkCount(child, 1); err != nil {
			return err
		}
	}
	if child.isDir() {
		if err := fs.changeLinkCount(dir, 1); err != nil {
			return err
		}
	}
	if err := fs.addEntry(dir, t.name, child.num, entryTypeOf(child.mode())); err != nil {
		return err
	}
	return errors.Join(fs.storeInode(dir), fs.storeInode(child))
}

// entryInodes returns the directory and the inode of an entry; nil for one that is not in
// use.
func (r *fastReplay) entryInodes(t fastTag) (dir, i *inode, err error) {
	if t.parent == t.ino {
		return nil, nil, corruptf("a fast commit puts directory %d into itself", t.ino)
	}
	if dir, err = r.usedInode(t.parent); dir == nil || err != nil {
		return nil, nil, err
	}
	if !dir.isDir() {
		return nil, nil, corruptf("a fast commit names a file in inode %d, which is no directory", t.parent)
	}
	if dir.size() == 0 {
		return nil, nil, nil // it was removed before the fast commit, which logs no name of it
	}
	i, err = r.usedInode(t.ino)
	return dir, i, err
}

// replayRemoveName removes a name. An inode without another is freed at the end.
func (r *fastReplay) replayRemoveName(t fastTag) error {
	fs := r.fs
	dir, i, err := r.entryInodes(t)
	if dir == nil || i == nil || err != nil {
		return err
	}
	p, err := fs.findEntry(dir, t.name)
	if errors.Is(err, errNoEntry) {
		return nil
	}
	if err == nil && p.ino != t.ino {
		err = corruptf("a fast commit takes the name of inode %d from inode %d", p.ino, t.ino)
	}
	if err != nil {
		return err
	}
	if err := fs.removeEntry(dir, p); err != nil {
		return err
	}
	if i.isDir() {
		if err := fs.changeLinkCount(dir, -1); err != nil {
			return err
		}
		if r.extraNames[i.num]--; r.extraNames[i.num] < 0 {
			empty, err := fs.isEmptyDir(i)
			if err == nil && !empty {
				err = corruptf("a fast commit removes directory %d, which is not empty", t.ino)
			}
			if err != nil {
				return err
			}
			le.PutUint16(i.raw[inLinks:], 0)
		}
	} else if i.linkCount() > 0 {
		le.PutUint16(i.raw[inLinks:], i.linkCount()-1)
	}
	fs.setTimesToNow(i, stampCtime)
	return errors.Join(fs.storeInode(dir), fs.storeInode(i))
}
