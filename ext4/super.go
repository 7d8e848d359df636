package ext4

import (
	"bytes"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strings"
)

// superblock is a parsed and checked superblock. All counts are in blocks, also with
// bigalloc.
type superblock struct {
	raw            []byte // as on disk
	blockSize      int64
	blocks         uint64
	firstBlock     uint64 // first block of group 0: 1 where blocks have 1 KiB
	blocksPerGroup uint32 // blocks of a group
	inodesPerGroup uint32 // inodes of a group
	groups         uint32
	inodes         uint32
	clusterBlocks  uint32 // blocks of a cluster, which one bit of a bitmap stands for
	descSize       int
	inodeSize      int
	compat         uint32
	incompat       uint32
	roCompat       uint32
	metadataCsum   bool // metadata_csum
	csumSeed       uint32
	firstUserInode uint32
	firstMetaBG    uint32 // first block of descriptors that lies in its own group
	reservedDescs  uint32 // blocks for more descriptors
	hash           hasher
}

// parseSuperblock parses and checks a superblock for a device of size bytes; 0: unknown.
func parseSuperblock(raw []byte, size int64) (*superblock, error) {
	u32 := func(o int) uint32 { return le.Uint32(raw[o:]) }
	if le.Uint16(raw[sbMagic:]) != superMagic {
		return nil, ErrNoFileSystem
	}
	sb := &superblock{raw: bytes.Clone(raw)}
	if u32(sbRevision) > 0 {
		sb.compat, sb.incompat, sb.roCompat = u32(sbCompat), u32(sbIncompat), u32(sbROCompat)
	}
	if x := sb.incompat &^ readableIncompat; x != 0 {
		return nil, unsupportedf("features %s", featureNames(incompatNames, x))
	}
	sb.metadataCsum = sb.roCompat&roMetadataCsum != 0
	if sb.metadataCsum {
		if t := raw[sbChecksumType]; t != 1 {
			return nil, unsupportedf("metadata checksums of type %d", t)
		}
		if superblockChecksum(raw) != u32(sbChecksum) {
			return nil, corruptf("the superblock has a wrong checksum")
		}
	}
	if err := sb.parseGeometry(); err != nil {
		return nil, err
	}
	if size > 0 && sb.blocks > uint64(size/sb.blockSize) {
		// e2fsck cannot bring it back.
		return nil, fmt.Errorf("%w: its end is missing: the file system has %d blocks of %d bytes, but the image has only %d bytes",
			ErrCorrupt, sb.blocks, sb.blockSize, size)
	}
	return sb, sb.parseFeatureFields()
}

