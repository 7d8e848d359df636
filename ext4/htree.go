package ext4

import (
	"cmp"
	"slices"
	"sort"
)

// An indexed directory is a tree whose leaves are ordinary blocks of entries, each
// with the names of one range of hashes. Its inner nodes look like empty blocks to who
// knows nothing of it; the root, block 0, begins with the entries "." and "..".
const (
	dxRootInfo    = 24 // of the root: what follows the two entries
	dxRootEntries = 32
	dxNodeEntries = 8
	dxEntry       = 8
	dxTail        = 8
	dxBlockMask   = 0x0fffffff
)

// dxNode is the table of an inner node: entries of a hash and a block of the
// directory. In place of the first hash, which would be 0, stand room and count.
type dxNode []byte

func (n dxNode) room() int          { return int(le.Uint16(n)) }
func (n dxNode) count() int         { return int(le.Uint16(n[2:])) }
func (n dxNode) block(i int) uint32 { return le.Uint32(n[dxEntry*i+4:]) & dxBlockMask }

func (n dxNode) hash(i int) uint32 {
	if i == 0 {
		return 0
	}
	return le.Uint32(n[dxEntry*i:])
}

func (n dxNode) init(room, count int) {
	le.PutUint16(n, uint16(room))
	le.PutUint16(n[2:], uint16(count))
}

func (n dxNode) insert(i int, hash, block uint32) {
	c := n.count()
	copy(n[dxEntry*(i+1):dxEntry*(c+1)], n[dxEntry*i:dxEntry*c])
	le.PutUint32(n[dxEntry*i:], hash)
	le.PutUint32(n[dxEntry*i+4:], block)
	n.init(n.room(), c+1)
}

// find returns the last entry whose hash is not above h.
func (n dxNode) find(h uint32) int {
	return sort.Search(n.count()-1, func(i int) bool { return n.hash(i+1) > h })
}

// indexed reports whether a directory has an index that is to be used. The index of a
// casefolded one has hashes of folded names, so that it is searched from end to end, for
// names as they are written.
func (fs *FS) indexed(dir *inode) bool {
	return dir.has(flagIndexed) && fs.sb.compat&compatDirIndex != 0 && !dir.has(flagInline|flagCasefold)
}

func dxOffset(l uint32) int {
	if l == 0 {
		return dxRootEntries
	}
	return dxNodeEntries
}

// dxRoom returns how many entries the node at block l can have.
func (fs *FS) dxRoom(l uint32) int {
	n := int(fs.sb.blockSize) - dxOffset(l)
	if fs.sb.csum {
		n -= dxTail
	}
	return n / dxEntry
}

// checkIndexBlock checks an inner node.
func (fs *FS) checkIndexBlock(dir *inode, l uint32, b []byte) error {
	bad := func() error { return corruptf("the index of directory %d", dir.num) }
	if l == 0 && (b[dxRootInfo+5] != dxRootEntries-dxRootInfo || b[dxRootInfo+6] > 2 ||
		le.Uint16(b[4:]) != 12 || b[6] != 1 || b[8] != '.') {
		return bad()
	}
	n := dxNode(b[dxOffset(l):])
	if n.room() != fs.dxRoom(l) || n.count() < 1 || n.count() > n.room() {
		return bad()
	}
	for i := 1; i < n.count(); i++ {
		if i > 1 && n.hash(i) < n.hash(i-1) { // equal: names of one hash fill leaves

			return bad()
		}
	}
	if !fs.sb.csum {
		return nil
	}
	if sum, end := fs.dxSum(dir, l, b); sum != le.Uint32(b[end+4:]) {
		return corruptf("checksum of the index of directory %d", dir.num)
	}
	return nil
}

func (fs *FS) dxSum(dir *inode, l uint32, b []byte) (sum uint32, end int) {
	off := dxOffset(l)
	n := dxNode(b[off:])
	end = off + dxEntry*n.room()
	c := ownedChecksum(fs.sb.seed, dir.num, dir.generation(), b[:off+dxEntry*n.count()])
	return crc32c(crc32c(c, b[end:end+4]), zeros[:4]), end
}

