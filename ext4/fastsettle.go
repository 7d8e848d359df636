package ext4

import (
	"cmp"
	"slices"
)

// holdBlocks keeps blocks from being allocated. The bitmaps of their groups will be
// changed, or could be, so their number is bounded like that of changed blocks.
func (r *fastReplay) holdBlocks(x run) error {
	return r.fs.eachGroupPart(x, func(g uint32, s groupSpan) error {
		r.fs.heldBlocks.markBusy(r.fs.sb, g, s)
		return r.checkChangeLimit(len(r.fs.heldBlocks))
	})
}

// noteReleased records that blocks are no longer used by their owner.
func (r *fastReplay) noteReleased(x run) error {
	if len(r.released) >= maxFastReleases {
		return unsupportedf("fast commits that release more than %d runs of blocks; run e2fsck, or mount it once", maxFastReleases)
	}
	r.released = append(r.released, x)
	return nil
}

// settleBitmaps updates the block bitmaps. Linux logs names before the files that they
// belong to, so a block may get its new owner before the old one releases it: only the sum
// of both tells whether it is in use.
func (r *fastReplay) settleBitmaps() error {
	released := r.released
	r.fs.fastReplay = nil
	// A step says that from block at on the number of owners changes.
	type step struct {
		at     uint64
		change int
	}
	steps := make([]step, 0, 2*(len(released)+len(r.mapped)))
	for change, runs := range map[int][]run{1: r.mapped, -1: released} {
		for _, x := range runs {
			steps = append(steps, step{x.start, change}, step{x.start + uint64(x.n), -change})
		}
	}
	slices.SortFunc(steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })
	// Between two steps the number of owners of the blocks has changed by a constant.
	owners := 0
	for k, s := range steps {
		owners += s.change
		if k+1 == len(steps) || steps[k+1].at == s.at || owners == 0 {
			continue
		}
		for at := s.at; at < steps[k+1].at; {
			x := run{at, uint32(min(steps[k+1].at-at, uint64(r.fs.sb.blocksPerGroup)))}
			if err := r.markOwnedBlocks(x, owners); err != nil {
				return err
			}
			at += uint64(x.n)
		}
	}
	return nil
}

// markOwnedBlocks marks free blocks as used if their number of owners grew by one, and
// used blocks as free if it fell by one. Any other number is damage.
func (r *fastReplay) markOwnedBlocks(x run, owners int) error {
	fs := r.fs
	return fs.eachGroupPart(x, func(g uint32, s groupSpan) error {
		bitmap, d, err := fs.modifyGroupBitmap(g, false)
		if err == nil {
			err = r.checkChangeLimit(len(fs.op.undoLog))
		}
		if err != nil {
			return err
		}
		for k := s.at; k < s.at+s.n; k++ {
			if owners > 1 || owners < -1 || testBit(bitmap, uint64(k)) != (owners < 0) {
				return corruptf("fast commits leave block %d with a wrong number of owners", fs.sb.groupStart(g)+uint64(k))
			}
		}
		if owners < 0 {
			return fs.returnGroupBlocks(g, d, bitmap, s)
		}
		return fs.takeGroupBlocks(g, d, bitmap, s)
	})
}
