package ext4

// dirPlace is where an entry of a directory was found.
type dirPlace struct {
	ino    uint32
	kind   byte
	l      uint32 // block of the directory
	at     uint64 // on the device
	off    int
	len    int
	before int // entry before it in the block; -1: none
}

func (fs *FS) dirBlocks(dir *inode) uint32 { return uint32(dir.size() / fs.sb.blockSize) }

// find looks a name up. It is ENOENT when it is not there.
func (fs *FS) find(dir *inode, name string) (dirPlace, error) {
	if len(name) > maxName {
		return dirPlace{}, errNameLong
	}
	if dir.has(flagInline) {
		return fs.findInline(dir, name)
	}
	if fs.indexed(dir) && !isDot(name) {
		p, ok, err := fs.dxFind(dir, name)
		if err == nil && !ok {
			err = errNoEntry
		}
		return p, err
	}
	for l := range fs.dirBlocks(dir) {
		if p, ok, err := fs.findAt(dir, l, name); ok || err != nil {
			return p, err
		}
	}
	return dirPlace{}, errNoEntry
}

// findAt looks for a name in one block of a directory.
func (fs *FS) findAt(dir *inode, l uint32, name string) (dirPlace, bool, error) {
	b, at, err := fs.dirBlockAt(dir, l, false)
	if err != nil {
		return dirPlace{}, false, err
	}
	e, before, ok, err := fs.findInBlock(dir, b.data, name)
	if err != nil || !ok {
		return dirPlace{}, false, err
	}
	return dirPlace{e.ino, e.kind, l, at, e.off, e.len, before}, true, nil
}

// child looks a name up and reads the inode that it leads to. A directory must say by its
// entry .. that it is in this one, and the root is in none. As each has one such entry, no
// path leads through a directory twice, and what walks a damaged image ends.
func (fs *FS) child(dir *inode, name string) (*inode, error) {
	i, err := fs.viewChild(dir, name)
	return i.clone(), err
}

// viewChild is child as viewInode is inode.
func (fs *FS) viewChild(dir *inode, name string) (*inode, error) {
	if !dir.isDir() {
		return nil, errNotDir
	}
	p, err := fs.find(dir, name)
	if err != nil {
		return nil, err
	}
	i, err := fs.viewInode(p.ino)
	if err == nil && (i.links() == 0 || p.kind != ftUnknown && p.kind != typeOf(i.mode())) {
		err = corruptf("the entry of inode %d in directory %d", p.ino, dir.num)
	}
	if err != nil || !i.isDir() {
		return i, err
	}
	// The entry .. of the root is the only one that does not tell where a directory is.
	if i.num == rootInode {
		return nil, corruptf("the root is in directory %d", dir.num)
	}
	up, err := fs.parentOf(i)
	if err == nil && up != dir.num {
		err = corruptf("directory %d is in directory %d and says that it is in %d", i.num, dir.num, up)
	}
	return i, err
}

// parentOf returns the directory that a directory is in.
func (fs *FS) parentOf(dir *inode) (uint32, error) {
	if dir.has(flagInline) {
		return le.Uint32(dir.area()), nil
	}
	b, _, err := fs.dirBlockAt(dir, 0, fs.indexed(dir))
	if err != nil {
		return 0, err
	}
	first := int(le.Uint16(b.data[4:]))
	if first != 12 || b.data[12+6] != 2 || string(b.data[20:22]) != ".." {
		return 0, corruptf("directory %d does not begin with . and ..", dir.num)
	}
	return le.Uint32(b.data[12:]), nil
}

// setParent changes where ".." of a directory leads.
func (fs *FS) setParent(dir *inode, parent uint32) error {
	if _, err := fs.parentOf(dir); err != nil {
		return err
	}
	_, at, err := fs.dirBlockAt(dir, 0, fs.indexed(dir))
	if err != nil {
		return err
	}
	b, err := fs.mod(at)
	if err != nil {
		return err
	}
	le.PutUint32(b[12:], parent)
	if fs.indexed(dir) {
		fs.sealIndex(dir, 0, b)
	} else {
		fs.sealDir(dir, b)
	}
	return nil
}

// appendDirBlock adds a block to a directory. The caller fills and seals it.
func (fs *FS) appendDirBlock(dir *inode) (l uint32, data []byte, err error) {
	l = fs.dirBlocks(dir)
	goal := fs.sb.groupStart((dir.num - 1) / fs.sb.inodesPer)
	if l > 0 {
		if e, err := fs.lookup(dir, l-1); err == nil && e.start != 0 {
			goal = e.start + uint64(l-e.logical)
		}
	}
	r, err := fs.alloc(goal, 1)
	if err != nil {
		return 0, nil, err
	}
	if err := fs.insertExtent(dir, extent{logical: l, n: 1, start: r.start}); err != nil {
		return 0, nil, err
	}
	fs.addBlocks(dir, 1)
	fs.setSize(dir, int64(l+1)*fs.sb.blockSize)
	return l, fs.fresh(r.start), nil
}