func (fs *FS) sealIndex(dir *inode, l uint32, b []byte) {
	if fs.sb.csum {
		sum, end := fs.dxSum(dir, l, b)
		le.PutUint32(b[end+4:], sum)
	}
}

// dxStep is one inner node on the way to a leaf.
type dxStep struct {
	l    uint32 // block of the directory
	at   uint64 // on the device
	data []byte
	k    int
}

func (s *dxStep) node() dxNode { return dxNode(s.data[dxOffset(s.l):]) }

// dxPath finds the way to the leaf that holds the names of a hash.
func (fs *FS) dxPath(dir *inode, hash uint32) ([]dxStep, error) {
	path := make([]dxStep, 0, 3)
	l, levels := uint32(0), 0
	for {
		b, at, err := fs.dirBlockAt(dir, l, true)
		if err != nil {
			return nil, err
		}
		if l == 0 {
			levels = int(b.data[dxRootInfo+6])
		}
		s := dxStep{l: l, at: at, data: b.data}
		s.k = s.node().find(hash)
		path = append(path, s)
		if l = s.node().block(s.k); l == 0 {
			return nil, corruptf("the index of directory %d", dir.num)
		}
		if len(path) > levels {
			return path, nil
		}
	}
}

func leafOf(path []dxStep) uint32 {
	s := &path[len(path)-1]
	return s.node().block(s.k)
}

// dxNext returns the hash with which the next leaf begins, or false at the last one.
func dxNext(path []dxStep) (uint32, bool) {
	for i := len(path) - 1; i >= 0; i-- {
		if n := path[i].node(); path[i].k+1 < n.count() {
			return n.hash(path[i].k + 1), true
		}
	}
	return 0, false
}

// dxAdvance goes on to the next leaf, which dxNext said there is.
func (fs *FS) dxAdvance(dir *inode, path *[]dxStep) error {
	p := *path
	lvl := len(p) - 1
	for p[lvl].k+1 >= p[lvl].node().count() {
		lvl--
	}
	p[lvl].k++
	for ; lvl+1 < len(p); lvl++ {
		l := p[lvl].node().block(p[lvl].k)
		b, at, err := fs.dirBlockAt(dir, l, true)
		if err != nil {
			return err
		}
		p[lvl+1] = dxStep{l: l, at: at, data: b.data}
	}
	return nil
}

// hashOf computes a name's hash as a directory's index wants it. ErrUnsupported.
func (fs *FS) hashOf(dir *inode, name string) (major, minor uint32, err error) {
	version := fs.sb.raw[sbHashVersion]
	if fs.indexed(dir) {
		b, _, err := fs.dirBlockAt(dir, 0, true)
		if err != nil {
			return 0, 0, err
		}
		version = b.data[dxRootInfo+4]
	}
	major, minor, ok := fs.sb.hash.sum(version, name)
	if !ok {
		return 0, 0, unsupportedf("directory %d is ordered by hash %d", dir.num, version)
	}
	return major, minor, nil
}

// dxFind looks a name up by the index.
func (fs *FS) dxFind(dir *inode, name string) (found dirPlace, ok bool, err error) {
	hash, _, err := fs.hashOf(dir, name)
	if err != nil {
		return found, false, err
	}
	path, err := fs.dxPath(dir, hash)
	for err == nil {
		if found, ok, err = fs.findAt(dir, leafOf(path), name); ok || err != nil {
			return found, ok, err
		}
		// Names of one hash may go on in the next leaf, which then says so by an odd one.
		if next, more := dxNext(path); !more || next != hash|1 {
			return found, false, nil
		}
		err = fs.dxAdvance(dir, &path)
	}
	return found, false, err
}

