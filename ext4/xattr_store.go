package ext4

import (
	"cmp"
	"slices"
)

// setXattr sets an attribute, or removes it if value is nil. The caller stores the inode.
func (fs *FS) setXattr(i *inode, index byte, name string, value []byte) error {
	list, err := fs.readXattrs(i)
	if err != nil {
		return err
	}
	n := len(list)
	list = slices.DeleteFunc(list, func(x xattr) bool { return x.index == index && x.name == name })
	if value == nil && len(list) == n {
		return errNoXattr
	}
	if value != nil {
		list = append(list, xattr{index: index, name: name, value: value, size: len(value)})
	}
	fs.setTimesToNow(i, stampCtime)
	return fs.storeXattrs(i, list)
}

// storeXattrs replaces all attributes of an inode: the smallest go into the inode while
// there is room, the others into the attribute block.
func (fs *FS) storeXattrs(i *inode, list []xattr) error {
	for _, x := range list {
		if x.inode != 0 {
			return unsupportedf("changing attributes that have inodes of their own")
		}
	}
	// The smallest first, so that as many as possible need no block.
	slices.SortStableFunc(list, func(a, b xattr) int { return cmp.Compare(a.entrySize(), b.entrySize()) })
	var inner []xattr
	if area := i.xattrBodyArea(); area != nil {
		clear(area)
		for room := len(area) - 4 - 4; len(list) > 0 && list[0].entrySize() <= room; list = list[1:] {
			room -= list[0].entrySize()
			inner = append(inner, list[0])
		}
		if len(inner) > 0 {
			le.PutUint32(area, xattrMagic)
			packXattrs(area[4:], 0, inner, false)
		}
	}
	return fs.storeXattrBlock(i, list)
}

// entrySize returns how many bytes an attribute takes, value included.
func (x xattr) entrySize() int { return (xattrEntryLen+len(x.name)+3)&^3 + (len(x.value)+3)&^3 }

// packXattrs writes entries from the front of area and values from its end. All must fit.
// Offsets of values count from shift bytes before area.
func packXattrs(area []byte, shift int, list []xattr, hashes bool) {
	off, end := 0, len(area)
	for _, x := range list {
		e := area[off:]
		e[0], e[1] = byte(len(x.name)), x.index
		if len(x.value) > 0 {
			end -= (len(x.value) + 3) &^ 3
			copy(area[end:], x.value)
			le.PutUint16(e[2:], uint16(end+shift))
		}
		le.PutUint32(e[8:], uint32(len(x.value)))
		if hashes {
			le.PutUint32(e[12:], x.entryHash())
		}
		copy(e[xattrEntryLen:], x.name)
		off += (xattrEntryLen + len(x.name) + 3) &^ 3
	}
}

// entryHash computes an entry's hash, by which Linux finds equal blocks to share.
func (x xattr) entryHash() uint32 {
	h := uint32(0)
	for _, c := range []byte(x.name) {
		h = h<<5 ^ h>>27 ^ uint32(c)
	}
	return addValueHash(h, x.value)
}

// addValueHash adds a value to the hash of a name.
func addValueHash(h uint32, v []byte) uint32 {
	for ; len(v) > 0; v = v[min(4, len(v)):] {
		var w [4]byte
		copy(w[:], v)
		h = h<<16 ^ h>>16 ^ le.Uint32(w[:])
	}
	return h
}

// storeXattrBlock stores attributes in an inode's attribute block; an empty list frees it.
// A block that other inodes share is replaced.
func (fs *FS) storeXattrBlock(i *inode, list []xattr) error {
	old := i.xattrBlock()
	if len(list) == 0 {
		return fs.releaseXattrBlock(i)
	}
	need := 4
	for _, x := range list {
		need += x.entrySize()
	}
	if need > int(fs.sb.blockSize)-xattrHeaderLen {
		return errNoSpace
	}
	// The order that Linux searches by.
	slices.SortFunc(list, func(a, b xattr) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
	})
	blockNumber := old
	if old != 0 {
		b, err := fs.readXattrBlock(i)
		if err != nil {
			return err
		}
		if le.Uint32(b[xattrRefs:]) > 1 {
			if err := fs.releaseXattrBlock(i); err != nil {
				return err
			}
			blockNumber = 0
		}
	}
	if blockNumber == 0 {
		r, err := fs.allocBlocks(fs.sb.groupStart((i.num-1)/fs.sb.inodesPerGroup), 1)
		if err != nil {
			return err
		}
		blockNumber = r.start
		fs.changeBlockCount(i, 1)
		fs.setXattrBlockNumber(i, blockNumber)
	}
	b := fs.createZeroedBlock(blockNumber)
	le.PutUint32(b, xattrMagic)
	le.PutUint32(b[xattrRefs:], 1)
	le.PutUint32(b[8:], 1)
	packXattrs(b[xattrHeaderLen:], xattrHeaderLen, list, true)
	var h uint32
	for _, x := range list {
		h = h<<16 ^ h>>16 ^ x.entryHash()
	}
	le.PutUint32(b[xattrHash:], h)
	if fs.sb.metadataCsum {
		le.PutUint32(b[xattrSum:], fs.xattrBlockChecksum(blockNumber, b))
	}
	return nil
}

// setXattrBlockNumber sets which attribute block an inode has.
func (fs *FS) setXattrBlockNumber(i *inode, at uint64) {
	le.PutUint32(i.raw[inFileACL:], uint32(at))
	le.PutUint16(i.raw[inFileACLHi:], uint16(at>>32))
}

// releaseXattrBlock takes the attribute block from an inode, and frees it if no other
// shares it.
func (fs *FS) releaseXattrBlock(i *inode) error {
	at := i.xattrBlock()
	if at == 0 {
		return nil
	}
	old, err := fs.readXattrBlock(i)
	if err != nil {
		return err
	}
	fs.setXattrBlockNumber(i, 0)
	refs := le.Uint32(old[xattrRefs:])
	if refs <= 1 {
		return fs.freeMetadataBlock(i, at)
	}
	b, err := fs.modifyBlock(at)
	if err != nil {
		return err
	}
	le.PutUint32(b[xattrRefs:], refs-1)
	if fs.sb.metadataCsum {
		le.PutUint32(b[xattrSum:], fs.xattrBlockChecksum(at, b))
	}
	fs.changeBlockCount(i, -1)
	return nil
}
