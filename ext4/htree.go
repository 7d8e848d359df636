package ext4

import (
	"cmp"
	"slices"
	"sort"
)

// The index of a directory (dir_index, htree) is a tree whose leaves are ordinary blocks of
// entries, each with the names of one range of hashes. To readers without dir_index, inner
// nodes look like empty blocks; the root, block 0, begins with the entries "." and "..".
const (
	dxRootInfo    = 24 // in the root: fields after the two entries
	dxRootEntries = 32
	dxNodeEntries = 8
	dxEntry       = 8
	dxTail        = 8
	dxBlockMask   = 0x0fffffff
)

// dxNode is the table in an inner node of the index: pairs of a hash and a block of the
// directory. The first pair needs no hash: limit and count are in its place.
type dxNode []byte

func (n dxNode) entryLimit() int         { return int(le.Uint16(n)) }
func (n dxNode) entryCount() int         { return int(le.Uint16(n[2:])) }
func (n dxNode) childBlock(i int) uint32 { return le.Uint32(n[dxEntry*i+4:]) & dxBlockMask }

// hashAt returns the first hash of the range that entry i leads to.
func (n dxNode) hashAt(i int) uint32 {
	if i == 0 {
		return 0
	}
	return le.Uint32(n[dxEntry*i:])
}

// setLimitAndCount writes how many entries the node can have, and how many it has.
func (n dxNode) setLimitAndCount(room, count int) {
	le.PutUint16(n, uint16(room))
	le.PutUint16(n[2:], uint16(count))
}

// insertEntry inserts an entry at i. The node must not be full.
func (n dxNode) insertEntry(i int, hash, block uint32) {
	c := n.entryCount()
	copy(n[dxEntry*(i+1):dxEntry*(c+1)], n[dxEntry*i:dxEntry*c])
	le.PutUint32(n[dxEntry*i:], hash)
	le.PutUint32(n[dxEntry*i+4:], block)
	n.setLimitAndCount(n.entryLimit(), c+1)
}

// findEntryFor returns the last entry whose hash is not above h.
func (n dxNode) findEntryFor(h uint32) int {
	return sort.Search(n.entryCount()-1, func(i int) bool { return n.hashAt(i+1) > h })
}

// usesIndex reports whether names of a directory are looked up by its index. The index of
// a casefolded directory hashes folded names, so such a directory is searched from end to
// end.
func (fs *FS) usesIndex(dir *inode) bool {
	return dir.hasFlag(flagIndexed) && fs.sb.compat&compatDirIndex != 0 && !dir.hasFlag(flagInline|flagCasefold)
}

// dxEntriesOffset returns where the table begins in an inner node: block 0 is the root.
func dxEntriesOffset(l uint32) int {
	if l == 0 {
		return dxRootEntries
	}
	return dxNodeEntries
}

// dxEntryLimit returns how many entries the inner node at block l can have.
func (fs *FS) dxEntryLimit(l uint32) int {
	n := int(fs.sb.blockSize) - dxEntriesOffset(l)
	if fs.sb.metadataCsum {
		n -= dxTail
	}
	return n / dxEntry
}

// checkIndexBlock checks an inner node of the index.
func (fs *FS) checkIndexBlock(dir *inode, l uint32, b []byte) error {
	bad := func() error { return corruptf("the index of directory %d is invalid", dir.num) }
	if l == 0 && (b[dxRootInfo+5] != dxRootEntries-dxRootInfo || b[dxRootInfo+6] > 2 ||
		le.Uint16(b[4:]) != 12 || b[6] != 1 || b[8] != '.') {
		return bad()
	}
	n := dxNode(b[dxEntriesOffset(l):])
	if n.entryLimit() != fs.dxEntryLimit(l) || n.entryCount() < 1 || n.entryCount() > n.entryLimit() {
		return bad()
	}
	for i := 1; i < n.entryCount(); i++ {
		if i > 1 && n.hashAt(i) < n.hashAt(i-1) { // equal: names of one hash fill leaves

			return bad()
		}
	}
	if !fs.sb.metadataCsum {
		return nil
	}
	if sum, end := fs.indexChecksum(dir, l, b); sum != le.Uint32(b[end+4:]) {
		return corruptf("the index of directory %d has a wrong checksum", dir.num)
	}
	return nil
}

// indexChecksum computes the checksum of an inner node, and returns where its tail begins.
func (fs *FS) indexChecksum(dir *inode, l uint32, b []byte) (sum uint32, end int) {
	off := dxEntriesOffset(l)
	n := dxNode(b[off:])
	end = off + dxEntry*n.entryLimit()
	c := ownedBlockChecksum(fs.sb.csumSeed, dir.num, dir.generation(), b[:off+dxEntry*n.entryCount()])
	return crc32c(crc32c(c, b[end:end+4]), zeros[:4]), end
}

