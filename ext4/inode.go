package ext4

import (
	"io/fs"
	"slices"
	"time"
)

// inode is a copy of an on-disk inode, or a view into its block: see viewInode.
type inode struct {
	num uint32
	raw []byte
}

// cloneInode turns a view into a copy that may be changed and kept.
func (i *inode) cloneInode() *inode {
	if i == nil {
		return nil
	}
	return &inode{i.num, slices.Clone(i.raw)}
}

func (i *inode) mode() uint16          { return le.Uint16(i.raw) }
func (i *inode) fileType() uint16      { return i.mode() & typeMask }
func (i *inode) isDir() bool           { return i.fileType() == typeDir }
func (i *inode) isRegular() bool       { return i.fileType() == typeRegular }
func (i *inode) flags() uint32         { return le.Uint32(i.raw[inFlags:]) }
func (i *inode) hasFlag(f uint32) bool { return i.flags()&f != 0 }
func (i *inode) linkCount() uint16     { return le.Uint16(i.raw[inLinks:]) }
func (i *inode) generation() uint32    { return le.Uint32(i.raw[inGeneration:]) }
func (i *inode) blockArea() []byte     { return i.raw[inBlock : inBlock+blockAreaLen] }

func (i *inode) uid() uint32 {
	return uint32(le.Uint16(i.raw[inUID:])) | uint32(le.Uint16(i.raw[inUIDHi:]))<<16
}

func (i *inode) gid() uint32 {
	return uint32(le.Uint16(i.raw[inGID:])) | uint32(le.Uint16(i.raw[inGIDHi:]))<<16
}

// size returns the size in bytes. readInode refused sizes that do not fit an int64.
func (i *inode) size() int64 {
	return int64(le.Uint32(i.raw[inSizeLo:])) | int64(le.Uint32(i.raw[inSizeHi:]))<<32
}

func (i *inode) xattrBlock() uint64 {
	return uint64(le.Uint32(i.raw[inFileACL:])) | uint64(le.Uint16(i.raw[inFileACLHi:]))<<32
}

// allocatedBytes returns the bytes of storage that an inode takes (st_blocks).
func (f *FS) allocatedBytes(i *inode) int64 {
	if i.hasFlag(flagInline) && i.isRegular() {
		return f.statedStorage(i) + roundUpTo(i.size(), 512) // as Linux tells it
	}
	return f.statedStorage(i)
}

// statedStorage returns the bytes of storage that an inode states, without those in it.
func (f *FS) statedStorage(i *inode) int64 {
	n := int64(le.Uint32(i.raw[inBlocksLo:]))
	if f.sb.roCompat&roHugeFile == 0 {
		return n * 512
	}
	n |= int64(le.Uint16(i.raw[inBlocksHi:])) << 32
	if i.hasFlag(flagHugeFile) {
		return n * f.sb.blockSize
	}
	return n * 512
}

// changeBlockCount adds n blocks to an inode's count of storage.
func (f *FS) changeBlockCount(i *inode, n int64) {
	v := int64(le.Uint32(i.raw[inBlocksLo:])) | int64(le.Uint16(i.raw[inBlocksHi:]))<<32
	if !i.hasFlag(flagHugeFile) {
		n *= f.sb.blockSize / 512
		if v+n >= 1<<48 {
			le.PutUint32(i.raw[inFlags:], i.flags()|flagHugeFile)
			v, n = v*512/f.sb.blockSize, n*512/f.sb.blockSize
		}
	} else if (v+n)*f.sb.blockSize/512 < 1<<48 {
		le.PutUint32(i.raw[inFlags:], i.flags()&^flagHugeFile)
		v, n = v*f.sb.blockSize/512, n*f.sb.blockSize/512
	}
	v += n
	le.PutUint32(i.raw[inBlocksLo:], uint32(v))
	le.PutUint16(i.raw[inBlocksHi:], uint16(v>>32))
}

// setFileSize sets an inode's size, and keeps the total of all files' sizes.
func (f *FS) setFileSize(i *inode, n int64) {
	if i.isRegular() {
		f.counters.fileBytes += n - i.size()
	}
	le.PutUint32(i.raw[inSizeLo:], uint32(n))
	le.PutUint32(i.raw[inSizeHi:], uint32(n>>32))
}

