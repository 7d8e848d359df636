package ext4

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

const fuzzFastNumber = 7 // of the transaction that the fuzzed fast commits are for

// appendFastTag appends a tag.
func appendFastTag(b []byte, kind, n int, data ...byte) []byte {
	b = le.AppendUint16(le.AppendUint16(b, uint16(kind)), uint16(n))
	return append(b, data...)
}

// buildFastCommitBlocks makes blocks with a head, tags and a right tail of a row of tags.
func buildFastCommitBlocks(tags []byte) [][]byte {
	head := le.AppendUint32(le.AppendUint32(nil, 0), fuzzFastNumber)
	b, list, sum := appendFastTag(nil, fastHead, 8, head...), [][]byte{}, uint32(0)
	put := func(tag []byte) {
		if len(b)+len(tag)+2*fastTagLen+8 > defaultBlock {
			pad := defaultBlock - len(b) - fastTagLen
			b = append(appendFastTag(b, fastPad, pad), make([]byte, pad)...)
			list, sum, b = append(list, b), crc32c(sum, b), nil
		}
		b = append(b, tag...)
	}
	for len(tags) >= fastTagLen {
		n := fastTagLen + int(le.Uint16(tags[2:]))
		if n > len(tags) || n > 1024 {
			break
		}
		if kind := le.Uint16(tags); kind >= fastAddRange && kind <= fastInode {
			put(tags[:n])
		}
		tags = tags[n:]
	}
	b = appendFastTag(b, fastTail, defaultBlock-len(b)-fastTagLen)
	b = le.AppendUint32(b, fuzzFastNumber)
	b = le.AppendUint32(b, crc32c(sum, b))
	return append(list, append(b, make([]byte, defaultBlock-len(b))...))
}

// fastEntryTag is a tag of a name.
func fastEntryTag(kind int, parent, ino uint32, name string) []byte {
	d := append(le.AppendUint32(le.AppendUint32(nil, parent), ino), name...)
	return appendFastTag(nil, kind, len(d), d...)
}

func fastInodeTag(ino uint32, raw []byte) []byte {
	d := append(le.AppendUint32(nil, ino), raw...)
	return appendFastTag(nil, fastInode, len(d), d...)
}

func fastRangeTag(ino uint32, e extent) []byte {
	node := make(extentNode, extentHeaderLen+extentEntryLen)
	node.setExtentAt(0, e)
	d := append(le.AppendUint32(nil, ino), node[extentHeaderLen:]...)
	return appendFastTag(nil, fastAddRange, len(d), d...)
}

// fastSeeds are sound fast commits for the base image.
func fastSeeds(t testing.TB) map[string][]byte {
	fs := openFuzzFS(t)
	dir, file := inodeOfPath(t, fs, "one"), inodeOfPath(t, fs, "one/fragmented")
	made, sub := &inode{2000, slices.Clone(file.raw)}, &inode{2001, slices.Clone(dir.raw)}
	le.PutUint32(made.raw[inGeneration:], 99)
	le.PutUint32(sub.raw[inGeneration:], 98)
	for _, i := range []*inode{made, sub} {
		le.PutUint32(i.raw[inFileACL:], 0)
	}
	gone := &inode{file.num, slices.Clone(file.raw)}
	le.PutUint16(gone.raw[inLinks:], 0)
	free := uint64(2000) // a free block
	del := le.AppendUint32(le.AppendUint32(le.AppendUint32(nil, file.num), 2), 20)
	return map[string][]byte{
		"create": slices.Concat(fastInodeTag(made.num, made.raw[:160]), fastRangeTag(made.num, extent{n: 3, start: free}),
			fastEntryTag(fastCreate, dir.num, made.num, "made")),
		"mkdir": slices.Concat(fastInodeTag(sub.num, sub.raw[:160]), fastEntryTag(fastCreate, dir.num, sub.num, "sub"),
			fastInodeTag(made.num, made.raw[:160]), fastEntryTag(fastCreate, sub.num, made.num, "made")),
		"rename": slices.Concat(fastEntryTag(fastLink, rootInode, file.num, "moved"), fastEntryTag(fastUnlink, dir.num, file.num, "fragmented")),
		"remove": fastEntryTag(fastUnlink, dir.num, file.num, "fragmented"),
		// The kernel at times logs the inode of a file that it is removing, and then refuses that.
		"without a name": slices.Concat(fastEntryTag(fastUnlink, dir.num, file.num, "fragmented"), fastInodeTag(gone.num, gone.raw[:160])),
		"used again": slices.Concat(fastEntryTag(fastUnlink, dir.num, file.num, "fragmented"), fastInodeTag(file.num, made.raw[:160]),
			fastRangeTag(file.num, extent{n: 3, start: free}), fastEntryTag(fastCreate, rootInode, file.num, "new")),
		"ranges": slices.Concat(appendFastTag(nil, fastDelRange, 12, del...), fastRangeTag(file.num, extent{logical: 7, n: 2, start: free}),
			fastRangeTag(file.num, extent{logical: 8, n: 5, start: free + 10, unwritten: true})),
		"odd length": fastInodeTag(made.num, made.raw[:oldInodeSize+1]),
		"long extra": fastInodeTag(made.num, append(slices.Clone(made.raw[:oldInodeSize]), 0xfc, 0xff)),
		"claimed":    fastRangeTag(file.num, extent{n: 1, start: fs.sb.firstBlock + 1}),
		"into a removed directory": slices.Concat(fastInodeTag(sub.num, sub.raw[:160]), fastEntryTag(fastCreate, dir.num, sub.num, "sub"),
			fastEntryTag(fastUnlink, dir.num, sub.num, "sub"), fastInodeTag(made.num, made.raw[:160]), fastEntryTag(fastCreate, sub.num, made.num, "made")),
		"loop": fastEntryTag(fastLink, dir.num, dir.num, "self"),
		"dots": fastEntryTag(fastLink, dir.num, file.num, ".."),
	}
}

