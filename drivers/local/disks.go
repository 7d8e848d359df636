//go:build unix

package local

import (
	"context"
	"fmt"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/local/internal/disk"
	"github.com/volehq/vole/internal/catalog"
)

// diskHome implements disk.Home: what the disk volumes of a home need of its catalog and of its
// counters.
type diskHome struct{ *Backend }

// newDisks returns the disk volumes of the home, whose parts are open.
func (b *Backend) newDisks() *disk.Set {
	opts := disk.Options{
		Home: diskHome{b}, Volumes: b.volumes, Opened: &b.open, Ballast: b.ballast, Faults: b.host.faults, ReadOnly: b.readOnly,
	}
	if !b.devices {
		opts.RefuseDevices = errNoDevices()
	}
	return disk.NewSet(opts)
}

// Counter implements disk.Home.
func (h diskHome) Counter(id string) disk.Counter { return &lazyCounter{b: h.Backend, id: id} }

// RecordCapacity implements disk.Home.
func (h diskHome) RecordCapacity(ctx context.Context, id string, capacity driver.Size) error {
	return h.db.Exec(ctx, catalog.Durable, `UPDATE volumes SET capacity = ? WHERE id = ?`, int64(capacity), id)
}

// RefuseAttached implements disk.Home.
func (h diskHome) RefuseAttached(ctx context.Context, id string) error {
	list, err := h.Attachments(ctx, id)
	if err != nil || len(list) == 0 {
		return nil
	}
	return errAttached(list[0], len(list) > 1)
}

// ReadOnlyError implements disk.Home.
func (h diskHome) ReadOnlyError() error { return h.errReadOnly() }

// checkDisk checks a disk volume: its directory, its image, and the file system in the image
// unless the image is in use.
func (c *checker) checkDisk(info driver.Info) error {
	volume, rel := c.b.disks.Volume(info.ID), "volumes/"+info.ID
	whole, err := volume.Exists()
	if err != nil {
		return translateError(err)
	}
	if !whole {
		if _, err := c.b.getVolume(c.ctx, driver.ByID(info.ID)); err != nil {
			return ignoreNotFound(err)
		}
		return c.reportFinding("missing-image", info.ID, rel+"/"+disk.ImageName,
			fmt.Sprintf("the image of volume %q is gone; restore it, or remove the volume", info.Name), nil)
	}
	strays, err := volume.Strays()
	if err != nil {
		return translateError(err)
	}
	for _, name := range strays {
		if err := c.reportStray(info.ID, rel+"/"+name); err != nil {
			return err
		}
	}
	err = volume.Check(c.ctx, func(code, detail string, fix func() error) error {
		return c.reportFinding(code, info.ID, rel+"/"+disk.ImageName, detail, fix)
	})
	if err != nil {
		return ignoreNotFound(err)
	}
	return c.checkUsage(info)
}
