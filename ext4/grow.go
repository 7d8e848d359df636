package ext4

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// GrowOptions says how to grow an image. The zero value is a good default.
type GrowOptions struct {
	// NoJournal keeps an image without a journal as it is. Otherwise one with blocks of
	// 4 KiB that reaches 16 MiB gets a journal, of the size that Format gives.
	NoJournal bool
	// Now tells the time. Default: time.Now.
	Now func() time.Time
	// SideLog is as in OpenOptions, and may be called several times.
	SideLog func() (SideLog, error)
}

// Grow extends the file system on dev to size bytes, rounded down to 4 KiB, and returns
// the size of the image in bytes. Nothing else may have the image open.
//
// The file system may end up to 128 MiB before the image does: a last group that is too
// short for its own bitmaps and inodes is left out, and is included by the next growth.
// There are never more than 2^32-1 inodes.
//
// The device must be size bytes long, or have a method Truncate(size int64) error, as an
// [*os.File] has. Anything on it beyond the file system is lost. A device that can neither
// be truncated nor has a method PunchHole must read as zeros there.
//
// After a crash at any time the image is in order for this package: it has the old size,
// the new one, or one between them, and [Check] finds nothing. [Open], for writing,
// completes the growth, as Grow itself does. An image with a journal is in order for Linux
// and e2fsck too. Without one, and in ext2 and ext3, whose journal is left alone, a crash
// may fall between the writes of one step: this package completes them when it opens the
// image, and e2fsck repairs what is incomplete, but Linux does not know of it. Only if a
// device that cannot be extended grows by less than 128 blocks is there nothing to
// complete from.
//
// An image without a journal gets one as soon as there is room; ext2 stays without.
//
// Descriptors of new groups go where the resize inode reserves room for them. If that does
// not suffice, the image gets the feature meta_bg and loses resize_inode, as with Linux.
//
// Errors: EINVAL, the image is larger already; EFBIG, beyond the limit of the format
// (without the feature 64bit 16 TiB, otherwise 2^32 inodes); those of [Open], except
// features that only ext2 and ext3 lack; [ErrUnsupported] also for the feature
// sparse_super2 and for images without sparse_super; errors of ctx; errors of the device.
func Grow(ctx context.Context, dev Device, size int64, opts GrowOptions) (int64, error) {
	g := &grower{ctx: ctx, dev: dev, opts: opts, size: size / defaultBlock * defaultBlock}
	if size > MaxSize {
		return 0, fmt.Errorf("%w: a file system of %d bytes: at most %d", errTooBig, size, int64(MaxSize))
	}
	if err := g.growImage(); err != nil {
		return 0, fmt.Errorf("growing: %w", err)
	}
	return g.size, nil
}

// grower grows an image in steps. Before and after each of them the log is empty and the
// image in order, and each takes effect atomically:
//
//   - A step that changes the old file system, but not the number of its groups, is a
//     transaction in the journal, or in the log of grow_mark.go.
//   - New groups, and their descriptors, are written while they are not part of the file
//     system. Then the first sector of the superblock is written, which holds all counts. No
//     log is involved: Linux reads the number of groups before it replays the log, so a
//     replay must not change it.
//
// The resize inode complicates this: it lists all copies of the blocks reserved for
// descriptors, so each new group with a backup would change it. So its list is emptied
// before and written again afterwards. In between at most three blocks are reserved:
// e2fsck does not expect so few to be listed, and a block need not be listed to become a
// descriptor block.
type grower struct {
	ctx  context.Context
	dev  Device
	opts GrowOptions
	size int64 // of the image to be, in bytes

	fs             *FS
	blocks         uint64 // of the file system to be
	descRoom       uint32 // blocks of descriptors and of those kept for more, which stays the same
	reservedBefore uint32 // those kept, at the beginning
	deviceExtended bool   // the device is longer than size while a log lies behind the file system
	shrink         bool   // the grower is a shrinker's
}

// maxUnlistedDescs is how many blocks can be reserved for descriptors without being listed
// in the resize inode: e2fsck checks a fourth of them, rounded down.
const maxUnlistedDescs = 3

