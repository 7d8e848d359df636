package ext4

import (
	"encoding/binary"
	"hash/crc32"
)

// All fields on disk are little-endian, except the journal's (jbd2), which are big-endian.
// Offsets and constants are those of the Linux kernel's documentation,
// Documentation/filesystems/ext4, and of fs/ext4/ext4.h and include/linux/jbd2.h.
var (
	le = binary.LittleEndian
	be = binary.BigEndian
)

// Compatible features: an image with unknown ones may be read and written.
const (
	compatJournal       = 0x4
	compatExtAttr       = 0x8
	compatResizeInode   = 0x10
	compatDirIndex      = 0x20
	compatSparseSuper2  = 0x200
	compatFastCommit    = 0x400
	compatStableInodes  = 0x800
	compatOrphanFile    = 0x1000
	compatImagicInodes  = 0x2
	compatDirPrealloc   = 0x1
	compatLazyBG        = 0x40
	compatExcludeBitmap = 0x100
)

// Incompatible features: an image with unknown ones must not be touched.
const (
	incompatCompression = 0x1
	incompatFiletype    = 0x2
	incompatRecover     = 0x4
	incompatJournalDev  = 0x8
	incompatMetaBG      = 0x10
	incompatExtents     = 0x40
	incompat64bit       = 0x80
	incompatMMP         = 0x100
	incompatFlexBG      = 0x200
	incompatEAInode     = 0x400
	incompatDirdata     = 0x1000
	incompatCsumSeed    = 0x2000
	incompatLargeDir    = 0x4000
	incompatInlineData  = 0x8000
	incompatEncrypt     = 0x10000
	incompatCasefold    = 0x20000
)

// Read-only compatible features: an image with unknown ones may be read.
const (
	roSparseSuper   = 0x1
	roLargeFile     = 0x2
	roHugeFile      = 0x8
	roGDTCsum       = 0x10
	roDirNlink      = 0x20
	roExtraIsize    = 0x40
	roQuota         = 0x100
	roBigalloc      = 0x200
	roMetadataCsum  = 0x400
	roReadonly      = 0x1000
	roProject       = 0x2000
	roVerity        = 0x8000
	roOrphanPresent = 0x10000
)

// What this package can read and write, by features. Formats that it does not write lack a
// feature of neededIncompat, or have one outside writableIncompat and writableROCompat.
const (
	// readableIncompat are the incompatible features that are understood.
	readableIncompat = incompatFiletype | incompatRecover | incompatMetaBG | incompatExtents | incompat64bit | incompatMMP |
		incompatFlexBG | incompatEAInode | incompatCsumSeed | incompatLargeDir | incompatInlineData |
		incompatEncrypt | incompatCasefold
	// writableIncompat are those of them with which an image is also written.
	writableIncompat = incompatFiletype | incompatRecover | incompatMetaBG | incompatExtents | incompat64bit |
		incompatFlexBG | incompatCsumSeed | incompatLargeDir
	// neededIncompat are those without which it is not.
	neededIncompat = incompatFiletype | incompatExtents
	// writableROCompat are the read-only compatible features with which an image is written.
	writableROCompat = roSparseSuper | roLargeFile | roHugeFile | roDirNlink | roExtraIsize | roMetadataCsum | roOrphanPresent
)

// Offsets in the superblock, which lies 1024 bytes into the device.
const (
	superOffset = 1024
	superSize   = 1024

	sbInodes         = 0x0
	sbBlocksLo       = 0x4
	sbReservedLo     = 0x8
	sbFreeBlocksLo   = 0xc
	sbFreeInodes     = 0x10
	sbFirstData      = 0x14
	sbLogBlock       = 0x18
	sbLogCluster     = 0x1c
	sbBlocksPerGroup = 0x20
	sbClustersPer    = 0x24
	sbInodesPerGroup = 0x28
	sbMtime          = 0x2c
	sbWtime          = 0x30
	sbMountCount     = 0x34
	sbMaxMounts      = 0x36
	sbMagic          = 0x38
	sbState          = 0x3a
	sbErrors         = 0x3c
	sbLastCheck      = 0x40
	sbRevision       = 0x4c
	sbFirstInode     = 0x54
	sbInodeSize      = 0x58
	sbGroupNumber    = 0x5a
	sbCompat         = 0x5c
	sbIncompat       = 0x60
	sbROCompat       = 0x64
	sbUUID           = 0x68
	sbLabel          = 0x78
	sbReservedGDT    = 0xce
	sbJournalUUID    = 0xd0
	sbJournalInode   = 0xe0
	sbJournalDev     = 0xe4
	sbLastOrphan     = 0xe8
	sbHashSeed       = 0xec
	sbHashVersion    = 0xfc
	sbJournalBackup  = 0xfd
	sbDescSize       = 0xfe
	sbMountOpts      = 0x100
	sbFirstMetaBG    = 0x104
	sbMkfsTime       = 0x108
	sbJournalBlocks  = 0x10c
	sbBlocksHi       = 0x150
	sbReservedHi     = 0x154
	sbFreeBlocksHi   = 0x158
	sbMinExtraIsize  = 0x15c
	sbWantExtraIsize = 0x15e
	sbFlags          = 0x160
	sbLogFlex        = 0x174
	sbChecksumType   = 0x175
	sbSnapshotID     = 0x184 // of a feature that was never merged: unused by everyone
	sbErrorCount     = 0x194
	sbOverhead       = 0x248
	sbBackups        = 0x24c
	sbChecksumSeed   = 0x270
	sbOrphanFile     = 0x280
	sbChecksum       = 0x3fc

	superMagic     = 0xef53
	stateClean     = 1
	stateErrors    = 2
	flagSignedHash = 1
	flagUnsigned   = 2
)