// extraSize returns how many bytes beyond the first 128 hold fields.
func (i *inode) extraSize() int {
	if len(i.raw) == oldInodeSize {
		return 0
	}
	return int(le.Uint16(i.raw[inExtraSize:]))
}

// deviceNumber returns a device node's number, as makedev(3) makes it.
func (i *inode) deviceNumber() uint64 {
	if old := le.Uint32(i.raw[inBlock:]); old != 0 {
		return makedev(uint64(old>>8&0xff), uint64(old&0xff))
	}
	v := uint64(le.Uint32(i.raw[inBlock+4:]))
	return makedev(v>>8&0xfff, v&0xff|v>>12&0xfff00)
}

// makedev builds a device number as glibc does.
func makedev(major, minor uint64) uint64 {
	return minor&0xff | major&0xfff<<8 | minor&^0xff<<12 | major&^0xfff<<32
}

// setDeviceNumber stores a device number as Linux does: in the old format where it fits.
func (i *inode) setDeviceNumber(dev uint64) {
	major := dev>>8&0xfff | dev>>32&^0xfff
	minor := dev&0xff | dev>>12&0xffffff00
	if major < 256 && minor < 256 {
		le.PutUint32(i.raw[inBlock:], uint32(major<<8|minor))
		return
	}
	le.PutUint32(i.raw[inBlock+4:], uint32(minor&0xff|major<<8|minor&^0xff<<12))
}

// stamps are where the times of an inode lie, and their finer part.
var (
	stampAtime = [2]int{inAtime, inAtimeExtra}
	stampCtime = [2]int{inCtime, inCtimeExtra}
	stampMtime = [2]int{inMtime, inMtimeExtra}
	stampBirth = [2]int{inCrtime, inCrtimeExt}
)

// hasField reports whether the inode is long enough to have the field at offset o.
func (i *inode) hasField(o int) bool { return o+4 <= oldInodeSize+i.extraSize() }

// readTime reads a time. The extra field holds nanoseconds and two more bits of seconds.
func (i *inode) readTime(at [2]int) time.Time {
	if at[0] >= oldInodeSize && !i.hasField(at[0]) {
		return time.Time{}
	}
	sec, ns := int64(int32(le.Uint32(i.raw[at[0]:]))), int64(0)
	if i.hasField(at[1]) {
		x := le.Uint32(i.raw[at[1]:])
		sec += int64(x&3) << 32
		ns = int64(x >> 2)
	}
	return time.Unix(sec, min(ns, 999999999)).UTC()
}

// The times that an inode can hold, in seconds: 1901 to 2446.
const (
	minTime = -1 << 31
	maxTime = 1<<33 + 1<<32 + 1<<31 - 1
)

// setTime stores a time, or the nearest that an inode can hold.
func (i *inode) setTime(at [2]int, t time.Time) {
	if at[0] >= oldInodeSize && !i.hasField(at[0]) {
		return
	}
	sec := min(max(t.Unix(), minTime), maxTime)
	le.PutUint32(i.raw[at[0]:], uint32(sec))
	if i.hasField(at[1]) {
		high := uint32((sec-int64(int32(sec)))>>32) & 3
		le.PutUint32(i.raw[at[1]:], uint32(t.Nanosecond())<<2|high)
	}
}

// setModeAndOwner sets mode, type included, and owner.
func (i *inode) setModeAndOwner(mode uint16, uid, gid uint32) {
	le.PutUint16(i.raw[inMode:], mode)
	le.PutUint16(i.raw[inUID:], uint16(uid))
	le.PutUint16(i.raw[inUIDHi:], uint16(uid>>16))
	le.PutUint16(i.raw[inGID:], uint16(gid))
	le.PutUint16(i.raw[inGIDHi:], uint16(gid>>16))
}

// setModeAndKeptOwner is setModeAndOwner, where -1 keeps an id.
func (i *inode) setModeAndKeptOwner(mode uint16, uid, gid int) {
	if uid < 0 {
		uid = int(i.uid())
	}
	if gid < 0 {
		gid = int(i.gid())
	}
	i.setModeAndOwner(mode, uint32(uid), uint32(gid))
}