// growImage runs all steps of a growth. Each leaves the image in order.
func (g *grower) growImage() error {
	if err := g.openImage(); err != nil {
		return err
	}
	defer func() { g.fs.closeWithoutWriting() }()
	if err := g.planSize(); err != nil {
		return err
	}
	if err := g.extendDevice(); err != nil {
		return err
	}
	for _, step := range []func() error{
		g.recordGrow, g.extendLastGroup, g.addJournal, g.addGroups, g.restoreReservedDescs, g.updateOverhead, g.refreshBackups, g.eraseGrowRecord,
	} {
		if err := g.ctx.Err(); err != nil {
			return err
		}
		if err := step(); err != nil {
			return err
		}
	}
	return g.fs.Close()
}

// openImage opens the image, which replays its log, and leaves the log empty.
func (g *grower) openImage() error {
	fs, err := Open(g.dev, OpenOptions{Size: deviceSize(g.dev), Now: g.opts.Now, Batch: true, SideLog: g.opts.SideLog, forGrow: !g.shrink})
	if err != nil {
		return err
	}
	g.fs = fs
	return g.fs.commitAndEmptyLog()
}

// reopenImage reads the file system again that the superblock now describes.
func (g *grower) reopenImage() error {
	g.fs.closeWithoutWriting()
	return g.openImage()
}

// closeWithoutWriting ends the use of an FS without writing anything.
func (fs *FS) closeWithoutWriting() {
	fs.mu.Lock()
	fs.closed = true
	fs.mu.Unlock()
}

// planSize decides how far to grow.
func (g *grower) planSize() error {
	sb := g.fs.sb
	if err := checkResizable(sb); err != nil {
		return err
	}
	n := uint64(g.size / sb.blockSize)
	if n < sb.blocks {
		return fmt.Errorf("%w: the file system has %d bytes already", errInvalid, int64(sb.blocks)*sb.blockSize)
	}
	if n > 1<<32-1 && sb.incompat&incompat64bit == 0 {
		return fmt.Errorf("%w: without the feature 64bit a file system ends below 16 TiB", errTooBig)
	}
	if most := sb.groupStart((1<<32 - 1) / sb.inodesPerGroup); n > most {
		if n > most+uint64(sb.blocksPerGroup) {
			return fmt.Errorf("%w: at %d bytes the file system has the largest number of inodes", errTooBig, int64(most)*sb.blockSize)
		}
		n = most
	}
	g.reservedBefore = sb.reservedDescs
	g.descRoom = sb.descBlockCount() + sb.reservedDescs
	if k, last := sb.locateBlock(n); last > 0 && n > sb.groupStart(sb.groups) && uint64(last) < g.minLastGroupBlocks(k) {
		n -= uint64(last)
	}
	g.blocks = n
	return nil
}

// checkResizable refuses file systems whose layout is not understood well enough to resize
// them.
func checkResizable(sb *superblock) error {
	switch {
	case sb.compat&compatSparseSuper2 != 0: // other groups have the backups
		return unsupportedf("changing the size with the feature sparse_super2")
	case sb.reservedDescs != 0 && sb.compat&compatResizeInode == 0:
		return unsupportedf("changing the size after resize_inode was taken away; run e2fsck -f")
	case sb.roCompat&roSparseSuper == 0:
		return unsupportedf("changing the size without the feature sparse_super")
	case int64(sb.blocksPerGroup) != 8*sb.blockSize:
		return unsupportedf("changing the size with groups of %d blocks", sb.blocksPerGroup)
	}
	return nil
}

// leastFree is how many blocks a last group must have beyond its own metadata.
const leastFree = 50

// minLastGroupBlocks returns how many blocks a group must have to be the last one.
func (g *grower) minLastGroupBlocks(group uint32) uint64 {
	return uint64(g.newGroupBaseRoom(group)) + 2 + g.fs.sb.inodeTableBlocks() + leastFree
}

