package ext4

import (
	"fmt"
	"hash/crc32"
	"maps"
	"math/bits"
	"slices"
	"sort"
)

// journal is the log (jbd2) of a file system: an inode whose blocks are a superblock and
// then transactions, as in include/linux/jbd2.h.
type journal struct {
	rawSuper       []byte
	extents        []extent
	blocks         uint32 // in use, the superblock included
	first          uint32 // of the blocks that hold transactions
	start          uint32 // where the oldest transaction begins; 0: the log is empty
	sequence       uint32 // of that transaction, or the next one
	incompat       uint32
	seed           uint32
	blockChecksums bool // checksums of version 2 or 3, for every block
	bodyChecksum   bool // of version 1: one in the commit block, for all that is before it

	head uint32 // where the next transaction goes
}

// Offsets in the journal's superblock (journal_superblock_s), kinds and sizes of blocks of
// the log, flags of tags, and features. The fast commit area follows the log.
const (
	jsbMagic    = 0x0
	jsbType     = 0x4
	jsbBlock    = 0xc
	jsbBlocks   = 0x10
	jsbFirst    = 0x14
	jsbSequence = 0x18
	jsbStart    = 0x1c
	jsbErrno    = 0x20
	jsbCompat   = 0x24
	jsbIncompat = 0x28
	jsbROCompat = 0x2c
	jsbUUID     = 0x30
	jsbCsumType = 0x50
	jsbFastLen  = 0x54
	jsbChecksum = 0xfc
	jsbSize     = 1024

	jSuperV1 = 3
	jSuperV2 = 4

	jblockDescriptor = 1
	jblockCommit     = 2
	jblockRevoke     = 5
	jHeaderSize      = 12
	commitSize       = 60
	jTagEscaped      = 1
	jTagSameUUID     = 2
	jTagLast         = 8

	jRevoke      = 1
	j64bit       = 2
	jAsyncCommit = 4
	jCsumV2      = 8
	jCsumV3      = 0x10
	jFastCommit  = 0x20
	jCompatCsum  = 1

	defaultFastLen = 256 // blocks at the end of the log, for fast commits

	// maxLogBlocks bounds the log: more than mke2fs gives.
	maxLogBlocks = 1 << 24
	// maxLogExtents bounds the memory for the extents of the journal.
	maxLogExtents = 1 << 16
	// maxLogged bounds the blocks that a log to be replayed may hold: 4 GiB.
	maxLogged = 1 << 20
	// maxRevokes bounds the revokes in it: more than Linux writes to a log of 1 GiB.
	maxRevokes = 1 << 21
)

// openJournal reads the journal's superblock; nil if the file system has no journal.
func (fs *FS) openJournal() (*journal, error) {
	if fs.sb.compat&compatJournal == 0 {
		return nil, nil
	}
	if le.Uint32(fs.sb.raw[sbJournalDev:]) != 0 || le.Uint32(fs.sb.raw[sbJournalInode:]) == 0 {
		return nil, unsupportedf("an external journal; run e2fsck on the host that has it")
	}
	j := &journal{}
	if err := fs.locateJournal(j); err != nil {
		return nil, err
	}
	raw := make([]byte, fs.sb.blockSize)
	if err := readFull(fs.dev, raw, int64(j.extents[0].start)*fs.sb.blockSize); err != nil {
		return nil, err
	}
	j.rawSuper = raw[:jsbSize]
	return j, j.parseSuperblock(fs.sb.blockSize)
}

// locateJournal finds the blocks of the journal's inode.
func (fs *FS) locateJournal(j *journal) error {
	in, err := fs.readInode(le.Uint32(fs.sb.raw[sbJournalInode:]))
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	var next uint32
	err = fs.eachExtent(in, 0, func(e extent) (bool, error) {
		if e.logical != next || e.unwritten {
			return false, corruptf("the journal has holes")
		}
		if next > maxLogBlocks || len(j.extents) == maxLogExtents {
			return false, unsupportedf("a journal of more than %d blocks, or in more than %d parts", maxLogBlocks, maxLogExtents)
		}
		next += e.n
		j.extents = append(j.extents, e)
		return true, nil
	})
	if err == nil && next < 2 {
		err = corruptf("the journal has only %d blocks", next)
	}
	j.blocks = next
	return err
}