// parseGeometry reads the sizes, and refuses those that later code cannot rely on.
func (s *superblock) parseGeometry() error {
	u32 := func(o int) uint32 { return le.Uint32(s.raw[o:]) }
	if u32(sbLogBlock) > 6 {
		return corruptf("the superblock states blocks of 2^%d KiB", u32(sbLogBlock))
	}
	s.blockSize = 1024 << u32(sbLogBlock)
	s.blocks = uint64(u32(sbBlocksLo))
	s.descSize = 32
	if s.incompat&incompat64bit != 0 {
		s.blocks |= uint64(u32(sbBlocksHi)) << 32
		s.descSize = int(le.Uint16(s.raw[sbDescSize:]))
		if s.descSize < 64 || s.descSize > 1024 || bits.OnesCount(uint(s.descSize)) != 1 {
			return corruptf("the superblock states group descriptors of %d bytes", s.descSize)
		}
	}
	s.inodeSize, s.firstUserInode = oldInodeSize, firstInode
	if u32(sbRevision) > 0 {
		s.inodeSize, s.firstUserInode = int(le.Uint16(s.raw[sbInodeSize:])), u32(sbFirstInode)
	}
	if s.inodeSize < oldInodeSize || int64(s.inodeSize) > s.blockSize || bits.OnesCount(uint(s.inodeSize)) != 1 {
		return corruptf("the superblock states inodes of %d bytes", s.inodeSize)
	}
	s.clusterBlocks = 1
	if s.roCompat&roBigalloc != 0 {
		shift := u32(sbLogCluster) - u32(sbLogBlock)
		if u32(sbLogCluster) < u32(sbLogBlock) || shift > 16 {
			return corruptf("the superblock states clusters of 2^%d KiB", u32(sbLogCluster))
		}
		s.clusterBlocks = 1 << shift
	}
	s.firstBlock, s.blocksPerGroup, s.inodesPerGroup = uint64(u32(sbFirstData)), u32(sbBlocksPerGroup), u32(sbInodesPerGroup)
	bitmap := uint64(s.blockSize * 8)
	bad := s.blocksPerGroup == 0 || uint64(s.blocksPerGroup/s.clusterBlocks) > bitmap || s.blocksPerGroup%s.clusterBlocks != 0 ||
		s.inodesPerGroup == 0 || uint64(s.inodesPerGroup) > bitmap || int64(s.inodesPerGroup)*int64(s.inodeSize)%s.blockSize != 0 ||
		s.firstBlock > 1 || s.firstBlock == 1 && s.blockSize != 1024 ||
		s.blocks <= s.firstBlock || s.blocks > 1<<48 || s.firstUserInode < firstInode
	if bad {
		return corruptf("the superblock states invalid sizes")
	}
	groups := (s.blocks - s.firstBlock + uint64(s.blocksPerGroup) - 1) / uint64(s.blocksPerGroup)
	if groups > 1<<24 || groups*uint64(s.inodesPerGroup) != uint64(u32(sbInodes)) {
		return corruptf("the superblock states %d inodes in %d groups", u32(sbInodes), groups)
	}
	s.groups, s.inodes = uint32(groups), u32(sbInodes)
	return nil
}

// parseFeatureFields reads the fields that features define.
func (s *superblock) parseFeatureFields() error {
	raw := s.raw
	s.csumSeed = crc32c(^uint32(0), raw[sbUUID:sbUUID+16])
	if s.incompat&incompatCsumSeed != 0 {
		s.csumSeed = le.Uint32(raw[sbChecksumSeed:])
	}
	s.firstMetaBG = ^uint32(0)
	if s.incompat&incompatMetaBG != 0 {
		s.firstMetaBG = le.Uint32(raw[sbFirstMetaBG:])
	}
	// Kept also when tune2fs took the feature away: Linux and e2fsck count them all the same.
	s.reservedDescs = uint32(le.Uint16(raw[sbReservedGDT:]))
	if int64(s.reservedDescs) > s.blockSize/4 {
		return corruptf("the superblock reserves %d blocks for descriptors", s.reservedDescs)
	}
	s.hash = hasher{unsigned: le.Uint32(raw[sbFlags:])&flagUnsigned != 0}
	for i := range s.hash.seed {
		s.hash.seed[i] = le.Uint32(raw[sbHashSeed+4*i:])
	}
	return nil
}

// volumeLabel returns the label.
func (s *superblock) volumeLabel() string {
	label, _, _ := bytes.Cut(s.raw[sbLabel:sbLabel+maxLabel], []byte{0})
	return string(label)
}

// splitCount reads a count whose halves of 32 bits lie at two offsets.
func (s *superblock) splitCount(lo, hi int) uint64 {
	n := uint64(le.Uint32(s.raw[lo:]))
	if s.incompat&incompat64bit != 0 {
		n |= uint64(le.Uint32(s.raw[hi:])) << 32
	}
	return n
}

// hasSuperblock reports whether a group begins with the superblock or a backup of it.
func (s *superblock) hasSuperblock(g uint32) bool {
	switch {
	case s.compat&compatSparseSuper2 != 0:
		return g == 0 || g == le.Uint32(s.raw[sbBackups:]) || g == le.Uint32(s.raw[sbBackups+4:])
	case s.roCompat&roSparseSuper == 0:
		return true
	}
	return isSparseSuperGroup(g)
}

