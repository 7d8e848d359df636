package ext4

// entryLocation is where an entry of a directory was found.
type entryLocation struct {
	ino    uint32
	kind   byte
	l      uint32 // block of the directory
	at     uint64 // on the device
	off    int
	len    int
	before int // entry before it in the block; -1: none
}

// dirBlockCount returns how many blocks a directory has.
func (fs *FS) dirBlockCount(dir *inode) uint32 { return uint32(dir.size() / fs.sb.blockSize) }

// findEntry looks a name up in a directory. ENOENT; ENAMETOOLONG.
func (fs *FS) findEntry(dir *inode, name string) (entryLocation, error) {
	if len(name) > maxName {
		return entryLocation{}, errNameLong
	}
	if dir.hasFlag(flagInline) {
		return fs.findInlineEntry(dir, name)
	}
	if fs.usesIndex(dir) && !isDotName(name) {
		p, ok, err := fs.findByIndex(dir, name)
		if err == nil && !ok {
			err = errNoEntry
		}
		return p, err
	}
	for l := range fs.dirBlockCount(dir) {
		if p, ok, err := fs.findEntryAt(dir, l, name); ok || err != nil {
			return p, err
		}
	}
	return entryLocation{}, errNoEntry
}

// findEntryAt looks for a name in one block of a directory.
func (fs *FS) findEntryAt(dir *inode, logical uint32, name string) (entryLocation, bool, error) {
	b, at, err := fs.readDirBlock(dir, logical, false)
	if err != nil {
		return entryLocation{}, false, err
	}
	e, before, ok, err := fs.findEntryInBlock(dir, b.data, name)
	if err != nil || !ok {
		return entryLocation{}, false, err
	}
	return entryLocation{e.ino, e.kind, logical, at, e.off, e.len, before}, true, nil
}

// lookupChild looks a name up and reads its inode. A directory must name this one in its
// entry "..", and the root is in none. Each directory has one such entry, so no path leads
// through a directory twice, and walks through a damaged image end.
func (fs *FS) lookupChild(dir *inode, name string) (*inode, error) {
	i, err := fs.viewChild(dir, name)
	return i.cloneInode(), err
}

// viewChild is lookupChild without the copy: see viewInode.
func (fs *FS) viewChild(dir *inode, name string) (*inode, error) {
	if !dir.isDir() {
		return nil, errNotDir
	}
	p, err := fs.findEntry(dir, name)
	if err != nil {
		return nil, err
	}
	i, err := fs.viewInode(p.ino)
	if err == nil && (i.linkCount() == 0 || p.kind != ftUnknown && p.kind != entryTypeOf(i.mode())) {
		err = corruptf("the entry for inode %d in directory %d does not fit the inode", p.ino, dir.num)
	}
	if err != nil || !i.isDir() {
		return i, err
	}
	// The entry .. of the root is the only one that does not tell where a directory is.
	if i.num == rootInode {
		return nil, corruptf("directory %d has an entry for the root directory", dir.num)
	}
	up, err := fs.parentInode(i)
	if err == nil && up != dir.num {
		err = corruptf("directory %d is in directory %d, but its entry \"..\" names %d", i.num, dir.num, up)
	}
	return i, err
}

// parentInode returns the inode number in a directory's entry "..".
func (fs *FS) parentInode(dir *inode) (uint32, error) {
	if dir.hasFlag(flagInline) {
		return le.Uint32(dir.blockArea()), nil
	}
	b, _, err := fs.readDirBlock(dir, 0, fs.usesIndex(dir))
	if err != nil {
		return 0, err
	}
	first := int(le.Uint16(b.data[4:]))
	if first != 12 || b.data[12+6] != 2 || string(b.data[20:22]) != ".." {
		return 0, corruptf("directory %d does not begin with . and ..", dir.num)
	}
	return le.Uint32(b.data[12:]), nil
}

// setParentEntry changes a directory's entry "..".
func (fs *FS) setParentEntry(dir *inode, parent uint32) error {
	if _, err := fs.parentInode(dir); err != nil {
		return err
	}
	_, at, err := fs.readDirBlock(dir, 0, fs.usesIndex(dir))
	if err != nil {
		return err
	}
	b, err := fs.modifyBlock(at)
	if err != nil {
		return err
	}
	le.PutUint32(b[12:], parent)
	if fs.usesIndex(dir) {
		fs.setIndexChecksum(dir, 0, b)
	} else {
		fs.setDirChecksum(dir, b)
	}
	return nil
}

