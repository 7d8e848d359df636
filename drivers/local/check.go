//go:build unix

package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/google/uuid"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/beneath"
	"github.com/volehq/vole/internal/catalog"
	"github.com/volehq/vole/internal/nofollow"
)

// checker is the state of one Check.
type checker struct {
	b      *Backend
	ctx    context.Context
	fix    bool
	report func(driver.Finding) error

	progress func(done, total int64) // may be nil
}

// Check implements driver.Backend. It is safe while other processes use the home: it looks again
// at anything that may be in progress before it reports it.
func (b *Backend) Check(ctx context.Context, opts driver.CheckOptions, report func(driver.Finding) error) error {
	if err := b.checkOpen(); err != nil {
		return err
	}
	if opts.Fix {
		if err := b.checkWritable(); err != nil {
			return err
		}
	}
	if opts.Fix { // which writes before it frees
		defer b.ballast.Lend()()
	}
	c := &checker{b, ctx, opts.Fix, report, opts.Progress}
	for _, step := range []func() error{c.checkDatabase, c.checkRowIDs, c.checkPermissions, c.checkUnfinished, c.checkOrphanDirectories, c.checkVolumes, c.checkStaleLocks} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// reportFinding reports an inconsistency, after repairing it with fix if the caller asked for
// repairs. A nil fix means that there is no repair.
func (c *checker) reportFinding(code, volume, path, detail string, fix func() error) error {
	f := driver.Finding{Code: code, Volume: volume, Path: path, Detail: detail}
	if c.fix && fix != nil {
		if err := fix(); err != nil {
			f.Detail += fmt.Sprintf("; the repair failed: %v", translateError(err))
		} else {
			f.Fixed = true
		}
	}
	return c.report(f)
}

// checkDatabase runs SQLite's own check.
// https://www.sqlite.org/pragma.html#pragma_integrity_check
func (c *checker) checkDatabase() error {
	lines, err := catalog.Select(c.ctx, c.b.db, catalog.ScanColumn[string], `PRAGMA integrity_check(20)`)
	if err != nil {
		return err
	}
	for _, l := range lines {
		if l == "ok" {
			continue
		}
		if err := c.reportFinding("catalog-corrupt", "", "catalog.db", l+"; restore the catalog from a backup", nil); err != nil {
			return err
		}
	}
	return nil
}

// checkPermissions reports parts of the home that other users can enter.
func (c *checker) checkPermissions() error {
	for _, name := range []string{".", catalogName, "volumes", "locks", "lost+found"} {
		st, err := resolved{parent: c.b.dir, name: name}.lstat()
		if err != nil {
			return translateError(err)
		}
		mode := uint32(st.Mode) & 0o777
		if mode&0o077 == 0 {
			continue
		}
		err = c.reportFinding("loose-permissions", "", strings.TrimPrefix(name, "."), fmt.Sprintf("mode %04o lets others in; it becomes %04o", mode, mode&0o700),
			func() error { return nofollow.Chmod(int(c.b.dir.Fd()), name, mode&0o700) })
		if err != nil {
			return err
		}
	}
	return nil
}

// checkUnfinished reports volumes in creation or removal that recovery should have settled when
// the home was opened.
func (c *checker) checkUnfinished() error {
	list, err := c.b.listUnsettled(c.ctx)
	if err != nil {
		return err
	}
	live := c.b.newLiveness()
	for _, u := range list {
		if u.validate() != nil || live.isAlive(u.owner) {
			continue
		}
		err := c.reportFinding("unfinished-volume", u.id, "volumes/"+u.id, "its process died while "+u.activity()+" it; that is finished or undone",
			func() error { return c.b.recoverVolume(c.ctx, u) })
		if err != nil {
			return err
		}
	}
	return nil
}

// countVolumes returns how many rows of volumes, in any state, match a condition.
func (c *checker) countVolumes(where string, args ...any) (int64, error) {
	counts, err := catalog.Select(c.ctx, c.b.db, catalog.ScanColumn[int64], `SELECT count(*) FROM volumes WHERE `+where, args...)
	if err != nil {
		return 0, err
	}
	return counts[0], nil
}

// hasVolumeRow reports whether the catalog has a row of the volume, in any state.
func (c *checker) hasVolumeRow(id string) (bool, error) {
	n, err := c.countVolumes(`id = ?`, id)
	return n > 0, err
}

// checkOrphanDirectories reports directories without a volume. The row of a volume exists before
// its directory is made and until it is deleted, so a directory without a row is an orphan.
func (c *checker) checkOrphanDirectories() error {
	names, err := beneath.Names(c.b.volumes, ".")
	if err != nil {
		return translateError(err)
	}
	for _, n := range names {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		known, err := c.hasVolumeRow(n)
		if err != nil {
			return err
		}
		if known {
			continue
		}
		if _, err := beneath.Lstat(c.b.volumes, n); errors.Is(err, fs.ErrNotExist) {
			continue // removed since it was listed
		}
		err = c.reportFinding("orphan-directory", "", "volumes/"+n, "it belongs to no volume; it is moved to lost+found",
			func() error { return c.b.moveToLostFound(path.Join("volumes", n)) })
		if err != nil {
			return err
		}
	}
	return nil
}

// moveToLostFound moves a part of the home, rel, to lost+found under a free name, durably.
func (b *Backend) moveToLostFound(rel string) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	from, err := openDirAt(b.dir, path.Dir(rel))
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := openDirAt(b.dir, "lost+found")
	if err != nil {
		return err
	}
	defer to.Close()
	name := strings.ReplaceAll(rel, "/", "_") + "." + id.String()
	err = b.host.rename(resolved{parent: from, name: path.Base(rel)}, resolved{parent: to, name: name}, false)
	if err != nil {
		return err
	}
	return errors.Join(b.host.syncFile(to), b.host.syncFile(from))
}

