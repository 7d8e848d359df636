package ext4

import (
	"fmt"
	"io"
	"slices"
	"testing"
)

// target is a piece of the metadata of an image that a test damages.
type target struct {
	what string
	at   int64 // in the image
	n    int
	seal func(b []byte) // makes the checksum right again; nil: it has none
	now  []byte
	also func(b []byte) target // what has the checksum of this one, and needs to be sealed then
}

// targets lists the metadata of an image that is in use, whatever its format.
type targets struct {
	fs   *FS
	list []target
	seen map[uint64]bool
}

// findTargets lists what can be damaged in an image.
func findTargets(t testing.TB, image Device) []target {
	t.Helper()
	fs, err := Open(image, OpenOptions{Size: imageSize(image), ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	s := &targets{fs: fs, seen: map[uint64]bool{}}
	s.list = append(s.list, target{what: "superblock", at: superOffset, n: superSize, seal: s.sealIfChecksummed(func(b []byte) {
		le.PutUint32(b[sbChecksum:], superblockChecksum(b))
	})})
	for g := range fs.sb.groups {
		if err := s.addGroup(g); err != nil {
			t.Fatal(err)
		}
	}
	for num := uint32(1); num <= fs.sb.inodes; num++ {
		i, err := fs.readRawInode(num)
		if err != nil {
			t.Fatal(err)
		}
		if i.linkCount() == 0 {
			continue
		}
		if err := s.addInode(i); err != nil {
			t.Fatalf("inode %d: %v", num, err)
		}
	}
	return s.list
}

// sealIfChecksummed returns a function only for images that have checksums.
func (s *targets) sealIfChecksummed(f func(b []byte)) func(b []byte) {
	if !s.fs.sb.metadataCsum {
		return nil
	}
	return f
}

func (s *targets) addBlock(what string, n uint64, seal func(b []byte)) {
	if !s.seen[n] {
		s.seen[n] = true
		s.list = append(s.list, target{what: what, at: int64(n) * s.fs.sb.blockSize, n: int(s.fs.sb.blockSize), seal: s.sealIfChecksummed(seal)})
	}
}

// addGroup adds the descriptor and the bitmaps of a group.
func (s *targets) addGroup(g uint32) error {
	fs := s.fs
	n, off := fs.sb.locateGroupDesc(g)
	d, err := fs.readGroupDesc(g)
	if err != nil {
		return err
	}
	seal := func(b []byte) { le.PutUint16(b[gdChecksum:], descChecksum(fs.sb.csumSeed, g, b)) }
	if fs.sb.roCompat&roGDTCsum != 0 {
		seal = func(b []byte) { le.PutUint16(b[gdChecksum:], fs.sb.crc16DescChecksum(g, b)) }
	}
	t := target{what: "descriptor", at: int64(n)*fs.sb.blockSize + int64(off), n: fs.sb.descSize, seal: seal}
	if !fs.sb.metadataCsum && fs.sb.roCompat&roGDTCsum == 0 {
		t.seal = nil
	}
	s.list = append(s.list, t)
	if d.flags()&groupBlockUninit == 0 {
		s.addBitmap("block bitmap", d, d.blockBitmap(), t, fs.sb.blocksPerGroup/fs.sb.clusterBlocks/8, gdBlockCsum, gdBlockCsumHi)
	}
	if d.flags()&groupInodeUninit == 0 {
		s.addBitmap("inode bitmap", d, d.inodeBitmap(), t, fs.sb.inodesPerGroup/8, gdInodeCsum, gdInodeCsumHi)
	}
	return nil
}

// addBitmap adds a bitmap, whose checksum is in the descriptor.
func (s *targets) addBitmap(what string, d groupDesc, at uint64, owner target, size uint32, lo, hi int) {
	was := slices.Clone(d)
	s.addBlock(what, at, func([]byte) {})
	if s.fs.sb.metadataCsum {
		s.list[len(s.list)-1].also = func(b []byte) target {
			now := slices.Clone(was)
			now.setSplitCount(lo, hi, crc32c(s.fs.sb.csumSeed, b[:size]))
			owner.seal(now)
			owner.now = now
			return owner
		}
	}
}

// describeKind names the kinds of inodes, so that all are damaged as often.
func describeKind(i *inode, sb *superblock) string {
	if i.num < sb.firstUserInode {
		return fmt.Sprint("inode ", i.num)
	}
	return fmt.Sprintf("inode of type %d %t %t %t", entryTypeOf(i.mode()), i.hasFlag(flagExtents), i.hasFlag(flagInline|flagIndexed), i.xattrBlock() != 0)
}

// addInode adds an inode, and the blocks of metadata that it has.
func (s *targets) addInode(i *inode) error {
	fs, num, gen := s.fs, i.num, i.generation()
	n, off, err := fs.locateInode(num)
	if err != nil {
		return err
	}
	s.list = append(s.list, target{what: describeKind(i, fs.sb), at: int64(n)*fs.sb.blockSize + int64(off), n: fs.sb.inodeSize,
		seal: s.sealIfChecksummed(func(b []byte) { setInodeChecksum(fs.sb.csumSeed, num, b) })})
	if at := i.xattrBlock(); at != 0 {
		s.addBlock("xattr block", at, func(b []byte) { le.PutUint32(b[xattrSum:], fs.xattrBlockChecksum(at, b)) })
	}
	if err := s.addSystemInode(i); err != nil {
		return err
	}
	if i.num < fs.sb.firstUserInode && i.num != rootInode || !fs.mapsBlocks(i) {
		return nil
	}
	if !i.hasFlag(flagExtents) {
		err = fs.eachPointerBlock(i, func(at uint64) error { s.addBlock("pointers", at, nil); return nil })
	} else {
		root, rerr := fs.extentRoot(i)
		if rerr != nil {
			return rerr
		}
		err = s.addExtentTree(i, root)
	}
	if err != nil || i.isRegular() {
		return err
	}
	return fs.eachExtent(i, 0, func(e extent) (bool, error) {
		for k := range uint64(e.n) {
			s.addContent(i, gen, e.start+k, e.logical+uint32(k))
		}
		return true, nil
	})
}

// addSystemInode adds the blocks of inodes that are there for a purpose.
func (s *targets) addSystemInode(i *inode) error {
	fs := s.fs
	switch i.num {
	case resizeInode:
		at := uint64(le.Uint32(i.blockArea()[4*(directBlocks+1):]))
		if at == 0 {
			return nil
		}
		s.addBlock("resize pointers", at, nil)
		b, err := fs.getBlock(at)
		for k := 0; err == nil && k < len(b.data); k += 4 {
			if p := le.Uint32(b.data[k:]); p != 0 {
				s.addBlock("resize pointers", uint64(p), nil)
			}
		}
		return err
	case journalInode:
		e, err := fs.lookupExtent(i, 0)
		s.list = append(s.list, target{what: "journal", at: int64(e.start) * fs.sb.blockSize, n: jsbSize, seal: s.sealIfChecksummed(func(b []byte) {
			be.PutUint32(b[jsbChecksum:], (&journal{rawSuper: b}).superblockChecksum())
		})})
		return err
	case le.Uint32(fs.sb.raw[sbOrphanFile:]):
		e, err := fs.lookupExtent(i, 0)
		s.addBlock("orphans", e.start, func(b []byte) { le.PutUint32(b[len(b)-4:], fs.orphanBlockChecksum(i, e.start, b)) })
		return err
	}
	return nil
}

// addContent adds a block of a directory or of a symbolic link.
func (s *targets) addContent(i *inode, gen uint32, at uint64, l uint32) {
	fs := s.fs
	if !i.isDir() {
		s.addBlock("symlink", at, nil)
		return
	}
	if fs.usesIndex(i) {
		if index, err := fs.isIndexBlock(i, l); err == nil && index {
			s.addBlock("index", at, func(b []byte) {
				if n := dxNode(b[dxEntriesOffset(l):]); dxEntriesOffset(l)+dxEntry*n.entryLimit()+dxTail <= len(b) && n.entryCount() <= n.entryLimit() {
					fs.setIndexChecksum(i, l, b)
				}
			})
			return
		}
	}
	s.addBlock("directory", at, func(b []byte) {
		le.PutUint32(b[len(b)-4:], ownedBlockChecksum(fs.sb.csumSeed, i.num, gen, b[:len(b)-dirTailLen]))
	})
}

func (s *targets) addExtentTree(i *inode, n extentNode) error {
	for k := 0; n.treeDepth() > 0 && k < n.entryCount(); k++ {
		at := n.childBlock(k)
		c, err := s.fs.readExtentNode(i, at, n.treeDepth()-1)
		if err != nil {
			return err
		}
		s.addBlock("extents", at, func(b []byte) {
			if end := extentHeaderLen + extentEntryLen*extentNode(b).maxEntries(); end+4 <= len(b) {
				le.PutUint32(b[end:], ownedBlockChecksum(s.fs.sb.csumSeed, i.num, i.generation(), b[:end]))
			}
		})
		if err := s.addExtentTree(i, c); err != nil {
			return err
		}
	}
	return nil
}

// memDevice is an image in memory, or changes to one that is elsewhere.
type memDevice struct {
	base  io.ReaderAt // nil: zeros
	size  int64
	pages map[int64][]byte
}

const memPage = 4096

func newMemDevice(base io.ReaderAt, size int64) *memDevice {
	return &memDevice{base, size, map[int64][]byte{}}
}

// imageSize returns the size of a device of a test.
func imageSize(dev Device) int64 {
	if m, ok := dev.(*memDevice); ok {
		return m.size
	}
	return 0
}

// pageAt returns a page for reading.
func (m *memDevice) pageAt(n int64) ([]byte, error) {
	if p := m.pages[n]; p != nil {
		return p, nil
	}
	if m.base == nil {
		return zeros[:memPage], nil
	}
	p := make([]byte, memPage)
	return p, readFull(m.base, p, n*memPage)
}

func (m *memDevice) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) && off < m.size {
		b, err := m.pageAt(off / memPage)
		if err != nil {
			return done, err
		}
		n := copy(p[done:], b[off%memPage:])
		done, off = done+n, off+int64(n)
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

func (m *memDevice) WriteAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		b, err := m.pageAt(off / memPage)
		if err != nil {
			return done, err
		}
		if m.pages[off/memPage] == nil {
			b = slices.Clone(b)
			m.pages[off/memPage] = b
		}
		n := copy(b[off%memPage:], p[done:])
		done, off = done+n, off+int64(n)
	}
	m.size = max(m.size, off)
	return done, nil
}

func (m *memDevice) Sync() error { return nil }
