package ext4

import "strings"

// With the feature fast_commit Linux logs small changes in the blocks at the end of the
// log: fast commits, which say in a few tags what changed since the last transaction. The
// format is that of fs/ext4/fast_commit.h: a tag has a kind, a length and a value, all
// little-endian. The first fast commit begins with a head; each ends with a tail, which
// fills its last block and holds the number of the transaction under way and a checksum.
const (
	fastAddRange = 1 + iota
	fastDelRange
	fastCreate
	fastLink
	fastUnlink
	fastInode
	fastPad
	fastTail
	fastHead
)

// Sizes in bytes, and limits.
const (
	fastTagLen   = 4 // of a tag without its value
	fastTailSize = 8

	// These bound how many blocks of fast commits are read, and how many bytes: tags take
	// more in memory than in the log. Linux makes 256 blocks by default.
	maxFastBlocks = 4096
	maxFastBytes  = 16 << 20
)

// fastTag is one change in a fast commit.
type fastTag struct {
	kind   uint16
	ino    uint32
	parent uint32
	name   string
	raw    []byte // the inode, as long as Linux logs it
	span   extent // the range; of one that is removed only its place in the file
}

// rawFastTag is a tag before its value is parsed.
type rawFastTag struct {
	kind uint16
	data []byte
}

// fastScan collects the tags of complete fast commits.
type fastScan struct {
	number    uint32       // of the transaction that they belong to
	sum       uint32       // of the fast commit under way
	pending   []rawFastTag // of the fast commit under way
	committed []rawFastTag // of complete ones, each with its tail
	ended     bool         // no valid tag follows
}

// readFastCommits reads the fast commits that follow the last transaction; next is the
// sequence number that would follow it. They end at the first incomplete one, as a crash
// leaves it. An incomplete first one is damage: Linux refuses to mount such a file system.
func (fs *FS) readFastCommits(j *journal, next uint32) ([]fastTag, error) {
	length := j.fastCommitBlocks()
	if j.start == 0 || length < 2 {
		return nil, nil
	}
	scan := fastScan{number: next}
	for k := uint32(1); k < length && !scan.ended; k++ { // jbd2 leaves the first block out
		b := make([]byte, fs.sb.blockSize)
		if err := fs.readLogBlock(j, j.blocks+k, b); err != nil {
			return nil, err
		}
		if k == 1 && (le.Uint16(b) != fastHead || le.Uint16(b[2:]) == 8 && le.Uint32(b[8:]) != next) {
			return nil, nil
		}
		if most := min(maxFastBlocks, maxFastBytes/fs.sb.blockSize); int64(k) > most {
			return nil, unsupportedf("a journal with more than %d blocks of fast commits; run e2fsck, or mount it once", most)
		}
		if err := scan.scanBlock(b, k == 1); err != nil {
			return nil, err
		}
	}
	if len(scan.committed) == 0 {
		return nil, corruptf("the first fast commit in the journal is incomplete")
	}
	return fs.parseFastTags(scan.committed)
}

// parseFastTags parses all tags.
func (fs *FS) parseFastTags(raw []rawFastTag) ([]fastTag, error) {
	tags := make([]fastTag, 0, len(raw))
	for _, r := range raw {
		tag, err := fs.parseFastTag(r)
		if err != nil {
			return nil, err
		}
		tags = append(tags, tag)
	}
	return tags, nil
}

// scanBlock reads the tags in a block, up to the first that cannot be part of a complete
// fast commit.
func (s *fastScan) scanBlock(b []byte, first bool) error {
	for off := 0; off+fastTagLen <= len(b); {
		kind, n := le.Uint16(b[off:]), int(le.Uint16(b[off+2:]))
		if n > len(b)-off-fastTagLen {
			s.ended = true
			return nil
		}
		tag := b[off : off+fastTagLen+n]
		data := tag[fastTagLen:]
		switch kind {
		case fastAddRange, fastDelRange, fastCreate, fastLink, fastUnlink, fastInode:
			s.pending = append(s.pending, rawFastTag{kind, data})
			s.sum = crc32c(s.sum, tag)
		case fastPad:
			s.sum = crc32c(s.sum, tag)
		case fastTail:
			s.scanTail(tag)
		case fastHead:
			if s.ended = !first || off != 0 || n != 8; s.ended {
				return nil // left of an older round
			}
			if features := le.Uint32(data); features != 0 {
				return unsupportedf("fast commits with features %#x; run e2fsck, or mount it once", features)
			}
			s.sum = crc32c(s.sum, tag)
		default:
			s.ended = true
		}
		if s.ended {
			return nil
		}
		off += len(tag)
	}
	return nil
}

// scanTail completes the current fast commit if its number and checksum are right.
func (s *fastScan) scanTail(tag []byte) {
	data := tag[fastTagLen:]
	if len(data) < fastTailSize || le.Uint32(data) != s.number || crc32c(s.sum, tag[:fastTagLen+4]) != le.Uint32(data[4:]) {
		s.ended = true
		return
	}
	s.committed = append(s.committed, s.pending...)
	s.committed = append(s.committed, rawFastTag{kind: fastTail})
	s.pending, s.sum = nil, 0
}

// parseFastTag parses a tag of a complete fast commit and checks its values.
func (fs *FS) parseFastTag(r rawFastTag) (fastTag, error) {
	tag, data := fastTag{kind: r.kind}, r.data
	valid := false
	switch r.kind {
	case fastTail:
		return tag, nil
	case fastAddRange:
		if len(data) == 4+extentEntryLen {
			node := make(extentNode, extentHeaderLen+extentEntryLen)
			copy(node[extentHeaderLen:], data[4:])
			tag.ino, tag.span = le.Uint32(data), node.extentAt(0)
			e := tag.span
			valid = e.n > 0 && e.start >= fs.sb.firstBlock && e.start+uint64(e.n) <= fs.sb.blocks && e.endBlock() <= maxLogical+1
		}
	case fastDelRange:
		if valid = len(data) == 12; valid {
			tag.ino, tag.span = le.Uint32(data), extent{logical: le.Uint32(data[4:]), n: le.Uint32(data[8:])}
		}
	case fastCreate, fastLink, fastUnlink:
		if len(data) > 8 && len(data) <= 8+maxName {
			tag.parent, tag.ino, tag.name = le.Uint32(data), le.Uint32(data[4:]), string(data[8:])
			valid = !isDotName(tag.name) && !strings.ContainsAny(tag.name, "/\x00") && (fs.isUserInode(tag.parent) || tag.parent == rootInode)
		}
	case fastInode:
		if valid = len(data) >= 4+oldInodeSize && len(data) <= 4+fs.sb.inodeSize; valid {
			tag.ino, tag.raw = le.Uint32(data), data[4:]
		}
	}
	if !valid || !fs.isUserInode(tag.ino) && (tag.kind != fastInode || tag.ino != rootInode) {
		return tag, corruptf("a fast commit in the journal has a wrong tag %d of %d bytes", r.kind, len(data))
	}
	return tag, nil
}

// isUserInode reports whether an inode number is not reserved.
func (fs *FS) isUserInode(num uint32) bool { return num >= fs.sb.firstUserInode && num <= fs.sb.inodes }
