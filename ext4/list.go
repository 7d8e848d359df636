package ext4

import (
	"cmp"
	"io"
	iofs "io/fs"
	"slices"
)

// Dir is an open directory: a stream of its entries without "." and "..", which takes the
// same memory whatever its size. An entry that exists from OpenDir to the end of the
// stream is returned exactly once, whatever else changes. Not for concurrent use.
type Dir struct {
	fs         *FS
	num        uint32
	generation uint32
	namesOnly  bool
	pending    []Info
	done       bool

	block uint32       // of a directory without index: where to go on
	after *hashedEntry // last entry returned, in a directory that is read in the order of hashes
	hash  uint32       // where to go on
}

// OpenDir opens a directory. With namesOnly entries have only Name, Ino and the type bits
// of Mode. ENOTDIR.
func (fs *FS) OpenDir(path string, namesOnly bool) (*Dir, error) {
	d := &Dir{fs: fs, namesOnly: namesOnly}
	return d, fs.viewPath(path, true, func(i *inode) error {
		if !i.isDir() {
			return errNotDir
		}
		d.num, d.generation = i.num, i.generation()
		return nil
	})
}

// Read returns up to n entries, and io.EOF with none at the end.
func (d *Dir) Read(n int) ([]Info, error) {
	for len(d.pending) == 0 && !d.done {
		if err := d.readNextPart(); err != nil {
			return nil, err
		}
	}
	if len(d.pending) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.pending))
	list := d.pending[:n:n]
	d.pending = d.pending[n:]
	return list, nil
}

// Close ends the use of the directory.
func (d *Dir) Close() error {
	d.done, d.pending = true, nil
	return nil
}

// readNextPart reads the next entries into pending.
func (d *Dir) readNextPart() error {
	fs := d.fs
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	if fs.closed {
		return iofs.ErrClosed
	}
	dir, err := fs.readRawInode(d.num)
	if err != nil {
		return err
	}
	if dir.linkCount() == 0 || !dir.isDir() || dir.generation() != d.generation {
		d.done = true // it was removed
		return nil
	}
	if dir, err = fs.viewInode(d.num); err != nil {
		return err
	}
	switch {
	case dir.hasFlag(flagInline):
		d.done = true
		list, err := fs.inlineEntries(dir)
		if err != nil {
			return err
		}
		return d.appendPending(list)
	case fs.usesIndex(dir) || d.after != nil:
		return d.readNextLeafByHash(dir)
	}
	// One block is read at once, so the directory may get an index afterwards.
	whole := d.block == 0 && fs.dirBlockCount(dir) == 1
	if err := d.readNextBlock(dir); err != nil {
		return err
	}
	d.done = d.done || whole
	return nil
}

// readNextBlock reads one block of a directory without index: entries stay where they are.
func (d *Dir) readNextBlock(dir *inode) error {
	if d.block >= d.fs.dirBlockCount(dir) {
		d.done = true
		return nil
	}
	b, _, err := d.fs.readDirBlock(dir, d.block, false)
	if err != nil {
		return err
	}
	d.block++
	var list []dirent
	err = d.fs.eachEntry(dir.num, b.data, d.fs.entriesEnd(), func(e dirent) bool {
		list = append(list, e)
		return false
	})
	if err != nil {
		return err
	}
	return d.appendPending(list)
}

// readNextLeafByHash reads the next leaf in the order of hashes. This order does not
// change when a leaf is split, or the directory gets an index, between two reads: so no
// entry is missed or returned twice.
func (d *Dir) readNextLeafByHash(dir *inode) error {
	fs := d.fs
	version := fs.sb.raw[sbHashVersion]
	var list []hashedEntry
	next, more := uint32(0), false
	if !fs.usesIndex(dir) {
		for l := range fs.dirBlockCount(dir) {
			if err := d.appendLeafEntries(dir, l, version, &list); err != nil {
				return err
			}
		}
	} else {
		var err error
		if version, err = fs.indexHashVersion(dir); err != nil {
			return err
		}
		path, err := fs.findIndexPath(dir, d.hash)
		for err == nil {
			if err := d.appendLeafEntries(dir, leafBlockOf(path), version, &list); err != nil {
				return err
			}
			if next, more = nextLeafHash(path); !more || next&1 == 0 {
				break
			}
			if len(list) > maxSameHash {
				return corruptf("the index of directory %d is invalid", dir.num)
			}
			err = fs.advanceToNextLeaf(dir, &path) // names of one hash go on there
		}
		if err != nil {
			return err
		}
	}
	slices.SortFunc(list, compareHashed)
	var out []dirent
	for k := range list {
		if d.after == nil || compareHashed(list[k], *d.after) > 0 {
			out = append(out, list[k].dirent)
		}
	}
	if n := len(list); n > 0 {
		if d.after == nil || compareHashed(list[n-1], *d.after) > 0 {
			last := list[n-1]
			last.name = slices.Clone(last.name)
			d.after = &last
		}
	} else if d.after == nil {
		d.after = &hashedEntry{}
	}
	d.hash, d.done = next, !more
	return d.appendPending(out)
}

// maxSameHash bounds the entries of one hash in a directory that can be listed, since they
// are held in memory at once.
const maxSameHash = 1 << 18

// compareHashed orders entries by hash, then by name.
func compareHashed(a, b hashedEntry) int {
	return cmp.Or(cmp.Compare(a.major, b.major), cmp.Compare(a.minor, b.minor), slices.Compare(a.name, b.name))
}

// appendLeafEntries adds the entries of one block to list.
func (d *Dir) appendLeafEntries(dir *inode, l uint32, version byte, list *[]hashedEntry) error {
	b, _, err := d.fs.readDirBlock(dir, l, false)
	if err != nil {
		return err
	}
	part, err := d.fs.hashEntries(dir, b.data, version)
	for _, h := range part {
		if !isDotName(string(h.name)) {
			*list = append(*list, h)
		}
	}
	return err
}

// appendPending describes entries and makes them the pending ones.
func (d *Dir) appendPending(list []dirent) error {
	d.pending = make([]Info, 0, len(list))
	for _, e := range list {
		name := string(e.name)
		if isDotName(name) {
			continue
		}
		if d.namesOnly && e.kind != ftUnknown {
			d.pending = append(d.pending, Info{Name: name, Ino: e.ino, Mode: fileModeOf(modeOfEntryType(e.kind))})
			continue
		}
		i, err := d.fs.viewInode(e.ino)
		if err != nil {
			return err
		}
		d.pending = append(d.pending, d.fs.inodeInfo(i, name))
	}
	return nil
}
