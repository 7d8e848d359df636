package ext4

import (
	"errors"
	"slices"
	"strings"
)

// A block of a directory is a row of entries: inode, length of the entry, length of
// the name, type, name. Lengths are multiples of four and fill the block, but for the
// tail with the checksum.
const (
	entryHeaderLen = 8

	ftUnknown = 0
	ftRegular = 1
	ftDir     = 2
	ftChar    = 3
	ftBlock   = 4
	ftFifo    = 5
	ftSocket  = 6
	ftSymlink = 7
)

// entryLength returns the length of an entry with a name of n bytes.
func entryLength(n int) int { return (entryHeaderLen + n + 3) &^ 3 }

// entryModes are the type bits of a mode for each type that an entry may have.
var entryModes = [...]uint16{
	ftUnknown: 0, ftRegular: typeRegular, ftDir: typeDir, ftChar: typeChar, ftBlock: typeBlock, ftFifo: typeFifo,
	ftSocket: typeSocket, ftSymlink: typeSymlink,
}

// entryTypeOf returns the type that entries have for the type bits of a mode.
func entryTypeOf(mode uint16) byte {
	return byte(max(slices.Index(entryModes[:], mode&typeMask), ftUnknown))
}

// modeOfEntryType returns the type bits of a mode for the type in an entry.
func modeOfEntryType(t byte) uint16 {
	if int(t) < len(entryModes) {
		return entryModes[t]
	}
	return 0
}

// dirent is one entry of a directory.
type dirent struct {
	off  int // in its block
	len  int
	ino  uint32 // 0: not in use
	kind byte
	name []byte // of the block
}

// parseEntry reads the entry at off in a block whose entries stop at end.
func (fs *FS) parseEntry(dir uint32, b []byte, off, end int) (dirent, error) {
	if off+entryHeaderLen > end {
		return dirent{}, corruptf("directory %d has an invalid entry", dir)
	}
	e := dirent{off: off, ino: le.Uint32(b[off:]), len: int(le.Uint16(b[off+4:]))}
	// In blocks of 64 KiB a length that does not fit is coded.
	if len(b) == 65536 && (e.len == 0 || e.len == 65535) {
		e.len = 65536
	}
	n := int(b[off+6])
	if fs.sb.incompat&incompatFiletype != 0 {
		e.kind = b[off+7]
	} else {
		n |= int(b[off+7]) << 8
	}
	if e.len < entryHeaderLen || e.len%4 != 0 || off+e.len > end || entryHeaderLen+n > e.len || n > maxName && e.ino != 0 || e.ino > fs.sb.inodes {
		return dirent{}, corruptf("directory %d has an invalid entry", dir)
	}
	e.name = b[off+entryHeaderLen : off+entryHeaderLen+min(n, maxName)]
	if e.ino != 0 && n == 0 {
		e.ino = 0
	}
	return e, nil
}

// putEntry writes an entry.
func putEntry(b []byte, ino uint32, length int, kind byte, name string) {
	le.PutUint32(b, ino)
	le.PutUint16(b[4:], uint16(length))
	b[6], b[7] = byte(len(name)), kind
	copy(b[entryHeaderLen:], name)
}

// eachEntry calls f for each used entry of a block, until f returns true.
func (fs *FS) eachEntry(dir uint32, b []byte, end int, f func(dirent) (stop bool)) error {
	for off := 0; off < end; {
		e, err := fs.parseEntry(dir, b, off, end)
		if err != nil {
			return err
		}
		if e.ino != 0 && f(e) {
			return nil
		}
		off += e.len
	}
	return nil
}

// invalidEntryName reports whether a name holds bytes that no name may have.
func invalidEntryName(n []byte) bool { return strings.ContainsAny(string(n), "/\x00") }

// entriesEnd returns where the entries of a directory block stop: before the checksum.
func (fs *FS) entriesEnd() int {
	if fs.sb.metadataCsum {
		return int(fs.sb.blockSize) - dirTailLen
	}
	return int(fs.sb.blockSize)
}