// dxAdd adds an entry by the index, which grows as needed.
func (fs *FS) dxAdd(dir *inode, ino uint32, kind byte, name string) error {
	hash, _, err := fs.hashOf(dir, name)
	if err != nil {
		return err
	}
	for {
		path, err := fs.dxPath(dir, hash)
		if err != nil {
			return err
		}
		leaf := leafOf(path)
		b, at, err := fs.dirBlockAt(dir, leaf, false)
		if err != nil {
			return err
		}
		if done, err := fs.addToBlock(dir, b, at, ino, kind, name); err != nil || done {
			return err
		}
		last := &path[len(path)-1]
		if n := last.node(); n.count() == n.room() {
			if err := fs.splitIndex(dir, path, len(path)-1); err != nil {
				return err
			}
			continue
		}
		if err := fs.splitLeaf(dir, last, at); err != nil {
			return err
		}
	}
}

// modIndex makes an inner node changeable.
func (fs *FS) modIndex(s *dxStep) error {
	data, err := fs.mod(s.at)
	s.data = data
	return err
}

// hashed is an entry of a leaf with its hash.
type hashed struct {
	major, minor uint32
	dirent
}

// hashEntries returns a leaf's entries ordered by hash.
func (fs *FS) hashEntries(dir *inode, b []byte, version byte) ([]hashed, error) {
	var list []hashed
	err := fs.eachEntry(dir.num, b, fs.dirEnd(), func(e dirent) bool {
		h := hashed{dirent: e}
		h.major, h.minor, _ = fs.sb.hash.sum(version, string(e.name))
		list = append(list, h)
		return false
	})
	slices.SortStableFunc(list, func(a, b hashed) int {
		return cmp.Or(cmp.Compare(a.major, b.major), cmp.Compare(a.minor, b.minor))
	})
	return list, err
}

// splitLeaf moves the upper half of a leaf's names to a new one.
func (fs *FS) splitLeaf(dir *inode, up *dxStep, at uint64) error {
	version, err := fs.dxVersion(dir)
	if err != nil {
		return err
	}
	old, err := fs.mod(at)
	if err != nil {
		return err
	}
	list, err := fs.hashEntries(dir, slices.Clone(old), version)
	if err != nil {
		return err
	}
	if len(list) < 2 {
		return corruptf("a leaf of directory %d", dir.num)
	}
	total, half, cut := 0, 0, 0
	for _, e := range list {
		total += entLen(len(e.name))
	}
	for cut < len(list)-1 && half < total/2 {
		half += entLen(len(list[cut].name))
		cut++
	}
	hash := list[cut].major
	if list[cut-1].major == hash {
		hash |= 1 // names of this hash lie in both
	}
	l, fresh, err := fs.appendDirBlock(dir)
	if err != nil {
		return err
	}
	fs.fillLeaf(dir, old, list[:cut])
	fs.fillLeaf(dir, fresh, list[cut:])
	if err := fs.modIndex(up); err != nil {
		return err
	}
	up.node().insert(up.k+1, hash, l)
	fs.sealIndex(dir, up.l, up.data)
	return nil
}

func (fs *FS) dxVersion(dir *inode) (byte, error) {
	b, _, err := fs.dirBlockAt(dir, 0, true)
	if err != nil {
		return 0, err
	}
	return b.data[dxRootInfo+4], nil
}

// fillLeaf writes a block of entries.
func (fs *FS) fillLeaf(dir *inode, b []byte, list []hashed) {
	clear(b)
	off, end := 0, fs.dirEnd()
	for i, e := range list {
		n := entLen(len(e.name))
		if i == len(list)-1 {
			n = end - off
		}
		putEntry(b[off:], e.ino, n, e.kind, string(e.name))
		off += n
	}
	if len(list) == 0 {
		le.PutUint16(b[4:], uint16(end))
	}
	fs.sealDir(dir, b)
}

