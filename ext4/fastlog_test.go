package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
)

// TestAppendTransaction appends to logs of each form, round their end, and reads what was
// appended back.
func TestAppendTransaction(t *testing.T) {
	base, err := fuzzBase()
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[uint64][]byte{}
	for k := range 300 {
		b := bytes.Repeat([]byte{byte(k), byte(k >> 8), 7}, defaultBlock)[:defaultBlock]
		if k%100 == 0 {
			be.PutUint32(b, journalMagic)
		}
		blocks[uint64(1000+k)] = b
	}
	for _, form := range []struct{ incompat, compat uint32 }{
		{jCsumV3 | j64bit, 0}, {jCsumV2 | j64bit, 0}, {jCsumV2, 0}, {j64bit, 0}, {0, 0}, {0, jCompatCsum}, {jCsumV3 | jAsyncCommit, 0},
	} {
		t.Run(fmt.Sprintf("%x %x", form.incompat, form.compat), func(t *testing.T) {
			dev, fs, j := openLogOf(t, base)
			j.incompat, j.bodyChecksum, j.blockChecksums = form.incompat|jRevoke, form.compat != 0, form.incompat&(jCsumV2|jCsumV3) != 0
			j.seed = crc32c(^uint32(0), j.rawSuper[jsbUUID:jsbUUID+16])
			j.start = j.blocks - 20
			if err := fs.appendTransaction(&logScan{j: j, next: j.sequence, end: j.start}, blocks); err != nil {
				t.Fatal(err)
			}
			s, err := fs.scanLog(j)
			if err != nil || len(s.newest) != len(blocks) {
				t.Fatalf("%d blocks are in the log, want %d; %v", len(s.newest), len(blocks), err)
			}
			got := make([]byte, defaultBlock)
			for n, want := range blocks {
				fs.replayedBlocks = map[uint64]logBlock{n: {block: j.deviceBlock(s.newest[n].at), escaped: s.newest[n].escaped}}
				if err := fs.readBlockUncached(n, got); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("block %d is another; %v", n, err)
				}
			}
			if err := fs.appendTransaction(s, map[uint64][]byte{1000: got}); err != nil {
				t.Errorf("a second transaction: %v", err)
			}
			j.start = j.nextBlock(s.end + 300)
			before := make([]byte, 1<<20)
			after := make([]byte, 1<<20)
			at := int64(j.deviceBlock(s.end)) * defaultBlock
			if err := errors.Join(readFull(dev, before, at), expectLogFull(fs.appendTransaction(s, blocks)), readFull(dev, after, at)); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(before, after) {
				t.Error("something was written to a log that is full")
			}
		})
	}
}

// expectLogFull returns an error unless err says that a log has no room.
func expectLogFull(err error) error {
	if !errors.Is(err, ErrUnsupported) {
		return fmt.Errorf("appending to a log that is full: %w", err)
	}
	return nil
}