// newGroupBaseRoom returns how many blocks at the start of a new group are set aside for
// superblock and descriptors.
func (g *grower) newGroupBaseRoom(group uint32) uint32 {
	switch sparse := isSparseSuperGroup(group); {
	case !sparse:
		return 1 // a block of descriptors, with meta_bg
	case g.fs.sb.firstMetaBG != ^uint32(0):
		return max(1+min(g.fs.sb.firstMetaBG, g.fs.sb.descBlockCount()), 2)
	}
	return 1 + max(g.descRoom, 1)
}

// extendDevice makes the device long enough, and zero after the file system.
func (g *grower) extendDevice() error {
	end := int64(g.fs.sb.blocks) * g.fs.sb.blockSize
	if g.fs.sb.blocks < g.blocks {
		if err := zeroDeviceTail(g.dev, end, g.size); err != nil {
			return err
		}
	}
	have := deviceSize(g.dev)
	t, ok := g.dev.(truncater)
	if have >= g.size || have == 0 && !ok {
		return nil
	}
	if !ok {
		return fmt.Errorf("%w: the device has %d bytes and cannot be extended", errInvalid, have)
	}
	return t.Truncate(g.size)
}

// truncater is a Device whose size can be changed.
type truncater interface {
	// Truncate sets the size in bytes. A device that grows reads as zeros in its new part.
	Truncate(size int64) error
}

// zeroDeviceTail makes a device read as zeros between two offsets, if it can.
func zeroDeviceTail(dev Device, from, end int64) error {
	err := error(ErrUnsupported)
	if from >= end || deviceSize(dev) >= end {
		err = punchHole(dev, from, end-from)
	}
	if !errors.Is(err, ErrUnsupported) {
		return err
	}
	t, ok := dev.(truncater)
	if !ok {
		return nil // the caller promised it
	}
	if err := t.Truncate(from); err == nil {
		return t.Truncate(end)
	} else if deviceSize(dev) < end {
		return err
	}
	return nil
}

// extendLastGroup extends the last group, up to a full one.
func (g *grower) extendLastGroup() error {
	sb := g.fs.sb
	last := sb.groups - 1
	end := min(sb.groupStart(sb.groups), g.blocks)
	if end <= sb.blocks {
		return nil
	}
	return g.changeAndReopen(func(fs *FS) error {
		from, n := fs.sb.groupBlockCount(last), uint32(end-fs.sb.blocks)
		putBlockCount(fs.sb.raw, fs.sb, end)
		fs.sb.blocks = end
		return fs.markBlocksFree(last, from, n)
	})
}

// changeAndReopen runs a transaction, and leaves the image in order with an empty log. f
// may change fs.sb and its raw bytes. After a failure the FS must not be used again.
func (g *grower) changeAndReopen(f func(fs *FS) error) error {
	if _, err := g.fs.runOperation(func() error { return f(g.fs) }); err != nil {
		return err
	}
	if err := g.fs.commitAndEmptyLog(); err != nil {
		return err
	}
	return g.reopenImage()
}

// blockBitmapUninit reports whether a group has no block bitmap yet (BLOCK_UNINIT).
func (fs *FS) blockBitmapUninit(d groupDesc) bool {
	return fs.sb.metadataCsum && d.flags()&groupBlockUninit != 0
}

// markBlocksFree marks used blocks of a group as free.
func (fs *FS) markBlocksFree(g, from, n uint32) error {
	return fs.markGroupBlocks(g, groupSpan{from, n}, fs.returnGroupBlocks)
}

// markBlocksUsed marks free blocks of a group as used.
func (fs *FS) markBlocksUsed(g, from, n uint32) error {
	return fs.markGroupBlocks(g, groupSpan{from, n}, fs.takeGroupBlocks)
}

// markGroupBlocks runs mark on blocks of a group, which keeps its initial bitmap if it has no
// other.
func (fs *FS) markGroupBlocks(g uint32, s groupSpan, mark func(uint32, groupDesc, []byte, groupSpan) error) error {
	if s.n == 0 {
		return nil
	}
	var bitmap []byte
	d, err := fs.modifyGroupDesc(g)
	if err == nil && !fs.blockBitmapUninit(d) {
		bitmap, d, err = fs.modifyGroupBitmap(g, false)
	}
	if err != nil {
		return err
	}
	return mark(g, d, bitmap, s)
}