// splitIndex makes room in the inner node at a level of a path, which is to be found
// again afterwards.
func (fs *FS) splitIndex(dir *inode, path []dxStep, lvl int) error {
	if lvl == 0 {
		return fs.growIndex(dir, &path[0])
	}
	s, up := &path[lvl], &path[lvl-1]
	if n := up.node(); n.count() == n.room() {
		return fs.splitIndex(dir, path, lvl-1)
	}
	if err := fs.modIndex(s); err != nil {
		return err
	}
	if err := fs.modIndex(up); err != nil {
		return err
	}
	l, fresh, err := fs.appendDirBlock(dir)
	if err != nil {
		return err
	}
	n := s.node()
	c := n.count()
	keep := c / 2
	hash := n.hash(keep)
	right := fs.initIndex(fresh, l)
	copy(right[dxEntry:], n[dxEntry*(keep+1):dxEntry*c])
	le.PutUint32(right[4:], n.block(keep))
	right.init(right.room(), c-keep)
	clear(n[dxEntry*keep : dxEntry*c])
	n.init(n.room(), keep)
	up.node().insert(up.k+1, hash, l)
	fs.sealIndex(dir, l, fresh)
	fs.sealIndex(dir, s.l, s.data)
	fs.sealIndex(dir, up.l, up.data)
	return nil
}

// initIndex makes a block an inner node without entries.
func (fs *FS) initIndex(b []byte, l uint32) dxNode {
	clear(b)
	le.PutUint16(b[4:], uint16(len(b)))
	n := dxNode(b[dxNodeEntries:])
	n.init(fs.dxRoom(l), 0)
	return n
}

// growIndex puts a node between the root and what is beneath it.
func (fs *FS) growIndex(dir *inode, root *dxStep) error {
	most := byte(1)
	if fs.sb.incompat&incompatLargeDir != 0 {
		most = 2
	}
	if root.data[dxRootInfo+6] >= most {
		return errNoSpace // of the index, which is what Linux says too
	}
	if err := fs.modIndex(root); err != nil {
		return err
	}
	l, fresh, err := fs.appendDirBlock(dir)
	if err != nil {
		return err
	}
	n := root.node()
	c := n.count()
	child := fs.initIndex(fresh, l)
	copy(child[4:], n[4:dxEntry*c])
	child.init(child.room(), c)
	clear(n[4 : dxEntry*c])
	n.init(n.room(), 1)
	le.PutUint32(n[4:], l)
	root.data[dxRootInfo+6]++
	fs.sealIndex(dir, l, fresh)
	fs.sealIndex(dir, 0, root.data)
	return nil
}

// makeIndex gives a directory of one full block an index.
func (fs *FS) makeIndex(dir *inode) error {
	b, at, err := fs.dirBlockAt(dir, 0, false)
	if err != nil {
		return err
	}
	version := fs.sb.raw[sbHashVersion]
	list, err := fs.hashEntries(dir, slices.Clone(b.data), version)
	if err != nil {
		return err
	}
	if _, _, ok := fs.sb.hash.sum(version, ""); !ok {
		return unsupportedf("directories ordered by hash %d", version)
	}
	parent := le.Uint32(b.data[12:])
	list = slices.DeleteFunc(list, func(e hashed) bool { return isDot(string(e.name)) })
	l, fresh, err := fs.appendDirBlock(dir)
	if err != nil {
		return err
	}
	fs.fillLeaf(dir, fresh, list)
	root, err := fs.mod(at)
	if err != nil {
		return err
	}
	clear(root)
	putEntry(root, dir.num, 12, ftDir, ".")
	putEntry(root[12:], parent, len(root)-12, ftDir, "..")
	root[dxRootInfo+4], root[dxRootInfo+5] = version, dxRootEntries-dxRootInfo
	n := dxNode(root[dxRootEntries:])
	n.init(fs.dxRoom(0), 1)
	le.PutUint32(n[4:], l)
	fs.sealIndex(dir, 0, root)
	le.PutUint32(dir.raw[inFlags:], dir.flags()|flagIndexed)
	return nil
}

func isDot(name string) bool { return name == "." || name == ".." }
