//go:build unix

package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/beneath"
)

// maxProblems is how many inconsistencies of one image are reported.
const maxProblems = 10

// checkDisk checks a disk volume: its directory, its image, and the file system in the image
// unless the image is in use.
func (c *checker) checkDisk(info driver.Info) error {
	rel := filepath.Join("volumes", info.ID)
	whole, err := c.b.imageExists(info.ID)
	if err != nil {
		return translateError(err)
	}
	if !whole {
		if _, err := c.b.getVolume(c.ctx, driver.ByID(info.ID)); err != nil {
			return ignoreNotFound(err)
		}
		return c.reportFinding("missing-image", info.ID, filepath.Join(rel, diskName),
			fmt.Sprintf("the image of volume %q is gone; restore it, or remove the volume", info.Name), nil)
	}
	names, err := beneath.Names(c.b.volumes, info.ID)
	if err != nil {
		return translateError(err)
	}
	for _, n := range names {
		if n != diskName && n != diskSideLog {
			if err := c.reportStray(info.ID, filepath.Join(rel, n)); err != nil {
				return err
			}
		}
	}
	if err := c.checkImage(info); err != nil {
		return err
	}
	return c.checkUsage(info)
}

// checkImage checks the size of an image, and the file system in it unless it is in use.
func (c *checker) checkImage(info driver.Info) error {
	if !c.b.readOnly {
		_ = c.b.replaySideLog(c.ctx, info.ID) // in use: looked at below
	}
	f, err := c.b.openImage(c.ctx, info.ID, true)
	if err != nil {
		return ignoreNotFound(err)
	}
	defer f.Close()
	hold, err := c.b.acquireDiskHold(c.ctx, info.ID, f, holdFiles, true)
	if errors.Is(err, driver.ErrInUse) {
		return nil // it changes under us
	}
	if err != nil {
		return ignoreNotFound(err)
	}
	now, err := c.b.getVolume(c.ctx, driver.ByID(info.ID))
	st, serr := f.Stat()
	if err = errors.Join(err, serr); err == nil && driver.Size(st.Size()) == now.Capacity {
		err = c.checkFileSystem(info.ID, f)
		hold.release()
		return err
	}
	hold.release()
	if err != nil {
		return ignoreNotFound(translateError(err))
	}
	size := driver.Size(st.Size())
	return c.reportFinding("capacity-wrong", info.ID, imageRelPath(info.ID),
		fmt.Sprintf("unfinished grow; the next use completes it: the image has %s, the catalog says %s", size, now.Capacity),
		func() error { return c.finishGrowth(info.ID, size) })
}

// imageRelPath is the path of an image in the home.
func imageRelPath(id string) string { return filepath.Join("volumes", id, diskName) }

// checkFileSystem runs ext4.Check on an image, and reports at most maxProblems problems.
func (c *checker) checkFileSystem(id string, f *os.File) error {
	n := 0
	err := ext4.Check(c.ctx, f, ext4.CheckOptions{}, func(p ext4.Problem) error {
		if p.Harmless() {
			return nil
		}
		if n++; n > maxProblems {
			return errEnough
		}
		return c.reportFinding("disk-damaged", id, imageRelPath(id), p.Detail+"; run e2fsck on the image", nil)
	})
	switch {
	case err == nil || errors.Is(err, errEnough):
		return nil
	case errors.Is(err, ext4.ErrCorrupt) || errors.Is(err, ext4.ErrUnsupported):
		return c.reportFinding("disk-damaged", id, imageRelPath(id), err.Error(), nil)
	}
	return translateError(err)
}

// errEnough ends a check that has found maxProblems problems.
var errEnough = errors.New("enough")

// finishGrowth completes a growth: file system and catalog get the size of the image.
func (c *checker) finishGrowth(id string, size driver.Size) error {
	f, err := c.b.openImage(c.ctx, id, false)
	if err != nil {
		return err
	}
	defer f.Close()
	hold, err := c.b.acquireDiskHold(c.ctx, id, f, holdFiles, false)
	if err != nil {
		return err
	}
	defer hold.release()
	if err := c.b.growImage(c.ctx, id, f, int64(size)); err != nil {
		return translateDiskError(err)
	}
	return c.b.updateCapacity(c.ctx, id, size)
}