// Offsets in a group descriptor; the second half exists if it has 64 bytes.
const (
	gdBlockBitmap  = 0x0
	gdInodeBitmap  = 0x4
	gdInodeTable   = 0x8
	gdFreeBlocks   = 0xc
	gdFreeInodes   = 0xe
	gdDirs         = 0x10
	gdFlags        = 0x12
	gdBlockCsum    = 0x18
	gdInodeCsum    = 0x1a
	gdUnused       = 0x1c
	gdChecksum     = 0x1e
	gdBlockHi      = 0x20
	gdInodeHi      = 0x24
	gdTableHi      = 0x28
	gdFreeBlocksHi = 0x2c
	gdFreeInodesHi = 0x2e
	gdDirsHi       = 0x30
	gdUnusedHi     = 0x32
	gdBlockCsumHi  = 0x38
	gdInodeCsumHi  = 0x3a

	groupInodeUninit = 1
	groupBlockUninit = 2
	groupInodeZeroed = 4
)

// Offsets in an inode.
const (
	inMode       = 0x0
	inUID        = 0x2
	inSizeLo     = 0x4
	inAtime      = 0x8
	inCtime      = 0xc
	inMtime      = 0x10
	inDtime      = 0x14
	inGID        = 0x18
	inLinks      = 0x1a
	inBlocksLo   = 0x1c
	inFlags      = 0x20
	inBlock      = 0x28
	inGeneration = 0x64
	inFileACL    = 0x68
	inSizeHi     = 0x6c
	inBlocksHi   = 0x74
	inFileACLHi  = 0x76
	inUIDHi      = 0x78
	inGIDHi      = 0x7a
	inChecksum   = 0x7c
	inExtraSize  = 0x80
	inChecksumHi = 0x82
	inCtimeExtra = 0x84
	inMtimeExtra = 0x88
	inAtimeExtra = 0x8c
	inCrtime     = 0x90
	inCrtimeExt  = 0x94

	oldInodeSize = 128
	blockAreaLen = 60 // bytes of inBlock
	wantExtra    = 32 // extra bytes that new inodes use
)

// Flags of an inode.
const (
	flagImmutable = 0x10
	flagAppend    = 0x20
	flagEncrypted = 0x800
	flagIndexed   = 0x1000
	flagHugeFile  = 0x40000
	flagExtents   = 0x80000
	flagVerity    = 0x100000
	flagEAInode   = 0x200000
	flagInline    = 0x10000000
	flagCasefold  = 0x40000000
)

// The type bits of an inode's mode.
const (
	typeMask    = 0xf000
	typeFifo    = 0x1000
	typeChar    = 0x2000
	typeDir     = 0x4000
	typeBlock   = 0x6000
	typeRegular = 0x8000
	typeSymlink = 0xa000
	typeSocket  = 0xc000
)

// Reserved inode numbers, and limits of the format.
const (
	rootInode    = 2
	resizeInode  = 7
	journalInode = 8
	firstInode   = 11 // first that is not reserved, and lost+found

	maxLinks       = 65000
	maxName        = 255
	maxExtent      = 32768 // blocks of one extent
	maxUnwritten   = 32767 // of one that reads as zeros
	maxDepth       = 5     // of an extent tree
	maxSymlinks    = 40    // followed in one path, as in Linux
	maxLogical     = 1<<32 - 1
	maxSymlinkLen  = 4095
	defaultBlock   = 4096
	defaultPer     = 8 * defaultBlock // blocks of a group
	xattrMagic     = 0xea020000
	extentMagic    = 0xf30a
	journalMagic   = 0xc03b3998
	maxLabel       = 16
	maxBlockGroups = 1 << 20 // of 64 TiB, twice over
)

// castagnoli is the table of CRC-32C, the checksum of all metadata except descriptors with
// uninit_bg.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32c is the CRC-32C as ext4 and jbd2 use it: the register goes in and comes out
// without the usual inversions.
func crc32c(register uint32, b []byte) uint32 {
	return ^crc32.Update(^register, castagnoli, b)
}

// crc32cUint32 adds a little-endian number to a checksum.
func crc32cUint32(register, v uint32) uint32 {
	var b [4]byte
	le.PutUint32(b[:], v)
	return crc32c(register, b[:])
}

