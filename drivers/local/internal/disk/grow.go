//go:build unix

package disk

import (
	"context"
	"errors"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/ext4"
)

// Grow makes the image larger, from the capacity that the home has recorded, and returns its new
// size. The caller records that afterwards: an image larger than what is recorded is harmless.
func (v Volume) Grow(ctx context.Context, from, capacity driver.Size) (driver.Size, error) {
	size, err := RoundSize(capacity)
	if err != nil {
		return 0, err
	}
	if size < from {
		return 0, driver.Errorf(driver.ErrInvalid, "the volume has %s and cannot shrink to %s", from, size)
	}
	if size == from {
		return size, nil
	}
	if err := v.replaySideLog(ctx); err != nil {
		return 0, err
	}
	image, err := v.openHeldImage(ctx, false)
	if err != nil {
		return 0, err
	}
	defer image.Close()
	if err := translateError(image.growFileSystem(ctx, int64(size))); err != nil {
		if errors.Is(err, driver.ErrNoSpace) {
			image.undoGrowth(ctx, from)
		}
		return 0, err
	}
	return size, nil
}

// undoGrowth takes back a growth that ran out of space, so that the next user of the image does
// not try again for a size that cannot be had. An image that got a log of its own on the way
// keeps it, and the home records its size. A check reports failures of this.
func (i *heldImage) undoGrowth(ctx context.Context, capacity driver.Size) {
	ctx = context.WithoutCancel(ctx)
	defer i.volume.Ballast.Lend()()
	i.makesSideLog = false
	log, err := i.openSideLog()
	if err != nil {
		return
	}
	if log != nil {
		// The log beside the image may hold a step of the growth, which shrinking does not read.
		grown, err := ext4.Open(i, ext4.OpenOptions{SideLog: i.openSideLog})
		if err != nil || grown.Close() != nil {
			return
		}
	}
	size, err := ext4.ShrinkToFit(ctx, i, ext4.ShrinkOptions{Least: int64(capacity)})
	if err != nil || driver.Size(size) == capacity {
		return
	}
	// It ends with its log now: the files keep the room that they had besides.
	if size, err = ext4.Grow(ctx, i, size+int64(capacity), ext4.GrowOptions{}); err == nil {
		_ = i.volume.Home.RecordCapacity(ctx, i.volume.id, driver.Size(size))
	}
}

// growFileSystem grows the file system in the image, and the image if that is smaller.
func (i *heldImage) growFileSystem(ctx context.Context, size int64) error {
	_, err := ext4.Grow(ctx, i, size, ext4.GrowOptions{SideLog: i.openSideLog})
	return err
}

// finishGrowth completes a growth: file system and record get the size of the image.
func (i *heldImage) finishGrowth(ctx context.Context, size int64) error {
	if err := i.growFileSystem(ctx, size); err != nil {
		return translateError(err)
	}
	return i.volume.Home.RecordCapacity(ctx, i.volume.id, driver.Size(size))
}

// completeGrowth finishes a growth that was interrupted: the image then is larger than the home
// has recorded. Failures are left to a check; the file system is consistent at any time.
func (i *heldImage) completeGrowth(ctx context.Context) {
	info, err := i.volume.lookUpInfo(ctx)
	if err != nil {
		return
	}
	if st, err := i.Stat(); err == nil && driver.Size(st.Size()) > info.Capacity {
		_ = i.finishGrowth(ctx, st.Size())
	}
}

// hasUnfinishedGrowth reports whether a growth of the image was interrupted.
func (v Volume) hasUnfinishedGrowth(ctx context.Context) bool {
	f, err := v.openImage(ctx, true)
	if err != nil {
		return false
	}
	defer f.Close()
	began, err := ext4.UnfinishedGrow(f)
	return began && err == nil
}