// groupStart returns the first block of a group.
func (s *superblock) groupStart(g uint32) uint64 {
	return s.firstBlock + uint64(g)*uint64(s.blocksPerGroup)
}

// groupBlockCount returns how many blocks a group has: the last one may be shorter.
func (s *superblock) groupBlockCount(g uint32) uint32 {
	if g == s.groups-1 {
		return uint32(s.blocks - s.groupStart(g))
	}
	return s.blocksPerGroup
}

// locateBlock returns the group of a block, and its index in the group's bitmap.
func (s *superblock) locateBlock(block uint64) (g, index uint32) {
	return uint32((block - s.firstBlock) / uint64(s.blocksPerGroup)), uint32((block - s.firstBlock) % uint64(s.blocksPerGroup))
}

// groupsForBlocks returns how many groups a file system of so many blocks has.
func (s *superblock) groupsForBlocks(blocks uint64) uint32 {
	return uint32((blocks - s.firstBlock + uint64(s.blocksPerGroup) - 1) / uint64(s.blocksPerGroup))
}

// descsPerBlock returns how many group descriptors a block holds.
func (s *superblock) descsPerBlock() uint32 { return uint32(s.blockSize) / uint32(s.descSize) }

// descBlockCount returns how many blocks the group descriptors take.
func (s *superblock) descBlockCount() uint32 {
	return (s.groups + s.descsPerBlock() - 1) / s.descsPerBlock()
}

// locateGroupDesc returns where the descriptor of a group lies: after the superblock or,
// with meta_bg, in the first of the groups that share its block.
func (s *superblock) locateGroupDesc(g uint32) (block uint64, offset int) {
	n := g / s.descsPerBlock()
	offset = int(g%s.descsPerBlock()) * s.descSize
	if n < s.firstMetaBG {
		return s.superblockNumber() + 1 + uint64(n), offset
	}
	own := n * s.descsPerBlock()
	block = s.groupStart(own)
	if s.hasSuperblock(own) {
		block++
	}
	if own == 0 {
		block = s.superblockNumber() + 1
	}
	return block, offset
}

// metaBGGroups returns the groups that, with meta_bg, hold block n of the descriptors: the
// first, second and last of the groups that it describes.
func (s *superblock) metaBGGroups(n uint32) []uint32 {
	first, per := n*s.descsPerBlock(), s.descsPerBlock()
	return slices.DeleteFunc([]uint32{first, first + 1, first + per - 1}, func(g uint32) bool { return g >= s.groups })
}

// superblockNumber returns the block that holds the primary superblock; superblockOffset
// is the place in it.
func (s *superblock) superblockNumber() uint64 { return uint64(superOffset / s.blockSize) }
func (s *superblock) superblockOffset() int    { return int(superOffset % s.blockSize) }

// baseMetaBlocks returns how many blocks at the start of a group hold superblock, group
// descriptors, and blocks reserved for more descriptors.
func (s *superblock) baseMetaBlocks(g uint32) uint32 {
	var n uint32
	if s.hasSuperblock(g) {
		n = 1
	}
	per := s.descsPerBlock()
	if g == 0 && s.firstBlock == 0 && s.blockSize == 1024 {
		n++ // the boot block, with bigalloc
	}
	if g/per < s.firstMetaBG {
		if n == 0 {
			return 0
		}
		return n + min(s.firstMetaBG, s.descBlockCount()) + s.reservedDescs
	}
	if k := g % per; k == 0 || k == 1 || k == per-1 {
		n++
	}
	return n
}

// inodeTableBlocks returns how many blocks the inode table of a group takes.
func (s *superblock) inodeTableBlocks() uint64 {
	return uint64(s.inodesPerGroup) * uint64(s.inodeSize) / uint64(s.blockSize)
}

