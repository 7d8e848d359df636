package ext4

import (
	"slices"
)

// setIndexChecksum sets the checksum of a changed inner node.
func (fs *FS) setIndexChecksum(dir *inode, l uint32, b []byte) {
	if fs.sb.metadataCsum {
		sum, end := fs.indexChecksum(dir, l, b)
		le.PutUint32(b[end+4:], sum)
	}
}

// addByIndex adds an entry to the leaf for its hash, and splits leaf and inner nodes as
// needed.
func (fs *FS) addByIndex(dir *inode, ino uint32, kind byte, name string) error {
	hash, err := fs.hashForDir(dir, name)
	if err != nil {
		return err
	}
	for {
		path, err := fs.findIndexPath(dir, hash)
		if err != nil {
			return err
		}
		leaf := leafBlockOf(path)
		b, at, err := fs.readDirBlock(dir, leaf, false)
		if err != nil {
			return err
		}
		if done, err := fs.addEntryToBlock(dir, b, at, ino, kind, name); err != nil || done {
			return err
		}
		last := &path[len(path)-1]
		if n := last.indexNode(); n.entryCount() == n.entryLimit() {
			if err := fs.splitIndexNode(dir, path, len(path)-1); err != nil {
				return err
			}
			continue
		}
		if err := fs.splitIndexLeaf(dir, last, at); err != nil {
			return err
		}
	}
}

// modifyIndexNode makes an inner node changeable.
func (fs *FS) modifyIndexNode(s *dxStep) error {
	data, err := fs.modifyBlock(s.blockNumber)
	s.data = data
	return err
}

// splitIndexLeaf moves the upper half of a leaf's entries to a new leaf. If entries of one
// hash end up in both, the new leaf's hash is odd, which tells searches to go on there.
func (fs *FS) splitIndexLeaf(dir *inode, up *dxStep, at uint64) error {
	version, err := fs.indexHashVersion(dir)
	if err != nil {
		return err
	}
	old, err := fs.modifyBlock(at)
	if err != nil {
		return err
	}
	list, err := fs.hashEntries(dir, slices.Clone(old), version)
	if err != nil {
		return err
	}
	if len(list) < 2 {
		return corruptf("an index leaf of directory %d cannot be split", dir.num)
	}
	total, half, cut := 0, 0, 0
	for _, e := range list {
		total += entryLength(len(e.name))
	}
	for cut < len(list)-1 && half < total/2 {
		half += entryLength(len(list[cut].name))
		cut++
	}
	// The leaf is cut in two by the size of its entries, in the order of hashes.
	hash := list[cut].major
	if list[cut-1].major == hash {
		hash |= 1 // names of this hash lie in both
	}
	logical, fresh, err := fs.appendDirBlock(dir)
	if err != nil {
		return err
	}
	fs.writeLeafEntries(dir, old, list[:cut])
	fs.writeLeafEntries(dir, fresh, list[cut:])
	if err := fs.modifyIndexNode(up); err != nil {
		return err
	}
	up.indexNode().insertEntry(up.entry+1, hash, logical)
	fs.setIndexChecksum(dir, up.logical, up.data)
	return nil
}

// writeLeafEntries fills a block with entries.
func (fs *FS) writeLeafEntries(dir *inode, b []byte, list []hashedEntry) {
	clear(b)
	off, end := 0, fs.entriesEnd()
	for i, e := range list {
		n := entryLength(len(e.name))
		if i == len(list)-1 {
			n = end - off
		}
		putEntry(b[off:], e.ino, n, e.kind, string(e.name))
		off += n
	}
	if len(list) == 0 {
		le.PutUint16(b[4:], uint16(end))
	}
	fs.setDirChecksum(dir, b)
}