// changeLinkCount adds n to an inode's link count. A directory with too many
// subdirectories has the count 1, which means that they are not counted (dir_nlink).
// EMLINK.
func (f *FS) changeLinkCount(i *inode, n int) error {
	v := int(i.linkCount()) + n
	switch {
	case i.isDir() && i.linkCount() == 1 && n != 0:
		v = 1
	case i.isDir() && v >= maxLinks:
		if f.sb.roCompat&roDirNlink == 0 {
			return errLinks
		}
		v = 1
	case v > maxLinks:
		return errLinks
	case v < 0:
		return corruptf("inode %d has too few links", i.num)
	}
	le.PutUint16(i.raw[inLinks:], uint16(v))
	return nil
}

// locateInode returns the block of the inode table that holds an inode, and the offset in
// it.
func (f *FS) locateInode(num uint32) (block uint64, off int, err error) {
	if num == 0 || num > f.sb.inodes {
		return 0, 0, corruptf("inode %d does not exist: there are %d", num, f.sb.inodes)
	}
	group, index := (num-1)/f.sb.inodesPerGroup, (num-1)%f.sb.inodesPerGroup
	d, err := f.readGroupDesc(group)
	if err != nil {
		return 0, 0, err
	}
	at := int64(index) * int64(f.sb.inodeSize)
	block = d.inodeTable() + uint64(at/f.sb.blockSize)
	if block < f.sb.firstBlock || block >= f.sb.blocks {
		return 0, 0, corruptf("the inode table of group %d lies outside the file system", group)
	}
	return block, int(at % f.sb.blockSize), nil
}

// readRawInode reads an inode without any check.
func (f *FS) readRawInode(num uint32) (*inode, error) {
	n, off, err := f.locateInode(num)
	if err != nil {
		return nil, err
	}
	b, err := f.getBlock(n)
	if err != nil {
		return nil, err
	}
	return &inode{num, slices.Clone(b.data[off : off+f.sb.inodeSize])}, nil
}

// readInode reads an inode that is in use, and checks it.
func (f *FS) readInode(num uint32) (*inode, error) {
	i, err := f.viewInode(num)
	return i.cloneInode(), err
}

// viewInode is readInode without the copy, for callers that hold fs.mu, and neither change
// the inode nor keep a reference to it.
func (f *FS) viewInode(num uint32) (*inode, error) {
	n, off, err := f.locateInode(num)
	if err != nil {
		return nil, err
	}
	b, err := f.getBlock(n)
	if err != nil {
		return nil, err
	}
	i := &inode{num, b.data[off : off+f.sb.inodeSize : off+f.sb.inodeSize]}
	if f.sb.metadataCsum && !f.isChecksumVerified(b, off) {
		if !verifyInodeChecksum(f.sb.csumSeed, num, i.raw) {
			return nil, corruptf("inode %d has a wrong checksum", num)
		}
		f.noteChecksumVerified(b, off)
	}
	if i.mode() == 0 || i.linkCount() == 0 && le.Uint32(i.raw[inDtime:]) != 0 && !i.hasFlag(flagEAInode) && !f.isOrphan(num) {
		return nil, corruptf("inode %d is not in use", num)
	}
	return i, f.checkInodeFields(i)
}

// checksumVerifiedBit returns the bit in block.verified that says that the checksum of the
// inode at off was verified; 0 for blocks with more inodes than bits.
func (f *FS) checksumVerifiedBit(off int) uint64 {
	if f.sb.blockSize > 32*int64(f.sb.inodeSize) {
		return 0
	}
	return 1 << (off / f.sb.inodeSize)
}

// isChecksumVerified reports whether the checksum of the inode at off was verified before.
func (f *FS) isChecksumVerified(b *block, off int) bool {
	v := b.verified.Load()
	return v>>32 == checkInode && v&f.checksumVerifiedBit(off) != 0
}

// noteChecksumVerified records that the checksum of the inode at off is right. Readers
// race here: mu is only held shared.
func (f *FS) noteChecksumVerified(b *block, off int) {
	for {
		old := b.verified.Load()
		v := uint64(checkInode)<<32 | f.checksumVerifiedBit(off)
		if old>>32 == checkInode {
			v |= old
		}
		if b.verified.CompareAndSwap(old, v) {
			return
		}
	}
}