// crc32cUint64 adds a little-endian number to a checksum.
func crc32cUint64(register uint32, v uint64) uint32 {
	var b [8]byte
	le.PutUint64(b[:], v)
	return crc32c(register, b[:])
}

// zeros stands for fields that count as zeros in a checksum, and for holes.
var zeros [defaultBlock]byte

// superblockChecksum computes the checksum of a superblock.
func superblockChecksum(sb []byte) uint32 { return crc32c(^uint32(0), sb[:sbChecksum]) }

// inodeChecksum computes the checksum of an inode. An inode of 128 bytes stores only half
// of it.
func inodeChecksum(seed, ino uint32, raw []byte) uint32 {
	c := crc32cUint32(seed, ino)
	c = crc32c(c, raw[inGeneration:inGeneration+4])
	c = crc32c(c, raw[:inChecksum])
	c = crc32c(c, zeros[:2])
	c = crc32c(c, raw[inChecksum+2:oldInodeSize])
	if len(raw) == oldInodeSize {
		return c
	}
	if !hasChecksumHi(raw) {
		return crc32c(c, raw[oldInodeSize:])
	}
	c = crc32c(c, raw[oldInodeSize:inChecksumHi])
	c = crc32c(c, zeros[:2])
	return crc32c(c, raw[inChecksumHi+2:])
}

// hasChecksumHi reports whether an inode has the field for the upper half of its checksum.
func hasChecksumHi(raw []byte) bool {
	return len(raw) > oldInodeSize && le.Uint16(raw[inExtraSize:]) >= inChecksumHi+2-oldInodeSize
}

// setInodeChecksum stores an inode's checksum in it.
func setInodeChecksum(seed, ino uint32, raw []byte) {
	c := inodeChecksum(seed, ino, raw)
	le.PutUint16(raw[inChecksum:], uint16(c))
	if hasChecksumHi(raw) {
		le.PutUint16(raw[inChecksumHi:], uint16(c>>16))
	}
}

// verifyInodeChecksum checks an inode's checksum.
func verifyInodeChecksum(seed, ino uint32, raw []byte) bool {
	c := inodeChecksum(seed, ino, raw)
	return le.Uint16(raw[inChecksum:]) == uint16(c) &&
		(!hasChecksumHi(raw) || le.Uint16(raw[inChecksumHi:]) == uint16(c>>16))
}

// descChecksum computes the checksum of a group descriptor with metadata_csum.
func descChecksum(seed, group uint32, d []byte) uint16 {
	c := crc32c(crc32cUint32(seed, group), d[:gdChecksum])
	c = crc32c(c, zeros[:2])
	return uint16(crc32c(c, d[gdChecksum+2:]))
}

// ownedBlockChecksum computes the checksum of a block that belongs to an inode: of a
// directory, an index, or an extent tree.
func ownedBlockChecksum(seed, ino, generation uint32, b []byte) uint32 {
	return crc32c(crc32cUint32(crc32cUint32(seed, ino), generation), b)
}

// The tail of a directory block is an unused entry that holds the checksum.
const dirTailLen = 12

// setDirBlockChecksum writes the tail of a directory block: an unused entry that holds the
// checksum.
func setDirBlockChecksum(seed, ino, generation uint32, b []byte) {
	tail := b[len(b)-dirTailLen:]
	clear(tail)
	le.PutUint16(tail[4:], dirTailLen)
	tail[7] = 0xde
	le.PutUint32(tail[8:], ownedBlockChecksum(seed, ino, generation, b[:len(b)-dirTailLen]))
}

// setBits sets n bits of a bitmap from a bit on.
func setBits(bitmap []byte, from, n uint64) { fillBits(bitmap, from, n, 0xff) }

// clearBits clears n bits of a bitmap from a bit on.
func clearBits(bitmap []byte, from, n uint64) { fillBits(bitmap, from, n, 0) }

// fillBits makes n bits of a bitmap, from a bit on, those of value: 0xff or 0.
func fillBits(bitmap []byte, from, n uint64, value byte) {
	for end := from + n; from < end; {
		if from%8 == 0 && from+8 <= end {
			bitmap[from/8] = value
			from += 8
			continue
		}
		bit := byte(1) << (from % 8)
		bitmap[from/8] = bitmap[from/8]&^bit | value&bit
		from++
	}
}

// testBit returns bit i of a bitmap.
func testBit(bitmap []byte, i uint64) bool { return bitmap[i/8]&(1<<(i%8)) != 0 }

// isSparseSuperGroup reports whether a group holds a backup of the superblock with the
// feature sparse_super: the first two, and the powers of 3, 5 and 7.
func isSparseSuperGroup(g uint32) bool {
	if g <= 1 {
		return true
	}
	for _, base := range []uint64{3, 5, 7} {
		p := base
		for p < uint64(g) {
			p *= base
		}
		if p == uint64(g) {
			return true
		}
	}
	return false
}