// parseSuperblock checks the journal's superblock and reads its fields.
func (j *journal) parseSuperblock(blockSize int64) error {
	sb := j.rawSuper
	t := be.Uint32(sb[jsbType:])
	if be.Uint32(sb) != journalMagic || t != jSuperV1 && t != jSuperV2 {
		return corruptf("the journal has no superblock")
	}
	if int64(be.Uint32(sb[jsbBlock:])) != blockSize {
		return corruptf("the journal has blocks of %d bytes", be.Uint32(sb[jsbBlock:]))
	}
	var compat uint32
	if t == jSuperV2 {
		compat, j.incompat = be.Uint32(sb[jsbCompat:]), be.Uint32(sb[jsbIncompat:])
	}
	if x := j.incompat &^ (jRevoke | j64bit | jAsyncCommit | jCsumV2 | jCsumV3 | jFastCommit); x != 0 {
		return unsupportedf("a journal with features %#x", x)
	}
	if compat&^jCompatCsum != 0 || t == jSuperV2 && be.Uint32(sb[jsbROCompat:]) != 0 {
		return unsupportedf("a journal with features %#x and %#x", compat, be.Uint32(sb[jsbROCompat:]))
	}
	if j.incompat&(jCsumV2|jCsumV3) == jCsumV2|jCsumV3 || compat&jCompatCsum != 0 && j.incompat&(jCsumV2|jCsumV3) != 0 {
		return corruptf("the journal has checksums of two versions")
	}
	j.bodyChecksum = compat&jCompatCsum != 0
	j.blockChecksums = j.incompat&(jCsumV2|jCsumV3) != 0
	if j.blockChecksums {
		if sb[jsbCsumType] != 4 || j.superblockChecksum() != be.Uint32(sb[jsbChecksum:]) {
			return corruptf("the journal's superblock has a wrong checksum")
		}
		j.seed = crc32c(^uint32(0), sb[jsbUUID:jsbUUID+16])
	}
	n := be.Uint32(sb[jsbBlocks:])
	j.first, j.start, j.sequence = be.Uint32(sb[jsbFirst:]), be.Uint32(sb[jsbStart:]), be.Uint32(sb[jsbSequence:])
	if n > j.blocks {
		return corruptf("the journal states %d blocks, but has %d", n, j.blocks)
	}
	n -= min(n, j.fastCommitBlocks())
	if n < 16 || j.first == 0 || j.first >= n || j.start != 0 && (j.start < j.first || j.start >= n) {
		return corruptf("the journal's superblock states invalid sizes")
	}
	if e := be.Uint32(sb[jsbErrno:]); e != 0 {
		return corruptf("the journal was aborted with error %d", int32(e))
	}
	j.blocks = n
	return nil
}

// superblockChecksum computes the checksum of the journal's superblock.
func (j *journal) superblockChecksum() uint32 {
	c := crc32c(^uint32(0), j.rawSuper[:jsbChecksum])
	return crc32c(crc32c(c, zeros[:4]), j.rawSuper[jsbChecksum+4:])
}

// fastCommitBlocks returns how many blocks at the end of the journal are for fast commits.
func (j *journal) fastCommitBlocks() uint32 {
	if j.incompat&jFastCommit == 0 {
		return 0
	}
	if n := be.Uint32(j.rawSuper[jsbFastLen:]); n != 0 {
		return n
	}
	return defaultFastLen
}

// deviceBlock returns the block of the device where block n of the journal lies.
func (j *journal) deviceBlock(n uint32) uint64 {
	i := sort.Search(len(j.extents), func(i int) bool { return j.extents[i].logical+j.extents[i].n > n })
	e := j.extents[i]
	return e.start + uint64(n-e.logical)
}

// nextBlock returns the block of the log after n: the log is a ring.
func (j *journal) nextBlock(n uint32) uint32 {
	if n++; n >= j.blocks {
		return j.first
	}
	return n
}

// tagSize returns the length of a descriptor's entry. With checksums of version 2 it is
// two bytes longer than without, although the checksum lies in bytes that were there
// before: jbd2 adds room for it all the same (journal_tag_bytes).
func (j *journal) tagSize() int {
	if j.incompat&jCsumV3 != 0 {
		return 16
	}
	n := 8
	if j.incompat&j64bit != 0 {
		n += 4
	}
	if j.incompat&jCsumV2 != 0 {
		n += 2
	}
	return n
}

// verifyTailChecksum checks the checksum at the end of a descriptor or revoke block.
func (j *journal) verifyTailChecksum(b []byte) bool {
	n := len(b) - 4
	return !j.blockChecksums || crc32c(crc32c(j.seed, b[:n]), zeros[:4]) == be.Uint32(b[n:])
}

// verifyCommitChecksum checks the checksum in a commit block.
func (j *journal) verifyCommitChecksum(b []byte) bool {
	if !j.blockChecksums {
		return true
	}
	head := crc32c(crc32c(crc32c(j.seed, b[:16]), zeros[:4]), b[20:commitSize])
	sum := be.Uint32(b[16:])
	if crc32c(head, b[commitSize:]) == sum {
		return true
	}
	// Of a torn commit block only the first sector may be new: it counts as if the
	// rest were zeros, which it is when it is whole.
	rest := make([]byte, len(b)-commitSize)
	return crc32c(head, rest) == sum
}

