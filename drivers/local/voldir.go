//go:build unix

package local

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/beneath"
	"github.com/volehq/vole/internal/nofollow"
	"golang.org/x/sys/unix"
)

// openDirAt opens a directory beneath dir, without following a link on the way.
func openDirAt(dir *os.File, name string) (*os.File, error) { return beneath.OpenDir(dir, name) }

// makeVolumeDir makes volumes/<id>, durably.
func (b *Backend) makeVolumeDir(id string) error {
	err := b.host.mutate("mkdir", id, func() error { return unix.Mkdirat(int(b.volumes.Fd()), id, 0o700) })
	if err != nil {
		return err
	}
	return b.syncVolumesDir()
}

// ensureDataDir makes volumes/<id>/data, durably, unless the catalog says that it was made. The
// caller then records that in the catalog. It is not made with the volume, because most of the
// cost of creating a volume is making directories. ErrNotFound: the volume does not exist.
func (b *Backend) ensureDataDir(ctx context.Context, id string) error {
	r, err := b.getVolume(ctx, driver.ByID(id))
	if err != nil || r.made {
		return err
	}
	err = b.makeDataDir(id)
	if errors.Is(err, fs.ErrNotExist) {
		return b.errMissingDirectory(ctx, id)
	}
	return translateError(err)
}

// makeDataDir makes volumes/<id>/data, durably, unless it exists.
func (b *Backend) makeDataDir(id string) error {
	dir, err := openDirAt(b.volumes, id)
	if err != nil {
		return err
	}
	defer dir.Close()
	err = b.host.mutate("mkdir", id+"/data", func() error { return unix.Mkdirat(int(dir.Fd()), "data", 0o755) })
	if err == nil || errors.Is(err, fs.ErrExist) {
		err = b.finishDataDir(dir)
	}
	return err
}

// errMissingDirectory returns the error for a volume whose directory does not exist: ErrNotFound
// if the volume was removed, otherwise ErrCorrupt.
func (b *Backend) errMissingDirectory(ctx context.Context, id string) error {
	if _, err := b.getVolume(ctx, driver.ByID(id)); err != nil {
		return err
	}
	return driver.Errorf(driver.ErrCorrupt, "the volume's directory is missing; run a check of the home")
}

// finishDataDir gives the root of a volume, whose directory is open, its mode and makes it
// durable. Other users see the root of a volume, so its mode does not depend on the umask;
// everything above it stays private.
func (b *Backend) finishDataDir(dir *os.File) error {
	st, err := resolved{parent: dir, name: "data"}.lstat()
	if err != nil {
		return err
	}
	if st.Mode&0o7777 != 0o755 {
		if err := b.host.mutate("chmod", "data", func() error { return nofollow.Chmod(int(dir.Fd()), "data", 0o755) }); err != nil {
			return err
		}
	}
	return b.host.syncFile(dir)
}

// removeVolumeDir deletes a volume's directory and lock file, durably. It tries again if a
// writer that has not seen the removal yet adds something.
func (b *Backend) removeVolumeDir(id string) error {
	top := int(b.volumes.Fd())
	var err error
	for range 10 {
		// Most volumes that are removed in a hurry are empty.
		err = b.host.mutate("rmdir", id, func() error {
			if err := unix.Unlinkat(top, id, unix.AT_REMOVEDIR); err == nil || errors.Is(err, unix.ENOENT) {
				return err
			}
			b.removeEmptyDataDir(id)
			return unix.Unlinkat(top, id, unix.AT_REMOVEDIR)
		})
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err == nil {
			break
		}
		if err = b.host.removeTree(b.volumes, id, b.host.plainRemoval()); err == nil {
			break
		}
		if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	if err != nil {
		return err
	}
	if err := b.syncVolumesDir(); err != nil {
		return err
	}
	return b.removeLockFile(id)
}

// removeEmptyDataDir removes the root of a volume if it is empty.
func (b *Backend) removeEmptyDataDir(id string) {
	dir, err := openDirAt(b.volumes, id)
	if err != nil {
		return // removeTree reports the reason
	}
	defer dir.Close()
	_ = unix.Unlinkat(int(dir.Fd()), "data", unix.AT_REMOVEDIR)
}

// removeLockFile removes a file of locks/ if it exists.
func (b *Backend) removeLockFile(name string) error {
	err := beneath.Remove(b.locks, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// removeOrphanedPage removes the file of a page whose volume was removed just before the page was
// opened, which made the file again. It is for calls that failed, for whatever reason: ctx may be
// the reason.
func (b *Backend) removeOrphanedPage(ctx context.Context, id string) {
	_, err := b.getVolume(context.WithoutCancel(ctx), driver.ByID(id))
	if errors.Is(err, driver.ErrNotFound) {
		_ = b.removeLockFile(id)
	}
}

// tempPrefix is the prefix of the names of a process's files in a volume's tmp directory.
func tempPrefix(process string) string { return process + "-" }

// processOfTemp returns the id of the process that made a name in a tmp directory.
func processOfTemp(name string) string { return name[:min(36, len(name))] } // the length of a UUID

// forEachTemp calls fn for each name in the tmp directory of a volume, which is at path beneath
// dir. A volume without one has none.
func forEachTemp(dir *os.File, path string, fn func(tmp *os.File, name string) error) error {
	tmp, err := openDirAt(dir, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer tmp.Close()
	return forEachName(tmp, func(name string) error { return fn(tmp, name) })
}

// forEachName calls fn for each name in an open directory, of which it holds a part at a time. Each
// part is sorted.
func forEachName(dir *os.File, fn func(name string) error) error {
	for {
		names, err := dir.Readdirnames(1024)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		slices.Sort(names)
		for _, name := range names {
			if err := fn(name); err != nil {
				return err
			}
		}
	}
}

// removeTempsOf deletes the temporary files of a dead process in a volume.
func (b *Backend) removeTempsOf(id, process string) error {
	return forEachTemp(b.volumes, id+"/tmp", func(tmp *os.File, name string) error {
		if !strings.HasPrefix(name, tempPrefix(process)) {
			return nil
		}
		return b.host.removeTree(tmp, name, b.host.plainRemoval())
	})
}

// errVolumeRemoved returns ErrNotFound for a volume that was removed while it was open.
func errVolumeRemoved() error {
	return driver.Errorf(driver.ErrNotFound, "the volume has been removed")
}