// addEntry adds a name that is not there to a directory. The caller stores the inode.
func (fs *FS) addEntry(dir *inode, name string, ino uint32, kind byte) error {
	if !dir.has(flagExtents) {
		return unsupportedf("adding to directory %d, which has no extents", dir.num)
	}
	fs.touch(dir, stampMtime, stampCtime)
	if fs.indexed(dir) {
		return fs.dxAdd(dir, ino, kind, name)
	}
	blocks := fs.dirBlocks(dir)
	// A directory grows at its end, where room is found first.
	for k := range blocks {
		l := blocks - 1 - k
		b, at, err := fs.dirBlockAt(dir, l, false)
		if err != nil {
			return err
		}
		if done, err := fs.addToBlock(dir, b, at, ino, kind, name); err != nil || done {
			return err
		}
	}
	if blocks == 1 && fs.sb.compat&compatDirIndex != 0 {
		if err := fs.makeIndex(dir); err != nil {
			return err
		}
		return fs.dxAdd(dir, ino, kind, name)
	}
	_, data, err := fs.appendDirBlock(dir)
	if err != nil {
		return err
	}
	fs.emptyBlock(dir, data)
	fs.addAt(dir, data, room{len: fs.dirEnd()}, ino, kind, name)
	return nil
}

// removeEntry removes the entry that find found. The caller stores the inode.
func (fs *FS) removeEntry(dir *inode, p dirPlace) error {
	fs.moves++
	b, err := fs.mod(p.at)
	if err != nil {
		return err
	}
	fs.takeFromBlock(dir, b, dirent{off: p.off, len: p.len}, p.before)
	fs.touch(dir, stampMtime, stampCtime)
	return nil
}

// setEntry makes an entry lead to another inode. The caller stores the directory's.
func (fs *FS) setEntry(dir *inode, p dirPlace, ino uint32, kind byte) error {
	fs.moves++
	b, err := fs.mod(p.at)
	if err != nil {
		return err
	}
	le.PutUint32(b[p.off:], ino)
	b[p.off+7] = kind
	fs.sealDir(dir, b)
	fs.touch(dir, stampMtime, stampCtime)
	return nil
}

// initDir gives a new directory its first block.
func (fs *FS) initDir(dir *inode, parent uint32) error {
	initExtNode(dir.area(), 0, 0)
	le.PutUint32(dir.raw[inFlags:], dir.flags()|flagExtents)
	_, b, err := fs.appendDirBlock(dir)
	if err != nil {
		return err
	}
	putEntry(b, dir.num, 12, ftDir, ".")
	putEntry(b[12:], parent, fs.dirEnd()-12, ftDir, "..")
	fs.sealDir(dir, b)
	return nil
}

// isEmpty reports whether a directory holds nothing.
func (fs *FS) isEmpty(dir *inode) (bool, error) {
	if dir.has(flagInline) {
		list, err := fs.inlineEntries(dir)
		return len(list) == 0, err
	}
	empty := true
	for l := range fs.dirBlocks(dir) {
		index := false
		if fs.indexed(dir) {
			if l == 0 {
				continue
			}
			var err error
			if index, err = fs.isIndexBlock(dir, l); err != nil {
				return false, err
			}
		}
		if index {
			continue
		}
		b, _, err := fs.dirBlockAt(dir, l, false)
		if err != nil {
			return false, err
		}
		err = fs.eachEntry(dir.num, b.data, fs.dirEnd(), func(e dirent) bool {
			empty = isDot(string(e.name))
			return !empty
		})
		if err != nil || !empty {
			return false, err
		}
	}
	return true, nil
}

// isIndexBlock reports whether a block of an indexed directory is an inner node.
func (fs *FS) isIndexBlock(dir *inode, l uint32) (bool, error) {
	if l == 0 {
		return true, nil
	}
	e, err := fs.lookup(dir, l)
	if err != nil {
		return false, err
	}
	if e.start == 0 {
		return false, corruptf("directory %d has a hole", dir.num)
	}
	b, err := fs.get(e.start + uint64(l-e.logical))
	if err != nil {
		return false, err
	}
	n := int(le.Uint16(b.data[4:]))
	return le.Uint32(b.data) == 0 && (n == len(b.data) || len(b.data) == 65536 && (n == 0 || n == 65535)), nil
}