// replayFastBlocks replays fast commits on the base image, and returns what it becomes.
func replayFastBlocks(t testing.TB, blocks [][]byte) (*memDevice, error) {
	fs := openFuzzFS(t)
	s := fastScan{number: fuzzFastNumber}
	for k, b := range blocks {
		if err := s.scanBlock(b, k == 0); err != nil {
			return nil, err
		}
	}
	tags, err := fs.parseFastTags(s.committed)
	if err != nil {
		return nil, err
	}
	changed, err := fs.replayFastTags(tags, nil, 0)
	if err != nil {
		return nil, err
	}
	base, err := fuzzBase()
	if err != nil {
		t.Fatal(err)
	}
	dev := newMemDevice(base, base.size)
	for n, data := range changed {
		if _, err := dev.WriteAt(data, int64(n)*defaultBlock); err != nil {
			t.Fatal(err)
		}
	}
	return dev, nil
}

// accounting are the problems that no fast commit may cause, unless there are others.
var accounting = []string{ProblemBlockFree, ProblemBlockLeaked, ProblemShared, ProblemInodeFree, ProblemInodeLeaked,
	ProblemGroupCount, ProblemBitmapSum, ProblemDescChecksum, ProblemMapSum, ProblemInodeSum, ProblemDirSum}

// checkAccounts returns what is wrong with an image.
func checkAccounts(dev *memDevice) (problems []string, only bool) {
	only = true
	err := Check(context.Background(), dev, CheckOptions{Size: dev.size}, func(p Problem) error {
		if p.Code == ProblemSuperCount {
			return nil // recomputed when the log is replayed
		}
		problems = append(problems, p.String())
		only = only && slices.Contains(accounting, p.Code)
		return nil
	})
	if err != nil {
		problems = append(problems, err.Error())
	}
	return problems, only
}

func TestFastCommitSeeds(t *testing.T) {
	for name, tags := range fastSeeds(t) {
		dev, err := replayFastBlocks(t, buildFastCommitBlocks(tags))
		if slices.Contains([]string{"claimed", "into a removed directory", "loop", "dots", "long extra"}, name) {
			if !isCorrupt(err) {
				t.Errorf("%s: %v, want damage", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if problems, _ := checkAccounts(dev); name != "odd length" && len(problems) > 0 {
			t.Errorf("%s: %s", name, strings.Join(problems, "\n"))
		}
	}
}

// Whatever fast commits say, replaying them ends, and what they change is right or reported
// as damage.
func FuzzFastCommits(f *testing.F) {
	for _, tags := range fastSeeds(f) {
		f.Add(tags)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		start := time.Now()
		defer func() {
			if took := time.Since(start); took > 10*mostTime {
				t.Errorf("took %v", took)
			}
		}()
		raw := fastScan{number: fuzzFastNumber}
		for k := 0; len(data) > k*defaultBlock && k < 8; k++ {
			_ = raw.scanBlock(data[k*defaultBlock:min(len(data), (k+1)*defaultBlock)], k == 0)
		}
		dev, err := replayFastBlocks(t, buildFastCommitBlocks(data))
		if err != nil {
			if !isCorrupt(err) && !errors.Is(err, ErrUnsupported) && !errors.Is(err, errNoSpace) && !errors.Is(err, errLinks) && !errors.Is(err, errTooBig) {
				t.Error(err)
			}
			return
		}
		if problems, only := checkAccounts(dev); only && len(problems) > 0 {
			t.Error(strings.Join(problems, "\n"))
		}
		readQuietly(dev)
	})
}

// What fast commits may cost is bounded.
func TestFastReplayBounds(t *testing.T) {
	tags := fastSeeds(t)["create"]
	scan := fastScan{number: fuzzFastNumber}
	if err := scan.scanBlock(buildFastCommitBlocks(tags)[0], true); err != nil {
		t.Fatal(err)
	}
	start := func() *fastReplay {
		fs := openFuzzFS(t)
		fs.beginOperation()
		return &fastReplay{fs: fs, touched: map[uint32]bool{}, extraNames: map[uint32]int{}}
	}
	parsed, err := start().fs.parseFastTags(scan.committed)
	if err != nil {
		t.Fatal(err)
	}
	slow, many, wide := start(), start(), start()
	slow.usesLeft = 3
	many.released = make([]run, maxFastReleases)
	wide.fs.sb.blocksPerGroup, wide.fs.sb.blocks = 8, 1<<30
	for what, err := range map[string]error{
		"many uses of blocks": slow.replayTags(parsed),
		"many releases":       many.noteReleased(run{2000, 1}),
		"many groups":         wide.holdBlocks(run{1 << 10, 1 << 20}),
		"many changes":        start().checkChangeLimit(maxFastChanges + 1),
	} {
		if !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := len(wide.fs.heldBlocks); n > maxFastChanges+1 {
		t.Errorf("blocks of %d groups are held", n)
	}
}