// backupSuperOffsets returns where backups of the superblock may lie, in bytes: what
// mke2fs and Format choose, for each block size.
func backupSuperOffsets(size int64) []int64 {
	var at []int64
	for _, blockSize := range []int64{4096, 1024, 2048, 8192, 16384, 32768, 65536} {
		per := blockSize * 8
		first := int64(0)
		if blockSize == 1024 {
			first = 1
		}
		for _, g := range []int64{1, 3, 5, 7, 9, 25, 27, 49} {
			if off := (first + g*per) * blockSize; size == 0 || off+superSize <= size {
				at = append(at, off)
			}
		}
	}
	return at
}

// loadSuperblock reads the superblock, or a backup of it if the primary is damaged.
func loadSuperblock(dev io.ReaderAt, size int64) (s *superblock, fromBackup bool, err error) {
	raw := make([]byte, superSize)
	if err := readFull(dev, raw, superOffset); err != nil {
		return nil, false, err
	}
	s, err = parseSuperblock(raw, size)
	if err == nil {
		return s, false, nil
	}
	if !isCorrupt(err) {
		return nil, false, err
	}
	for _, off := range backupSuperOffsets(size) {
		if readFull(dev, raw, off) != nil {
			continue
		}
		b, berr := parseSuperblock(raw, size)
		if berr != nil || le.Uint16(raw[sbGroupNumber:]) == 0 {
			continue
		}
		// A copy knows where it lies; one that was left of an older file system does not fit.
		g := uint32(le.Uint16(raw[sbGroupNumber:]))
		if int64(b.groupStart(g))*b.blockSize != off {
			continue
		}
		return b, true, nil
	}
	return nil, false, err
}

// incompatNames are the names of incompatible features in mke2fs.
var incompatNames = map[uint32]string{
	incompatCompression: "compression", incompatJournalDev: "journal_dev", incompatMetaBG: "meta_bg",
	incompatMMP: "mmp", incompatEAInode: "ea_inode", incompatDirdata: "dirdata", incompatInlineData: "inline_data",
	incompatEncrypt: "encrypt", incompatCasefold: "casefold", incompatFiletype: "filetype", incompatExtents: "extent",
	incompat64bit: "64bit", incompatFlexBG: "flex_bg", incompatCsumSeed: "metadata_csum_seed", incompatLargeDir: "large_dir",
	incompatRecover: "needs_recovery",
}

// roNames are the names of read-only compatible features in mke2fs.
var roNames = map[uint32]string{
	roGDTCsum: "uninit_bg", roQuota: "quota", roBigalloc: "bigalloc", roReadonly: "read-only", roProject: "project",
	roVerity: "verity", roSparseSuper: "sparse_super", roLargeFile: "large_file", roHugeFile: "huge_file",
	roDirNlink: "dir_nlink", roExtraIsize: "extra_isize", roMetadataCsum: "metadata_csum", roOrphanPresent: "orphan_present",
}

// compatNames are the names of compatible features in mke2fs.
var compatNames = map[uint32]string{
	compatJournal: "has_journal", compatExtAttr: "ext_attr", compatResizeInode: "resize_inode", compatDirIndex: "dir_index",
	compatSparseSuper2: "sparse_super2", compatFastCommit: "fast_commit", compatOrphanFile: "orphan_file",
	compatStableInodes: "stable_inodes", compatImagicInodes: "imagic_inodes", compatDirPrealloc: "dir_prealloc",
	compatLazyBG: "lazy_bg", compatExcludeBitmap: "exclude_bitmap",
}

// featureNames names the features of a set as mke2fs does; unknown ones by bit.
func featureNames(names map[uint32]string, set uint32) string {
	var list []string
	for i := range 32 {
		f := uint32(1) << i
		if set&f == 0 {
			continue
		}
		n, ok := names[f]
		if !ok {
			n = fmt.Sprintf("FEATURE_%02d", i)
		}
		list = append(list, n)
	}
	return strings.Join(list, " ")
}
