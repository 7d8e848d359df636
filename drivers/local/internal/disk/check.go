//go:build unix

package disk

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/beneath"
)

// maxProblems is how many inconsistencies of one image are reported.
const maxProblems = 10

// errEnough ends a check that has found maxProblems problems.
var errEnough = errors.New("enough")

// Report gets what a check finds: what kind of finding it is, a text for people, and the repair,
// nil if there is none.
type Report func(code, detail string, fix func() error) error

// Check reports that the size of the volume's image is not the one recorded, or what is
// inconsistent in its file system, unless the image is in use. ErrNotFound: the volume has been
// removed.
func (v Volume) Check(ctx context.Context, report Report) error {
	image, err := v.openAtRest(ctx)
	if errors.Is(err, driver.ErrInUse) {
		return nil // it changes under us
	}
	if err != nil {
		return err
	}
	now, err := v.lookUpInfo(ctx)
	st, serr := image.Stat()
	if err = errors.Join(err, serr); err == nil && driver.Size(st.Size()) == now.Capacity {
		err = image.checkFileSystem(ctx, report)
		image.Close()
		return err
	}
	image.Close() // the repair takes a hold of its own
	if err != nil {
		return translateErrno(err)
	}
	return report("capacity-wrong",
		fmt.Sprintf("unfinished grow; the next use completes it: the image has %s, the catalog says %s", driver.Size(st.Size()), now.Capacity),
		func() error { return v.repairCapacity(ctx, st.Size()) })
}

// checkFileSystem runs ext4.Check on an image, and reports at most maxProblems problems.
func (i *heldImage) checkFileSystem(ctx context.Context, report Report) error {
	n := 0
	err := ext4.Check(ctx, i, ext4.CheckOptions{}, func(p ext4.Problem) error {
		if p.Harmless() {
			return nil
		}
		if n++; n > maxProblems {
			return errEnough
		}
		return report("disk-damaged", p.Detail+"; run e2fsck on the image", nil)
	})
	switch {
	case err == nil || errors.Is(err, errEnough):
		return nil
	case errors.Is(err, ext4.ErrCorrupt) || errors.Is(err, ext4.ErrUnsupported):
		return report("disk-damaged", err.Error(), nil)
	}
	return translateErrno(err)
}

// repairCapacity completes a growth: file system and record get the size of the image.
func (v Volume) repairCapacity(ctx context.Context, size int64) error {
	image, err := v.openHeldImage(ctx, false)
	if err != nil {
		return err
	}
	defer image.Close()
	return image.finishGrowth(ctx, size)
}

// Strays returns the names in the volume's directory that are no part of it.
func (v Volume) Strays() ([]string, error) {
	names, err := beneath.Names(v.Volumes, v.id)
	return slices.DeleteFunc(names, func(name string) bool { return name == ImageName || name == sideLogName }), err
}