// appendDirBlock adds a zeroed block to a directory. The caller fills it and sets its
// checksum.
func (fs *FS) appendDirBlock(dir *inode) (logical uint32, data []byte, err error) {
	logical = fs.dirBlockCount(dir)
	goal := fs.sb.groupStart((dir.num - 1) / fs.sb.inodesPerGroup)
	if logical > 0 {
		if e, err := fs.lookupExtent(dir, logical-1); err == nil && e.start != 0 {
			goal = e.start + uint64(logical-e.logical)
		}
	}
	r, err := fs.allocBlocks(goal, 1)
	if err != nil {
		return 0, nil, err
	}
	if err := fs.insertExtent(dir, extent{logical: logical, n: 1, start: r.start}); err != nil {
		return 0, nil, err
	}
	fs.changeBlockCount(dir, 1)
	fs.setFileSize(dir, int64(logical+1)*fs.sb.blockSize)
	return logical, fs.createZeroedBlock(r.start), nil
}

// addEntry adds a name to a directory that does not have it. A directory of one full block
// gets an index first. The caller stores the directory's inode.
func (fs *FS) addEntry(dir *inode, name string, ino uint32, kind byte) error {
	if !dir.hasFlag(flagExtents) {
		return unsupportedf("adding to directory %d, which has no extents", dir.num)
	}
	fs.setTimesToNow(dir, stampMtime, stampCtime)
	if fs.usesIndex(dir) {
		return fs.addByIndex(dir, ino, kind, name)
	}
	blocks := fs.dirBlockCount(dir)
	// A directory grows at its end, where room is found first.
	for k := range blocks {
		l := blocks - 1 - k
		b, at, err := fs.readDirBlock(dir, l, false)
		if err != nil {
			return err
		}
		if done, err := fs.addEntryToBlock(dir, b, at, ino, kind, name); err != nil || done {
			return err
		}
	}
	if blocks == 1 && fs.sb.compat&compatDirIndex != 0 {
		if err := fs.convertToIndexed(dir); err != nil {
			return err
		}
		return fs.addByIndex(dir, ino, kind, name)
	}
	_, data, err := fs.appendDirBlock(dir)
	if err != nil {
		return err
	}
	fs.initEmptyDirBlock(dir, data)
	fs.placeEntry(dir, data, entryRoom{len: fs.entriesEnd()}, ino, kind, name)
	return nil
}

// removeEntry removes an entry that findEntry found. The caller stores the directory's
// inode.
func (fs *FS) removeEntry(dir *inode, p entryLocation) error {
	fs.nameChanges++
	b, err := fs.modifyBlock(p.at)
	if err != nil {
		return err
	}
	fs.removeEntryFromBlock(dir, b, dirent{off: p.off, len: p.len}, p.before)
	fs.setTimesToNow(dir, stampMtime, stampCtime)
	return nil
}

// retargetEntry makes an entry lead to another inode. The caller stores the directory's
// inode.
func (fs *FS) retargetEntry(dir *inode, p entryLocation, ino uint32, kind byte) error {
	fs.nameChanges++
	b, err := fs.modifyBlock(p.at)
	if err != nil {
		return err
	}
	le.PutUint32(b[p.off:], ino)
	b[p.off+7] = kind
	fs.setDirChecksum(dir, b)
	fs.setTimesToNow(dir, stampMtime, stampCtime)
	return nil
}

// initDirectory gives a new directory its first block, with the entries "." and "..".
func (fs *FS) initDirectory(dir *inode, parent uint32) error {
	initExtentNode(dir.blockArea(), 0, 0)
	le.PutUint32(dir.raw[inFlags:], dir.flags()|flagExtents)
	_, b, err := fs.appendDirBlock(dir)
	if err != nil {
		return err
	}
	putEntry(b, dir.num, 12, ftDir, ".")
	putEntry(b[12:], parent, fs.entriesEnd()-12, ftDir, "..")
	fs.setDirChecksum(dir, b)
	return nil
}

// isEmptyDir reports whether a directory has no entries except "." and "..".
func (fs *FS) isEmptyDir(dir *inode) (bool, error) {
	if dir.hasFlag(flagInline) {
		list, err := fs.inlineEntries(dir)
		return len(list) == 0, err
	}
	_, num, err := fs.firstRealEntry(dir, new(uint32))
	return num == 0 && err == nil, err
}

// isIndexBlock reports whether a block of an indexed directory is an inner node.
func (fs *FS) isIndexBlock(dir *inode, logical uint32) (bool, error) {
	if logical == 0 {
		return true, nil
	}
	e, err := fs.lookupExtent(dir, logical)
	if err != nil {
		return false, err
	}
	if e.start == 0 {
		return false, corruptf("directory %d has a hole", dir.num)
	}
	b, err := fs.getBlock(e.start + uint64(logical-e.logical))
	if err != nil {
		return false, err
	}
	n := int(le.Uint16(b.data[4:]))
	return le.Uint32(b.data) == 0 && (n == len(b.data) || len(b.data) == 65536 && (n == 0 || n == 65535)), nil
}