// verifyBodyChecksum checks the checksum of version 1 in a commit block: a CRC-32 over all
// blocks of the transaction before it. A commit block without one is valid too.
func (j *journal) verifyBodyChecksum(sum uint32, commit []byte) bool {
	kind, size, want := commit[12], commit[13], be.Uint32(commit[16:])
	return !j.bodyChecksum || kind == 1 && size == 4 && want == sum || kind == 0 && size == 0 && want == 0
}

// crc32BigEndian adds bytes to a CRC-32 that takes the highest bit first (crc32_be in
// Linux): the usual one, with the bits of all numbers reversed.
func crc32BigEndian(c uint32, b []byte) uint32 {
	for _, v := range b {
		c = c<<8 ^ bits.Reverse32(crc32.IEEETable[bits.Reverse8(byte(c>>24)^v)])
	}
	return c
}

// addToBodyChecksum adds a block to the checksum of version 1, if the journal has that.
func (j *journal) addToBodyChecksum(sum *uint32, b []byte) {
	if j.bodyChecksum {
		*sum = crc32BigEndian(*sum, b)
	}
}

// dataChecksum returns the checksum of a logged block for its tag; 0 if the journal has
// none.
func (j *journal) dataChecksum(sequence uint32, data []byte) uint32 {
	if !j.blockChecksums {
		return 0
	}
	var s [4]byte
	be.PutUint32(s[:], sequence)
	c := crc32c(crc32c(j.seed, s[:]), data)
	if j.incompat&jCsumV2 != 0 {
		c &= 0xffff
	}
	return c
}

// tag is an entry of a descriptor block: which block of the device a logged block is a
// version of.
type tag struct {
	to    uint64
	flags uint32
	sum   uint32
}

// parseTags reads the entries of a descriptor block.
func (j *journal) parseTags(b []byte) []tag {
	var list []tag
	size, end := j.tagSize(), len(b)
	if j.blockChecksums {
		end -= 4
	}
	for off := jHeaderSize; off+size <= end; off += size {
		t := tag{to: uint64(be.Uint32(b[off:]))}
		if j.incompat&jCsumV3 != 0 {
			t.flags, t.sum = be.Uint32(b[off+4:]), be.Uint32(b[off+12:])
		} else {
			t.sum, t.flags = uint32(be.Uint16(b[off+4:])), uint32(be.Uint16(b[off+6:]))
		}
		if j.incompat&j64bit != 0 {
			t.to |= uint64(be.Uint32(b[off+8:])) << 32
		}
		list = append(list, t)
		if t.flags&jTagLast != 0 {
			break
		}
		if t.flags&jTagSameUUID == 0 {
			off += 16
		}
	}
	return list
}

// parseRevokes reads a revoke block: numbers of blocks that must not be replayed from this
// transaction or an earlier one.
func (j *journal) parseRevokes(b []byte) ([]uint64, error) {
	n, size := int(be.Uint32(b[jHeaderSize:])), 4
	if j.incompat&j64bit != 0 {
		size = 8
	}
	end := len(b)
	if j.blockChecksums {
		end -= 4
	}
	if n > end {
		return nil, corruptf("the journal has a revoke block of %d bytes", n)
	}
	var list []uint64
	for off := 16; off+size <= n; off += size {
		if size == 8 {
			list = append(list, be.Uint64(b[off:]))
		} else {
			list = append(list, uint64(be.Uint32(b[off:])))
		}
	}
	return list, nil
}

// upgradeFormat gives an empty log the format in which this package writes: jbd2 version 2
// with 64-bit block numbers and a checksum for every block, as Linux does with
// metadata_csum.
func (j *journal) upgradeFormat() {
	be.PutUint32(j.rawSuper[jsbType:], jSuperV2)
	be.PutUint32(j.rawSuper[jsbCompat:], be.Uint32(j.rawSuper[jsbCompat:])&^jCompatCsum)
	j.incompat = j.incompat&^(jCsumV2|jAsyncCommit|jFastCommit) | j64bit | jCsumV3 | jRevoke
	be.PutUint32(j.rawSuper[jsbIncompat:], j.incompat)
	j.rawSuper[jsbCsumType] = 4
	j.blockChecksums, j.bodyChecksum = true, false
	j.seed = crc32c(^uint32(0), j.rawSuper[jsbUUID:jsbUUID+16])
}

// readLogBlock reads block n of the journal.
func (fs *FS) readLogBlock(j *journal, n uint32, b []byte) error {
	return readFull(fs.dev, b, int64(j.deviceBlock(n))*fs.sb.blockSize)
}

// sortedBlockNumbers returns the keys of a map by block number, in ascending order.
func sortedBlockNumbers[V any](m map[uint64]V) []uint64 {
	list := slices.AppendSeq(make([]uint64, 0, len(m)), maps.Keys(m))
	slices.Sort(list)
	return list
}