// splitIndexNode makes room in the inner node at level lvl of a path. The path is invalid
// afterwards.
func (fs *FS) splitIndexNode(dir *inode, path []dxStep, lvl int) error {
	if lvl == 0 {
		return fs.deepenIndex(dir, &path[0])
	}
	split, parent := &path[lvl], &path[lvl-1]
	if n := parent.indexNode(); n.entryCount() == n.entryLimit() {
		return fs.splitIndexNode(dir, path, lvl-1)
	}
	if err := fs.modifyIndexNode(split); err != nil {
		return err
	}
	if err := fs.modifyIndexNode(parent); err != nil {
		return err
	}
	logical, fresh, err := fs.appendDirBlock(dir)
	if err != nil {
		return err
	}
	n := split.indexNode()
	count := n.entryCount()
	keep := count / 2
	hash := n.hashAt(keep)
	right := fs.initIndexNode(fresh, logical)
	copy(right[dxEntry:], n[dxEntry*(keep+1):dxEntry*count])
	le.PutUint32(right[4:], n.childBlock(keep))
	right.setLimitAndCount(right.entryLimit(), count-keep)
	clear(n[dxEntry*keep : dxEntry*count])
	n.setLimitAndCount(n.entryLimit(), keep)
	parent.indexNode().insertEntry(parent.entry+1, hash, logical)
	fs.setIndexChecksum(dir, logical, fresh)
	fs.setIndexChecksum(dir, split.logical, split.data)
	fs.setIndexChecksum(dir, parent.logical, parent.data)
	return nil
}

// initIndexNode turns a block into an inner node without entries.
func (fs *FS) initIndexNode(b []byte, l uint32) dxNode {
	clear(b)
	le.PutUint16(b[4:], uint16(len(b)))
	n := dxNode(b[dxNodeEntries:])
	n.setLimitAndCount(fs.dxEntryLimit(l), 0)
	return n
}

// deepenIndex adds a level: the root's entries move to a new node beneath it.
func (fs *FS) deepenIndex(dir *inode, root *dxStep) error {
	most := byte(1)
	if fs.sb.incompat&incompatLargeDir != 0 {
		most = 2
	}
	if root.data[dxRootInfo+6] >= most {
		return errNoSpace // the index has reached its depth; Linux returns the same
	}
	if err := fs.modifyIndexNode(root); err != nil {
		return err
	}
	logical, fresh, err := fs.appendDirBlock(dir)
	if err != nil {
		return err
	}
	n := root.indexNode()
	count := n.entryCount()
	child := fs.initIndexNode(fresh, logical)
	copy(child[4:], n[4:dxEntry*count])
	child.setLimitAndCount(child.entryLimit(), count)
	clear(n[4 : dxEntry*count])
	n.setLimitAndCount(n.entryLimit(), 1)
	le.PutUint32(n[4:], logical)
	root.data[dxRootInfo+6]++
	fs.setIndexChecksum(dir, logical, fresh)
	fs.setIndexChecksum(dir, 0, root.data)
	return nil
}

// convertToIndexed gives a directory of one full block an index: the entries move to a
// leaf, and block 0 becomes the root.
func (fs *FS) convertToIndexed(dir *inode) error {
	b, at, err := fs.readDirBlock(dir, 0, false)
	if err != nil {
		return err
	}
	version := fs.sb.raw[sbHashVersion]
	list, err := fs.hashEntries(dir, slices.Clone(b.data), version)
	if err != nil {
		return err
	}
	if _, _, ok := fs.sb.hash.hashName(version, ""); !ok {
		return unsupportedf("directories ordered by hash %d", version)
	}
	parent := le.Uint32(b.data[12:])
	list = slices.DeleteFunc(list, func(e hashedEntry) bool { return isDotName(string(e.name)) })
	l, fresh, err := fs.appendDirBlock(dir)
	if err != nil {
		return err
	}
	fs.writeLeafEntries(dir, fresh, list)
	root, err := fs.modifyBlock(at)
	if err != nil {
		return err
	}
	clear(root)
	putEntry(root, dir.num, 12, ftDir, ".")
	putEntry(root[12:], parent, len(root)-12, ftDir, "..")
	root[dxRootInfo+4], root[dxRootInfo+5] = version, dxRootEntries-dxRootInfo
	n := dxNode(root[dxRootEntries:])
	n.setLimitAndCount(fs.dxEntryLimit(0), 1)
	le.PutUint32(n[4:], l)
	fs.setIndexChecksum(dir, 0, root)
	le.PutUint32(dir.raw[inFlags:], dir.flags()|flagIndexed)
	return nil
}
