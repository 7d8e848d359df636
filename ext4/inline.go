package ext4

// Small files and directories may lie in their inode (inline_data): 60 bytes in the
// place of the block mapping, the rest in an extended attribute. Such images are
// read, not written.

// readInlineData returns the content that lies in an inode. A regular file may be longer:
// the rest is zeros.
func (fs *FS) readInlineData(i *inode) ([]byte, error) {
	data := append([]byte(nil), i.blockArea()...)
	list, err := fs.readBodyXattrs(i)
	if err != nil {
		return nil, err
	}
	for _, x := range list {
		if x.index == xattrSystem && x.name == "data" {
			v, err := fs.readXattrValue(x)
			if err != nil {
				return nil, err
			}
			data = append(data, v...)
		}
	}
	if i.size() > int64(len(data)) && !i.isRegular() {
		return nil, corruptf("the inline data of inode %d is invalid", i.num)
	}
	return data[:min(i.size(), int64(len(data)))], nil
}

// inlineEntries returns the entries of a directory that lies in its inode: the number of
// its parent comes first, then two rows of entries.
func (fs *FS) inlineEntries(dir *inode) ([]dirent, error) {
	data, err := fs.readInlineData(dir)
	if err != nil {
		return nil, err
	}
	if len(data) < 4 {
		return nil, corruptf("the inline data of directory %d is invalid", dir.num)
	}
	var list []dirent
	bad := false
	for _, part := range [][]byte{data[4:min(len(data), blockAreaLen)], data[min(len(data), blockAreaLen):]} {
		err := fs.eachEntry(dir.num, part, len(part), func(e dirent) bool {
			bad = bad || invalidEntryName(e.name) || isDotName(string(e.name))
			list = append(list, e)
			return false
		})
		if err != nil {
			return nil, err
		}
	}
	if bad {
		return nil, corruptf("directory %d has an entry with an invalid name", dir.num)
	}
	return list, nil
}

// findInlineEntry is findEntry for a directory that lies in its inode.
func (fs *FS) findInlineEntry(dir *inode, name string) (entryLocation, error) {
	switch name {
	case ".":
		return entryLocation{ino: dir.num, kind: ftDir}, nil
	case "..":
		return entryLocation{ino: le.Uint32(dir.blockArea()), kind: ftDir}, nil
	}
	list, err := fs.inlineEntries(dir)
	if err != nil {
		return entryLocation{}, err
	}
	for _, e := range list {
		if string(e.name) == name {
			return entryLocation{ino: e.ino, kind: e.kind}, nil
		}
	}
	return entryLocation{}, errNoEntry
}