// dxStep is one inner node on the path to a leaf.
type dxStep struct {
	logical     uint32 // block of the directory
	blockNumber uint64 // on the device
	data        []byte
	entry       int
}

func (s *dxStep) indexNode() dxNode { return dxNode(s.data[dxEntriesOffset(s.logical):]) }

// findIndexPath finds the path to the leaf for a hash.
func (fs *FS) findIndexPath(dir *inode, hash uint32) ([]dxStep, error) {
	path := make([]dxStep, 0, 3)
	l, levels := uint32(0), 0
	for {
		b, at, err := fs.readDirBlock(dir, l, true)
		if err != nil {
			return nil, err
		}
		if l == 0 {
			levels = int(b.data[dxRootInfo+6])
		}
		s := dxStep{logical: l, blockNumber: at, data: b.data}
		s.entry = s.indexNode().findEntryFor(hash)
		path = append(path, s)
		if l = s.indexNode().childBlock(s.entry); l == 0 {
			return nil, corruptf("the index of directory %d is invalid", dir.num)
		}
		if len(path) > levels {
			return path, nil
		}
	}
}

// leafBlockOf returns the block of the directory that a path leads to.
func leafBlockOf(path []dxStep) uint32 {
	s := &path[len(path)-1]
	return s.indexNode().childBlock(s.entry)
}

// nextLeafHash returns the hash at which the leaf after a path's begins; false if it is
// the last.
func nextLeafHash(path []dxStep) (uint32, bool) {
	for i := len(path) - 1; i >= 0; i-- {
		if n := path[i].indexNode(); path[i].entry+1 < n.entryCount() {
			return n.hashAt(path[i].entry + 1), true
		}
	}
	return 0, false
}

// advanceToNextLeaf moves a path to the next leaf, which must exist.
func (fs *FS) advanceToNextLeaf(dir *inode, path *[]dxStep) error {
	p := *path
	lvl := len(p) - 1
	for p[lvl].entry+1 >= p[lvl].indexNode().entryCount() {
		lvl--
	}
	p[lvl].entry++
	for ; lvl+1 < len(p); lvl++ {
		l := p[lvl].indexNode().childBlock(p[lvl].entry)
		b, at, err := fs.readDirBlock(dir, l, true)
		if err != nil {
			return err
		}
		p[lvl+1] = dxStep{logical: l, blockNumber: at, data: b.data}
	}
	return nil
}

// hashForDir computes the hash of a name with the function of a directory's index.
// ErrUnsupported: the function is unknown.
func (fs *FS) hashForDir(dir *inode, name string) (uint32, error) {
	version, err := fs.indexHashVersion(dir)
	if err != nil {
		return 0, err
	}
	hash, _, ok := fs.sb.hash.hashName(version, name)
	if !ok {
		return 0, unsupportedf("directory %d is ordered by hash %d", dir.num, version)
	}
	return hash, nil
}

// findByIndex looks a name up by the index of a directory.
func (fs *FS) findByIndex(dir *inode, name string) (found entryLocation, ok bool, err error) {
	hash, err := fs.hashForDir(dir, name)
	if err != nil {
		return found, false, err
	}
	path, err := fs.findIndexPath(dir, hash)
	for err == nil {
		if found, ok, err = fs.findEntryAt(dir, leafBlockOf(path), name); ok || err != nil {
			return found, ok, err
		}
		// Names of one hash may go on in the next leaf, which then says so by an odd one.
		if next, more := nextLeafHash(path); !more || next != hash|1 {
			return found, false, nil
		}
		err = fs.advanceToNextLeaf(dir, &path)
	}
	return found, false, err
}

// hashedEntry is an entry of a leaf with the hash of its name.
type hashedEntry struct {
	major, minor uint32
	dirent
}

// hashEntries returns a leaf's entries in the order of their hashes.
func (fs *FS) hashEntries(dir *inode, b []byte, version byte) ([]hashedEntry, error) {
	var list []hashedEntry
	err := fs.eachEntry(dir.num, b, fs.entriesEnd(), func(e dirent) bool {
		h := hashedEntry{dirent: e}
		h.major, h.minor, _ = fs.sb.hash.hashName(version, string(e.name))
		list = append(list, h)
		return false
	})
	slices.SortStableFunc(list, func(a, b hashedEntry) int {
		return cmp.Or(cmp.Compare(a.major, b.major), cmp.Compare(a.minor, b.minor))
	})
	return list, err
}

// indexHashVersion returns the hash function of a directory's index.
func (fs *FS) indexHashVersion(dir *inode) (byte, error) {
	b, _, err := fs.readDirBlock(dir, 0, true)
	if err != nil {
		return 0, err
	}
	return b.data[dxRootInfo+4], nil
}

// isDotName reports whether a name is "." or "..".
func isDotName(name string) bool { return name == "." || name == ".." }
