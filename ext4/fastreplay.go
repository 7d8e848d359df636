package ext4

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"
)

// Fast commits are first replayed in memory, as one operation on top of the state that
// the transactions of the log leave. The blocks that it changes are then appended to the
// log as one more transaction, which makes the fast commits void. So a crash leaves either
// them, unchanged, or that transaction, and never a half-replayed state.

// Limits of a replay.
const (
	// Fast commits may be hostile, so both the changes in memory and the work for each tag are
	// bounded.
	maxFastChanges     = 1 << 14 // blocks
	maxFastChangeBytes = 1 << 28
	maxFastReleases    = 1 << 20 // runs of blocks
	maxFastOrphans     = 1 << 16
	fastReads          = 1 << 20 // uses of a block in all; of a large one for each defaultBlock of it
	fastReadsPerTag    = 16
)

// fastReplay is the state of a replay of fast commits.
type fastReplay struct {
	fs       *FS
	touched  map[uint32]bool // inodes; true: had no name before
	mapped   []run           // blocks that files got: in use at the end, unless released as often
	released []run           // blocks to be freed at the end, see settleBitmaps
	usesLeft int             // uses of blocks that are left

	orphans    map[uint32]bool   // the superblock's list, as it was before
	logged     map[uint32][]byte // inodes, as the fast commit at hand has them
	extraNames map[uint32]int    // of directories, which have two names while they are renamed
}

// replayFastTags carries out fast commits in memory, and returns the blocks that they
// change. newest are the blocks of the log's transactions, last is the commit time of the
// last one.
func (fs *FS) replayFastTags(tags []fastTag, newest map[uint64]logBlock, last int64) (map[uint64][]byte, error) {
	if err := fs.checkFastFeatures(); err != nil {
		return nil, err
	}
	defer fs.resetAfterFastReplay(fs.replayedBlocks, fs.sb, fs.maxTxBlocks, fs.cache.cleanLimit)
	fs.cache.blocks, fs.cache.cleanCount = map[uint64]*block{}, 0
	fs.cache.cleanLimit = int(defaultCache / fs.sb.blockSize)
	fs.replayedBlocks, fs.maxTxBlocks = newest, 8*maxFastChanges
	if err := errors.Join(fs.reloadSuperblock(), fs.recountFree()); err != nil {
		return nil, err
	}
	if err := fs.loadOrphanList(); err != nil {
		return nil, err
	}
	if len(fs.orphans) > maxFastOrphans {
		return nil, unsupportedf("fast commits and more than %d orphans; run e2fsck, or mount it once", maxFastOrphans)
	}
	orphans := fs.orphans
	r := &fastReplay{
		fs: fs, touched: map[uint32]bool{}, orphans: map[uint32]bool{}, extraNames: map[uint32]int{},
		usesLeft: fastReads + fastReadsPerTag*len(tags),
	}
	for _, num := range orphans {
		r.orphans[num] = true
	}
	fs.beginOperation()
	fs.op.now = fs.fastCommitTime(tags, max(last, int64(le.Uint32(fs.sb.raw[sbWtime:])), int64(le.Uint32(fs.sb.raw[sbMkfsTime:]))))
	if err := r.replayTags(tags); err != nil {
		return nil, err
	}
	err := fs.setGroupChecksums()
	if err == nil && !slices.Equal(orphans, fs.orphans) {
		err = fs.finalizeSuperblock()
	}
	if err != nil {
		return nil, err
	}
	changed := make(map[uint64][]byte, len(fs.tx.blocks))
	for n, b := range fs.tx.blocks {
		changed[n] = b.data
	}
	return changed, nil
}

// resetAfterFastReplay removes everything that a replay in memory left in fs.
func (fs *FS) resetAfterFastReplay(replayed map[uint64]logBlock, sb *superblock, txLimit, cacheLimit int) {
	fs.replayedBlocks, fs.sb, fs.maxTxBlocks = replayed, sb, txLimit
	fs.orphans, fs.fastReplay, fs.heldBlocks, fs.counters = nil, nil, busyBlocks{}, counters{}
	fs.tx, fs.op = newTransaction(fs.tx.seq), operation{id: fs.op.id}
	fs.cache.blocks, fs.cache.cleanCount, fs.cache.cleanLimit = map[uint64]*block{}, 0, cacheLimit
	fs.allocHints = map[uint32]uint32{}
}

// checkFastFeatures refuses features with which names and blocks cannot be changed.
// Read-only, quotas and the like need not be kept.
func (fs *FS) checkFastFeatures() error {
	incompat, ro := uint32(writableIncompat), uint32(writableROCompat)
	if fs.opts.ReadOnly {
		incompat, ro = incompat|incompatMMP|incompatEncrypt, ro|roQuota|roProject|roVerity|roReadonly
	}
	bad := featureNames(incompatNames, fs.sb.incompat&^incompat)
	if x := fs.sb.roCompat &^ ro; x != 0 {
		bad = strings.TrimSpace(bad + " " + featureNames(roNames, x))
	}
	if bad == "" && (neededIncompat&^fs.sb.incompat != 0 || fs.sb.clusterBlocks != 1) {
		bad = "of ext2 and ext3"
	}
	if bad != "" {
		return unsupportedf("a journal with fast commits to be replayed, with features %s; run e2fsck, or mount it once", bad)
	}
	return nil
}