// TestFastCommitsInFullLog replays fast commits whose changes have no room in the log before
// all of it but the last transaction has come home.
func TestFastCommitsInFullLog(t *testing.T) {
	dev := deviceWithFastCommits(t, defaultFastLen, fastSeeds(t)["mkdir"], func(fs *FS, j *journal) {
		// The transactions fill the log but for a block.
		j.sequence -= 2
		fill := newBlocksOutside(t, fs, j, int(j.blocks-j.first)-12)
		s := &logScan{j: j, next: j.sequence, end: j.start}
		if err := fs.appendTransaction(s, fill); err != nil {
			t.Fatal(err)
		}
		s, err := fs.scanLog(j)
		if err == nil {
			err = fs.appendTransaction(s, map[uint64][]byte{1: fill[1]})
		}
		if err == nil {
			s, err = fs.scanLog(j)
		}
		if err != nil || s.next != fuzzFastNumber {
			t.Fatalf("the log ends before transaction %d; %v", s.next, err)
		}
	})
	for _, readOnly := range []bool{true, false} {
		fs, err := Open(dev, OpenOptions{Size: dev.size, ReadOnly: readOnly})
		if err != nil {
			t.Fatal(err)
		}
		if i, err := fs.Stat("one/sub/made"); err != nil || i.Ino != 2000 {
			t.Errorf("what fast commits made is inode %d; %v", i.Ino, err)
		}
		if err := fs.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if problems, _ := checkAccounts(dev); len(problems) > 0 {
		t.Error(problems)
	}
}

// TestFastCommitsInShortLog refuses fast commits whose changes have no room in an empty log,
// and leaves them.
func TestFastCommitsInShortLog(t *testing.T) {
	const short = 16 // blocks, of which one is the superblock
	base := openFuzzFS(t)
	j, err := base.openJournal()
	if err != nil {
		t.Fatal(err)
	}
	made := inodeOfPath(t, base, "one")
	le.PutUint32(made.raw[inGeneration:], 98)
	le.PutUint32(made.raw[inFileACL:], 0)
	var tags []byte
	for k := range uint32(short) { // each takes a block
		tags = append(tags, fastInodeTag(2000+k, made.raw[:160])...)
		tags = append(tags, fastEntryTag(fastCreate, rootInode, 2000+k, fmt.Sprintf("made%d", k))...)
	}
	dev := deviceWithFastCommits(t, j.blocks-short, tags, func(*FS, *journal) {})
	for range 2 {
		if _, err := Open(dev, OpenOptions{Size: dev.size}); !errors.Is(err, errLogFull) {
			t.Errorf("opening for writing: %v, want %v", err, errLogFull)
		}
	}
	fs, err := Open(dev, OpenOptions{Size: dev.size, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Stat("made15"); err != nil {
		t.Errorf("in memory: %v", err)
	}
}

// openLogOf opens a copy of base, and its log.
func openLogOf(t *testing.T, base *memDevice) (*memDevice, *FS, *journal) {
	t.Helper()
	dev := newMemDevice(base, base.size)
	fs, err := Open(dev, OpenOptions{Size: dev.size, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	j, err := fs.openJournal()
	if err != nil {
		t.Fatal(err)
	}
	return dev, fs, j
}

// deviceWithFastCommits makes an image whose log has fast commits in its last fastCommitBlocks blocks,
// after what fill writes to it.
func deviceWithFastCommits(t *testing.T, fastLen uint32, tags []byte, fill func(fs *FS, j *journal)) *memDevice {
	t.Helper()
	base, err := fuzzBase()
	if err != nil {
		t.Fatal(err)
	}
	dev, fs, j := openLogOf(t, base)
	j.blocks -= fastLen
	j.incompat |= jFastCommit
	be.PutUint32(j.rawSuper[jsbIncompat:], j.incompat)
	be.PutUint32(j.rawSuper[jsbFastLen:], fastLen)
	j.start, j.sequence = j.first, fuzzFastNumber
	fill(fs, j)
	for k, b := range buildFastCommitBlocks(tags) {
		if _, err := dev.WriteAt(b, int64(j.deviceBlock(j.blocks+1+uint32(k)))*defaultBlock); err != nil {
			t.Fatal(err)
		}
	}
	raw := fs.sb.raw
	le.PutUint32(raw[sbIncompat:], le.Uint32(raw[sbIncompat:])|incompatRecover)
	le.PutUint32(raw[sbChecksum:], superblockChecksum(raw))
	if _, err := dev.WriteAt(raw, superOffset); err != nil {
		t.Fatal(err)
	}
	if err := fs.writeJournalSuperblock(j); err != nil {
		t.Fatal(err)
	}
	return dev
}

// newBlocksOutside returns n blocks that are not part of the log.
func newBlocksOutside(t *testing.T, fs *FS, j *journal, n int) map[uint64][]byte {
	t.Helper()
	blocks := map[uint64][]byte{}
	for at := uint64(1); len(blocks) < n; at++ {
		if slices.ContainsFunc(j.extents, func(e extent) bool { return at >= e.start && at < e.start+uint64(e.n) }) {
			continue
		}
		blocks[at] = make([]byte, defaultBlock)
		if err := fs.readBlockUncached(at, blocks[at]); err != nil {
			t.Fatal(err)
		}
	}
	return blocks
}