// checkInodeFields checks the fields of an inode that later code relies on.
func (f *FS) checkInodeFields(i *inode) error {
	switch i.fileType() {
	case typeRegular, typeDir, typeSymlink, typeChar, typeBlock, typeFifo, typeSocket:
	default:
		return corruptf("inode %d has an invalid type", i.num)
	}
	if x := i.extraSize(); x > len(i.raw)-oldInodeSize || x%4 != 0 {
		return corruptf("inode %d has an invalid extra size", i.num)
	}
	// A file has at most 2^32 blocks; for a directory 1 TiB is beyond any real one.
	if i.size() < 0 || i.size() > (maxLogical+1)*f.sb.blockSize || i.isDir() && i.size() > 1<<40 {
		return corruptf("inode %d has an invalid size", i.num)
	}
	if i.hasFlag(flagEncrypted) {
		return unsupportedf("inode %d is encrypted", i.num)
	}
	return nil
}

// storeInode sets the checksum of a changed inode and stores it.
func (f *FS) storeInode(i *inode) error {
	raw, err := f.modifyRawInode(i.num)
	if err != nil {
		return err
	}
	if f.sb.metadataCsum {
		setInodeChecksum(f.sb.csumSeed, i.num, i.raw)
	}
	copy(raw, i.raw)
	return nil
}

// modifyRawInode returns the bytes of an inode in its table for changing.
func (f *FS) modifyRawInode(num uint32) ([]byte, error) {
	n, off, err := f.locateInode(num)
	if err != nil {
		return nil, err
	}
	b, err := f.modifyBlock(n)
	if err != nil {
		return nil, err
	}
	return b[off:][:f.sb.inodeSize], nil
}

// setTimesToNow sets times of an inode to that of the operation under way.
func (f *FS) setTimesToNow(i *inode, stamps ...[2]int) {
	for _, s := range stamps {
		i.setTime(s, f.op.now)
	}
}

// fileModeTypes are the type bits of an io/fs mode for those of a mode on disk, shifted
// right by 12.
var fileModeTypes = [16]fs.FileMode{
	typeDir >> 12: fs.ModeDir, typeSymlink >> 12: fs.ModeSymlink, typeFifo >> 12: fs.ModeNamedPipe, typeSocket >> 12: fs.ModeSocket,
	typeChar >> 12: fs.ModeDevice | fs.ModeCharDevice, typeBlock >> 12: fs.ModeDevice,
}

// specialBits are the setuid, setgid and sticky bits of both kinds of modes.
var specialBits = [...]struct {
	disk uint16
	mode fs.FileMode
}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}}

// fileModeOf converts a mode on disk to an io/fs mode.
func fileModeOf(m uint16) fs.FileMode {
	mode := fs.FileMode(m&0o777) | fileModeTypes[m>>12]
	for _, b := range specialBits {
		if m&b.disk != 0 {
			mode |= b.mode
		}
	}
	return mode
}

// permBitsOf returns the permission, setuid, setgid and sticky bits of an io/fs mode as
// they are on disk.
func permBitsOf(mode fs.FileMode) uint16 {
	m := uint16(mode.Perm())
	for _, b := range specialBits {
		if mode&b.mode != 0 {
			m |= b.disk
		}
	}
	return m
}

// Info describes a file, directory, symbolic link or special file.
type Info struct {
	Name      string // last element of the path; "." for the root
	Ino       uint32
	Mode      fs.FileMode
	Size      int64 // bytes; of a symbolic link, the length of its target
	Allocated int64 // bytes of storage, metadata of the file included
	UID, GID  uint32
	Nlink     uint32 // 1 also for a directory whose links are not counted
	Rdev      uint64 // of a device, as makedev(3) makes it
	Atime     time.Time
	Mtime     time.Time
	Ctime     time.Time
	Btime     time.Time // of birth; zero where inodes have no room for it
	NoXattrs  bool      // it has no extended attributes; false: perhaps it has
}

// inodeInfo describes an inode.
func (f *FS) inodeInfo(i *inode, name string) Info {
	info := Info{
		Name: name, Ino: i.num, Mode: fileModeOf(i.mode()), Size: i.size(), Allocated: f.allocatedBytes(i),
		UID: i.uid(), GID: i.gid(), Nlink: uint32(i.linkCount()),
		Atime: i.readTime(stampAtime), Mtime: i.readTime(stampMtime), Ctime: i.readTime(stampCtime), Btime: i.readTime(stampBirth),
		NoXattrs: !i.hasXattrs(),
	}
	if k := i.fileType(); k == typeChar || k == typeBlock {
		info.Rdev = i.deviceNumber()
	}
	return info
}