// readDirBlock returns a block of a directory, checked, and its block number. index: it is
// an inner node of the index, not a block of entries.
func (fs *FS) readDirBlock(dir *inode, logical uint32, index bool) (*block, uint64, error) {
	ext, err := fs.lookupExtent(dir, logical)
	if err != nil {
		return nil, 0, err
	}
	if ext.start == 0 || ext.unwritten {
		return nil, 0, corruptf("directory %d has a hole", dir.num)
	}
	at := ext.start + uint64(logical-ext.logical)
	b, err := fs.getBlock(at)
	if err != nil {
		return nil, 0, err
	}
	kind := checkDir
	if index {
		kind = checkIndex
	}
	if key := verifiedKey(kind, dir.num); b.verified.Load() != key {
		if index {
			err = fs.checkIndexBlock(dir, logical, b.data)
		} else {
			err = errors.Join(fs.checkDirBlock(dir, b.data), fs.checkDotEntries(dir, logical, b.data))
		}
		if err != nil {
			return nil, 0, err
		}
		b.verified.Store(key)
	}
	return b, at, nil
}

// checkDirBlock checks checksum and entries of a block: everything that later code relies
// on.
func (fs *FS) checkDirBlock(dir *inode, b []byte) error {
	if has := fs.checkDirTail(dir, b); has != "" {
		return corruptf("a block of directory %d has %s", dir.num, has)
	}
	bad := false
	err := fs.eachEntry(dir.num, b, fs.entriesEnd(), func(e dirent) bool {
		bad = invalidEntryName(e.name)
		return bad
	})
	if err == nil && bad {
		err = corruptf("directory %d has an entry with an invalid name", dir.num)
	}
	return err
}

// checkDirTail says what is wrong with the checksum of a block of entries; "": nothing.
func (fs *FS) checkDirTail(dir *inode, b []byte) string {
	if !fs.sb.metadataCsum {
		return ""
	}
	t := b[len(b)-dirTailLen:]
	if le.Uint32(t) != 0 || le.Uint16(t[4:]) != dirTailLen || t[6] != 0 || t[7] != 0xde {
		return "no checksum"
	}
	if ownedBlockChecksum(fs.sb.csumSeed, dir.num, dir.generation(), b[:len(b)-dirTailLen]) != le.Uint32(t[8:]) {
		return "a wrong checksum"
	}
	return ""
}

// checkDotEntries refuses entries "." and ".." except at the beginning of a directory: as
// names of something else they would lead out of the directory that they are used in.
func (fs *FS) checkDotEntries(dir *inode, logical uint32, b []byte) error {
	n, bad := 0, false
	err := fs.eachEntry(dir.num, b, fs.entriesEnd(), func(e dirent) bool {
		name := string(e.name)
		bad = isDotName(name) && (logical != 0 || n > 1 || name == ".." && n != 1 || name == "." && n != 0)
		n++
		return bad
	})
	if err == nil && bad {
		err = corruptf("directory %d has an entry of the name \".\" or \"..\" that is not its own", dir.num)
	}
	return err
}

// setDirChecksum sets the checksum of a changed block of entries.
func (fs *FS) setDirChecksum(dir *inode, b []byte) {
	if fs.sb.metadataCsum {
		setDirBlockChecksum(fs.sb.csumSeed, dir.num, dir.generation(), b)
	}
}

// entryRoom is room for an entry in a directory block: an unused entry, or the unused end
// of one.
type entryRoom struct {
	off  int // of the entry there
	used int // bytes that it needs itself
	len  int
}