// checkVolumes checks each volume, and reports progress.
func (c *checker) checkVolumes() error {
	done, total, err := int64(0), int64(0), error(nil)
	if c.progress != nil {
		if total, err = c.countVolumes(`true`); err != nil {
			return err
		}
	}
	cursor := ""
	for {
		page, err := c.b.listVolumes(c.ctx, driver.Filter{Cursor: cursor}, true)
		if err != nil {
			return err
		}
		for _, info := range page.Volumes {
			if err := c.checkVolume(info); err != nil {
				return err
			}
			if done++; c.progress != nil {
				c.progress(done, max(done, total))
			}
		}
		if cursor = page.Next; cursor == "" {
			return nil
		}
	}
}

// checkVolume checks the labels, the directory, stray and temporary files, and the usage of one
// volume.
func (c *checker) checkVolume(info driver.Info) error {
	rel := "volumes/" + info.ID
	if err := c.checkLabels(info.ID); err != nil {
		return err
	}
	if info.Kind == driver.KindDisk {
		return c.checkDisk(info)
	}
	missing, err := c.findMissingDirectory(info.ID)
	if err != nil || missing != "" {
		if err != nil {
			return ignoreNotFound(err)
		}
		return c.reportFinding("missing-directory", info.ID, missing,
			fmt.Sprintf("the files of volume %q are gone; it is made again, empty", info.Name),
			func() error {
				if err := c.b.remakeVolumeDir(info.ID); err != nil {
					return err
				}
				_, err := c.b.measureAtRest(c.ctx, info.ID) // what is gone is charged no more
				return err
			})
	}
	names, err := beneath.Names(c.b.volumes, info.ID)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return translateError(err)
	}
	for _, n := range names {
		if n == "data" || n == "tmp" {
			continue
		}
		if err := c.reportStray(info.ID, path.Join(rel, n)); err != nil {
			return err
		}
	}
	if err := c.checkStrayTemps(info.ID); err != nil {
		return err
	}
	return c.checkUsage(info)
}

// reportStray reports a file in a volume's directory that Vole has not put there.
func (c *checker) reportStray(id, rel string) error {
	return c.reportFinding("stray-file", id, rel, "it is no part of a volume; it is moved to lost+found",
		func() error { return c.b.moveToLostFound(rel) })
}

// checkLabels reports a row whose labels cannot be decoded.
func (c *checker) checkLabels(id string) error {
	r, err := c.b.getVolume(c.ctx, driver.ByID(id))
	if err != nil || !r.damaged {
		return ignoreNotFound(err)
	}
	return c.reportFinding("labels-corrupt", id, "catalog.db", fmt.Sprintf("the labels of volume %q cannot be read; they are dropped", r.Name),
		func() error {
			return c.b.db.Exec(c.ctx, catalog.Durable, `UPDATE volumes SET labels = '' WHERE id = ?`, id)
		})
}

// findMissingDirectory returns the path, in the home, of the directory that the volume lacks, ""
// if it lacks none. ErrNotFound: the volume has been removed.
func (c *checker) findMissingDirectory(id string) (string, error) {
	name := id
	if r, err := c.b.getVolume(c.ctx, driver.ByID(id)); err != nil {
		return "", err
	} else if r.made {
		name += "/data"
	}
	_, err := beneath.Lstat(c.b.volumes, name)
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	_, err = c.b.getVolume(c.ctx, driver.ByID(id))
	return "volumes/" + name, err
}

// remakeVolumeDir makes the lost directory of a volume, empty.
func (b *Backend) remakeVolumeDir(id string) error {
	if err := beneath.Mkdir(b.volumes, id, 0o700); err != nil {
		return err
	}
	if err := b.makeDataDir(id); err != nil {
		return err
	}
	return b.syncVolumesDir()
}

// checkStrayTemps reports unfinished files of dead processes.
func (c *checker) checkStrayTemps(id string) error {
	live := c.b.newLiveness()
	err := forEachTemp(c.b.volumes, id+"/tmp", func(_ *os.File, name string) error {
		rel, proc := path.Join("volumes", id, "tmp", name), processOfTemp(name)
		if uuid.Validate(proc) != nil {
			return c.reportStray(id, rel)
		}
		if live.isAlive(proc) {
			return nil
		}
		return c.reportFinding("leftover-file", id, rel, "a process died while it wrote it; it is deleted",
			func() error { return c.b.removeTempsOf(id, proc) })
	})
	return translateError(err)
}

// ignoreNotFound turns ErrNotFound into nil: a volume that was removed during the check is no
// finding.
func ignoreNotFound(err error) error {
	if errors.Is(err, driver.ErrNotFound) {
		return nil
	}
	return err
}

// checkStaleLocks reports lock files of volumes that no longer exist.
func (c *checker) checkStaleLocks() error {
	names, err := beneath.Names(c.b.dir, "locks")
	if err != nil {
		return translateError(err)
	}
	for _, n := range names {
		stale, err := c.isStaleLock(n)
		if err != nil {
			return err
		}
		if !stale {
			continue
		}
		err = c.reportFinding("stale-lock", "", "locks/"+n, "nothing uses it; it is deleted",
			func() error { return c.b.removeLockFile(n) })
		if err != nil {
			return err
		}
	}
	return nil
}

// isStaleLock reports whether locks/name is the lock file of a volume without a row.
func (c *checker) isStaleLock(name string) (bool, error) {
	if uuid.Validate(name) != nil {
		return false, nil
	}
	known, err := c.hasVolumeRow(name)
	if err != nil || known {
		return false, err
	}
	_, err = beneath.Lstat(c.b.locks, name)
	return err == nil, nil
}