// fastCommitTime returns the time for inodes that the replay changes: the last change of
// an inode in the fast commits, or the last write before. It does not depend on the clock,
// so that a second replay gives the same result.
func (fs *FS) fastCommitTime(tags []fastTag, before int64) time.Time {
	latest := time.Unix(before, 0)
	logged := &inode{raw: make([]byte, fs.sb.inodeSize)}
	for _, tag := range tags {
		if tag.kind != fastInode {
			continue
		}
		clear(logged.raw)
		copy(logged.raw, tag.raw)
		if logged.extraSize() > len(logged.raw)-oldInodeSize {
			continue // damage, which replayInode reports
		}
		if ctime := logged.readTime(stampCtime); ctime.After(latest) {
			latest = ctime
		}
	}
	return latest
}

// replayTags carries out all tags, and then settles inodes and bitmaps.
func (r *fastReplay) replayTags(tags []fastTag) error {
	r.fs.fastReplay = r
	// Directories and extent trees that grow must not take blocks that files will get.
	for _, tag := range tags {
		if tag.kind == fastAddRange {
			if err := r.holdBlocks(run{tag.span.start, tag.span.n}); err != nil {
				return err
			}
		}
	}
	for k, tag := range tags {
		if k == 0 || tags[k-1].kind == fastTail {
			r.logged = inodesOfFirstCommit(tags[k:])
		}
		if err := r.replayTag(tag); err != nil {
			return err
		}
		if err := r.checkChangeLimit(len(r.fs.op.undoLog)); err != nil {
			return err
		}
	}
	for _, num := range slices.Sorted(maps.Keys(r.touched)) {
		if err := r.finishInode(num); err != nil {
			return err
		}
	}
	return r.settleBitmaps()
}

// checkChangeLimit bounds how many blocks the replay changes.
func (r *fastReplay) checkChangeLimit(blocks int) error {
	if most := min(maxFastChanges, int(maxFastChangeBytes/r.fs.sb.blockSize)); blocks > most {
		return unsupportedf("fast commits that change more than %d blocks; run e2fsck, or mount it once", most)
	}
	return nil
}

// countBlockUse bounds how often blocks are read: hostile images could make each tag
// expensive.
func (r *fastReplay) countBlockUse() error {
	// A block is searched from its beginning to its end.
	if r.usesLeft -= max(1, int(r.fs.sb.blockSize/defaultBlock)); r.usesLeft < 0 {
		return unsupportedf("fast commits that take too long to replay; run e2fsck, or mount it once")
	}
	return nil
}

// inodesOfFirstCommit returns the inodes that the first of several fast commits logs.
func inodesOfFirstCommit(tags []fastTag) map[uint32][]byte {
	logged := map[uint32][]byte{}
	for _, tag := range tags {
		if tag.kind == fastTail {
			break
		}
		if tag.kind == fastInode {
			logged[tag.ino] = tag.raw
		}
	}
	return logged
}

// replayTag carries out one tag.
func (r *fastReplay) replayTag(tag fastTag) error {
	switch tag.kind {
	case fastAddRange:
		return r.replayAddRange(tag.ino, tag.span)
	case fastDelRange:
		return r.replayRemoveRange(tag.ino, tag.span)
	case fastCreate:
		return r.replayAddName(tag, true)
	case fastLink:
		return r.replayAddName(tag, false)
	case fastUnlink:
		return r.replayRemoveName(tag)
	case fastInode:
		return r.replayInode(tag.ino, tag.raw)
	}
	return nil
}

// usedInode returns an inode that is in use, or nil: Linux also logs names and ranges of
// files that were removed before the fast commit, and then not their inodes.
func (r *fastReplay) usedInode(num uint32) (*inode, error) {
	used, err := r.fs.isInodeUsed(num)
	if err != nil || !used {
		return nil, err
	}
	i, err := r.fs.readRawInode(num)
	if err != nil {
		return nil, err
	}
	if r.fs.sb.metadataCsum && !verifyInodeChecksum(r.fs.sb.csumSeed, num, i.raw) {
		return nil, corruptf("inode %d has a wrong checksum", num)
	}
	if i.hasFlag(flagInline) {
		return nil, unsupportedf("a fast commit of inode %d, which has no blocks; run e2fsck, or mount it once", num)
	}
	if _, again := r.touched[num]; !again {
		r.touched[num] = i.linkCount() == 0
	}
	return i, r.fs.checkInodeFields(i)
}

