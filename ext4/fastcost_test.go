package ext4

import (
	"errors"
	"testing"
)

// Fast commits in large blocks are bounded by their bytes: their tags take ten times as much
// in memory. The log of this image is one block, again and again.
func TestFastCommitsInLargeBlocks(t *testing.T) {
	const size = 64 << 10
	tag := fastEntryTag(fastUnlink, 12, 13, "x")
	var b []byte
	for len(b)+len(tag)+2*fastTagLen+fastTailSize < size {
		b = append(b, tag...)
	}
	first := fastHeadTag()
	seal := func(b []byte) []byte {
		b = appendFastTag(b, fastTail, size-len(b)-fastTagLen)
		b = le.AppendUint32(b, fuzzFastNumber)
		b = le.AppendUint32(b, crc32c(0, b))
		return append(b, make([]byte, size-len(b))...)
	}
	dev := newMemDevice(nil, 4*size)
	if _, err := dev.WriteAt(append(seal(first), seal(b)...), size); err != nil {
		t.Fatal(err)
	}
	read := func(blocks uint32) (int, error) {
		j := &journal{blocks: 1, start: 1, incompat: jFastCommit, rawSuper: make([]byte, 1024)}
		be.PutUint32(j.rawSuper[jsbFastLen:], blocks)
		for k := range blocks + 1 {
			j.extents = append(j.extents, extent{logical: k, n: 1, start: uint64(min(k, 3) - min(k, 1))})
		}
		fs := &FS{dev: dev, sb: openFuzzFS(t).sb}
		fs.sb.blockSize = size
		tags, err := fs.readFastCommits(j, fuzzFastNumber)
		return len(tags), err
	}
	if n, err := read(defaultFastLen); n == 0 || err != nil {
		t.Errorf("what Linux makes by default: %d tags, %v", n, err)
	}
	if n, err := read(maxFastBlocks); !errors.Is(err, ErrUnsupported) {
		t.Errorf("%d tags of a quarter of a GiB, %v; want that they are refused", n, err)
	}
}

func fastHeadTag() []byte {
	return appendFastTag(nil, fastHead, 8, le.AppendUint32(le.AppendUint32(nil, 0), fuzzFastNumber)...)
}

// A new inode at the end of a table that was never cleared, and is large.
func TestFastCommitClaimsInodeOfLargeTable(t *testing.T) {
	fs := openFuzzFS(t)
	fs.beginOperation()
	d, err := fs.modifyGroupDesc(0)
	if err != nil {
		t.Fatal(err)
	}
	dev := newMemDevice(nil, 1<<30)
	fs.dev, fs.size, fs.sb.metadataCsum, fs.sb.roCompat = dev, dev.size, false, fs.sb.roCompat|roGDTCsum
	fs.sb.blocks, fs.sb.inodeSize, fs.sb.inodesPerGroup, fs.sb.inodes = 1<<18, defaultBlock, 8*defaultBlock, 8*defaultBlock
	for at, n := range map[int]uint32{gdFreeInodes: fs.sb.inodesPerGroup, gdUnused: fs.sb.inodesPerGroup} {
		le.PutUint16(d[at:], uint16(n))
	}
	le.PutUint16(d[gdFlags:], groupInodeUninit)
	fs.counters.freeInodes = fs.sb.inodesPerGroup
	r := &fastReplay{fs: fs, touched: map[uint32]bool{}}
	err = r.claimInodeNumber(fs.sb.inodes, false)
	if !errors.Is(err, ErrUnsupported) || len(fs.op.undoLog) > maxFastChanges+1 {
		t.Errorf("%v after %d blocks", err, len(fs.op.undoLog))
	}
}