// findEntryRoom finds room for a name in a block.
func (fs *FS) findEntryRoom(dir *inode, b []byte, name string) (entryRoom, bool, error) {
	need, end := entryLength(len(name)), fs.entriesEnd()
	for off := 0; off < end; {
		e, err := fs.parseEntry(dir.num, b, off, end)
		if err != nil {
			return entryRoom{}, false, err
		}
		used := 0
		if e.ino != 0 {
			used = entryLength(len(e.name))
		}
		if e.len-used >= need {
			return entryRoom{off, used, e.len}, true, nil
		}
		off += e.len
	}
	return entryRoom{}, false, nil
}

// placeEntry writes an entry where findEntryRoom found room.
func (fs *FS) placeEntry(dir *inode, b []byte, r entryRoom, ino uint32, kind byte, name string) {
	if r.used > 0 {
		le.PutUint16(b[r.off+4:], uint16(r.used))
	}
	putEntry(b[r.off+r.used:], ino, r.len-r.used, kind, name)
	fs.setDirChecksum(dir, b)
}

// addEntryToBlock adds an entry to block number at, which is b, and reports whether there
// was room.
func (fs *FS) addEntryToBlock(dir *inode, b *block, at uint64, ino uint32, kind byte, name string) (bool, error) {
	r, ok, err := fs.findEntryRoom(dir, b.data, name)
	if err != nil || !ok {
		return false, err
	}
	data, err := fs.modifyBlock(at)
	if err != nil {
		return false, err
	}
	fs.placeEntry(dir, data, r, ino, kind, name)
	return true, nil
}

// findEntryInBlock finds a name in a block, and the offset of the entry before it; -1: it
// is the first.
func (fs *FS) findEntryInBlock(dir *inode, b []byte, name string) (e dirent, before int, found bool, err error) {
	before = -1
	if len(b) < 65536 && fs.sb.incompat&incompatFiletype != 0 {
		return fs.findEntryFast(dir, b, name)
	}
	for off, end := 0, fs.entriesEnd(); off < end; {
		if e, err = fs.parseEntry(dir.num, b, off, end); err != nil {
			return e, before, false, err
		}
		if e.ino != 0 && string(e.name) == name {
			return e, before, true, nil
		}
		before = off
		off += e.len
	}
	return e, before, false, nil
}

// findEntryFast is findEntryInBlock for blocks of the usual format: it reads a name only
// where the length fits.
func (fs *FS) findEntryFast(dir *inode, b []byte, name string) (e dirent, before int, found bool, err error) {
	before = -1
	for off, end := 0, fs.entriesEnd(); off < end; {
		if off+entryHeaderLen > end {
			break
		}
		h := le.Uint64(b[off:]) // inode, length of the entry, length of the name, type
		n := int(uint16(h >> 32))
		if n < entryHeaderLen || n%4 != 0 || off+n > end {
			return e, before, false, corruptf("directory %d has an invalid entry", dir.num)
		}
		if uint32(h) != 0 && int(byte(h>>48)) == len(name) && entryHeaderLen+len(name) <= n && string(b[off+entryHeaderLen:off+entryHeaderLen+len(name)]) == name {
			e, err = fs.parseEntry(dir.num, b, off, end)
			return e, before, err == nil && e.ino != 0, err
		}
		before = off
		off += n
	}
	return e, before, false, nil
}

// removeEntryFromBlock removes an entry. The entry before it in the block, if there is
// one, is extended over its space.
func (fs *FS) removeEntryFromBlock(dir *inode, b []byte, e dirent, before int) {
	if before >= 0 {
		le.PutUint16(b[before+4:], le.Uint16(b[before+4:])+uint16(e.len))
		clear(b[e.off : e.off+e.len])
	} else {
		le.PutUint32(b[e.off:], 0)
	}
	fs.setDirChecksum(dir, b)
}

// initEmptyDirBlock fills a block with one unused entry.
func (fs *FS) initEmptyDirBlock(dir *inode, b []byte) {
	clear(b)
	le.PutUint16(b[4:], uint16(fs.entriesEnd()))
	fs.setDirChecksum(dir, b)
}