// isInodeUsed reports whether the bitmap marks an inode as used.
func (fs *FS) isInodeUsed(num uint32) (bool, error) {
	g, index := (num-1)/fs.sb.inodesPerGroup, (num-1)%fs.sb.inodesPerGroup
	d, err := fs.readGroupDesc(g)
	if err != nil {
		return false, err
	}
	b, err := fs.readGroupBitmap(g, d, true)
	return err == nil && b != nil && testBit(b, uint64(index)), err
}

// fileForRange returns the inode whose mapping a range changes; nil if it is not in use.
// Ranges of a file without a name, whose creation the fast commit does not log, come
// before its inode.
func (r *fastReplay) fileForRange(num uint32) (*inode, error) {
	i, err := r.usedInode(num)
	if raw := r.logged[num]; i == nil && err == nil && raw != nil {
		if err := r.replayInode(num, raw); err != nil {
			return nil, err
		}
		i, err = r.usedInode(num)
	}
	if i == nil || err != nil {
		return nil, err
	}
	if i.isDir() || !r.fs.mapsBlocks(i) {
		return nil, corruptf("a fast commit maps blocks of inode %d, which has none", num)
	}
	if !i.hasFlag(flagExtents) {
		return nil, unsupportedf("a fast commit of inode %d, which has no extents; run e2fsck, or mount it once", num)
	}
	return i, nil
}

// replayAddRange maps a range of a file, in place of what was mapped there.
func (r *fastReplay) replayAddRange(num uint32, e extent) error {
	i, err := r.fileForRange(num)
	if i == nil || err != nil {
		return err
	}
	if _, err := r.fs.removeExtents(i, uint64(e.logical), e.endBlock()); err != nil {
		return err
	}
	if err := r.fs.insertExtent(i, e); err != nil {
		return err
	}
	r.mapped = append(r.mapped, run{e.start, e.n})
	return r.fs.storeInode(i)
}

// replayRemoveRange unmaps a range of a file.
func (r *fastReplay) replayRemoveRange(num uint32, e extent) error {
	i, err := r.fileForRange(num)
	if i == nil || err != nil {
		return err
	}
	if _, err := r.fs.removeExtents(i, uint64(e.logical), min(e.endBlock(), maxLogical+1)); err != nil {
		return err
	}
	return r.fs.storeInode(i)
}

// freeUnnamedInode frees an inode that has no name.
func (r *fastReplay) freeUnnamedInode(i *inode) error {
	delete(r.extraNames, i.num)
	if _, err := r.fs.freeContent(i); err != nil {
		return err
	}
	return r.fs.freeEmptiedInode(i)
}

// finishInode frees an inode that lost its last name, and counts the blocks of others. An
// inode that had no name before is an orphan, and is reclaimed with those.
func (r *fastReplay) finishInode(num uint32) error {
	fs := r.fs
	i, err := r.usedInode(num)
	if i == nil || err != nil {
		return err
	}
	if i.linkCount() == 0 && !r.touched[num] {
		return r.freeUnnamedInode(i)
	}
	if r.extraNames[num] != 0 {
		return corruptf("fast commits leave directory %d with two names", num)
	}
	if !fs.mapsBlocks(i) || !i.hasFlag(flagExtents) {
		return nil
	}
	n, err := fs.countExtentBlocks(i)
	if err != nil {
		return err
	}
	if i.xattrBlock() != 0 {
		n++
	}
	fs.setBlockCount(i, n)
	return fs.storeInode(i)
}

// countExtentBlocks counts the blocks of an inode's data and extent tree.
func (fs *FS) countExtentBlocks(i *inode) (n uint64, err error) {
	err = fs.eachExtent(i, 0, func(e extent) (bool, error) {
		n += uint64(e.n)
		return true, nil
	})
	if err != nil {
		return 0, err
	}
	root, err := fs.extentRoot(i)
	if err == nil {
		err = fs.eachExtentTreeBlock(i, root, func() { n++ })
	}
	return n, err
}

// eachExtentTreeBlock calls f for each block beneath a node of an extent tree.
func (fs *FS) eachExtentTreeBlock(i *inode, n extentNode, f func()) error {
	for k := 0; n.treeDepth() > 0 && k < n.entryCount(); k++ {
		child, err := fs.readExtentNode(i, n.childBlock(k), n.treeDepth()-1)
		if err != nil {
			return err
		}
		f()
		if err := fs.eachExtentTreeBlock(i, child, f); err != nil {
			return err
		}
	}
	return nil
}

// setBlockCount sets how many blocks of the file system an inode takes.
func (fs *FS) setBlockCount(i *inode, n uint64) {
	le.PutUint32(i.raw[inFlags:], i.flags()&^uint32(flagHugeFile))
	le.PutUint32(i.raw[inBlocksLo:], 0)
	le.PutUint16(i.raw[inBlocksHi:], 0)
	fs.changeBlockCount(i, int64(n))
}
