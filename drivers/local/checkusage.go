//go:build unix

package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/volehq/vole/driver"
)

// usageFigures is the charge of a volume: bytes of files, and all else.
type usageFigures struct {
	used int64
	held tally
}

// countVolume counts the contents of a volume. busy: another process uses the disk, and the figure
// is the recorded one, which that process keeps right.
func (b *Backend) countVolume(ctx context.Context, r volumeRow) (f usageFigures, busy bool, err error) {
	if r.Kind == driver.KindDisk {
		f.used, busy, err = b.disks.Volume(r.ID).SumFiles(ctx)
	} else {
		f.used, f.held, err = b.countVolumeFiles(ctx, r.ID)
	}
	if busy {
		f.used = int64(r.Used)
	}
	return f, busy, err
}

// usageFigures is the recorded charge.
func (r volumeRow) usageFigures() usageFigures { return usageFigures{int64(r.Used), r.tally} }

// checkUsage compares the recorded usage of a volume with its files. A usage that is marked as
// stale is no finding, but a repair measures it.
func (c *checker) checkUsage(info driver.Info) error {
	if info.UsedStale {
		if !c.fix {
			return nil
		}
		_, err := c.b.measureAtRest(c.ctx, info.ID)
		return c.reportUnmeasured(info, err)
	}
	if c.b.readOnly {
		return nil // measuring needs locks
	}
	r, err := c.b.getVolume(c.ctx, driver.ByID(info.ID))
	if err != nil {
		return ignoreNotFound(err)
	}
	// Count without locks first: most figures are right, and no writer has to wait then.
	before := c.b.withLiveUsage(r).usageFigures()
	counted, _, err := c.b.countVolume(c.ctx, r)
	if err == nil && counted == before {
		return nil
	}
	err = c.b.withVolumeAtRest(c.ctx, info.ID, "checking", func(*page) error {
		before, counted, err = c.recountAtRest(info.ID)
		return err
	})
	if err != nil || before == counted {
		return c.reportUnmeasured(info, err)
	}
	detail := fmt.Sprintf("volume %q is said to hold %d bytes and holds %d", info.Name, before.used, counted.used)
	if before.used == counted.used {
		detail = fmt.Sprintf("volume %q is said to hold %d entries with %d bytes of metadata and holds %d with %d", info.Name,
			before.held.entries, before.held.metadata().Bytes, counted.held.entries, counted.held.metadata().Bytes)
	}
	return c.reportFinding("usage-wrong", info.ID, "", detail+"; the figure is corrected",
		func() error { _, err := c.b.measureAtRest(c.ctx, info.ID); return err })
}

// recountAtRest returns the recorded and the counted usage of a volume that is at rest. Figures
// that are marked as stale or unknown count as right.
func (c *checker) recountAtRest(id string) (before, counted usageFigures, err error) {
	r, err := c.b.getVolume(c.ctx, driver.ByID(id))
	if err != nil {
		return before, counted, err
	}
	r = c.b.withLiveUsage(r)
	before = r.usageFigures()
	if counted, _, err = c.b.countVolume(c.ctx, r); err != nil {
		return before, counted, err
	}
	counted.used += c.b.namelessBytes(id)
	if r.UsedStale {
		return before, before, nil
	}
	if r.tally.entries < 0 {
		counted.held = before.held // not known yet
	}
	return before, counted, nil
}

// reportUnmeasured reports a volume that cannot be measured. Check continues.
func (c *checker) reportUnmeasured(info driver.Info, err error) error {
	if errors.Is(err, driver.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return nil // the volume was removed during the check
	}
	if err == nil || c.ctx.Err() != nil {
		return err
	}
	return c.reportFinding("usage-unknown", info.ID, "", fmt.Sprintf("volume %q cannot be measured: %v", info.Name, translateError(err)), nil)
}
