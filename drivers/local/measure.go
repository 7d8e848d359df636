//go:build unix

package local

// A measurement holds all locks of the page, one by one in the order in which changes take them,
// so it sees every change completely or not at all. Files that this process has open without a
// name are added; those of other processes cannot be seen, for which the epoch is raised.

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/catalog"
	"github.com/volehq/vole/internal/nofollow"
	"golang.org/x/sys/unix"
)

// Measure implements driver.Backend.
func (b *Backend) Measure(ctx context.Context, id string) (driver.Info, error) {
	if err := b.checkWritable(); err != nil {
		return driver.Info{}, err
	}
	return b.measureAtRest(ctx, id)
}

// measureAtRest measures a volume while nothing changes it.
func (b *Backend) measureAtRest(ctx context.Context, id string) (driver.Info, error) {
	var info driver.Info
	err := b.withVolumeAtRest(ctx, id, "measuring", func(p *page) error {
		var err error
		info, err = b.measureLocked(ctx, id, p)
		return err
	})
	return info, err
}

// withVolumeAtRest runs fn while no process changes the volume through an FS. why is told to
// processes that wait.
func (b *Backend) withVolumeAtRest(ctx context.Context, id, why string, fn func(*page) error) error {
	if _, err := b.getVolume(ctx, driver.ByID(id)); err != nil {
		return err
	}
	if err := b.shareDraft(ctx, id); err != nil { // changes of a draft do not lock the page
		return err
	}
	p, err := b.openPage(id)
	if err != nil {
		return translateError(err)
	}
	defer p.close()
	unlock, err := p.lockAllRanges(ctx, why)
	if err == nil {
		defer unlock()
		err = fn(p)
	}
	if err != nil {
		b.removeOrphanedPage(ctx, id)
	}
	return err
}

// measureLocked counts a volume that is at rest and writes the result to the catalog and the
// page.
func (b *Backend) measureLocked(ctx context.Context, id string, p *page) (driver.Info, error) {
	r, err := b.getVolume(ctx, driver.ByID(id))
	if err != nil {
		return driver.Info{}, err
	}
	counted, busy, err := b.countVolume(ctx, r)
	if busy {
		return b.currentInfo(r), nil // its user counts, or marks the usage as stale
	}
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			if _, gerr := b.getVolume(ctx, driver.ByID(id)); gerr != nil {
				return driver.Info{}, gerr
			}
		}
		return driver.Info{}, translateError(err)
	}
	used, held := counted.used+b.namelessBytes(id), counted.held
	err = b.db.Write(ctx, catalog.Lazy, func(tx *catalog.Tx) error {
		past, err := b.liveBypassingWriters(tx, id)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE volumes SET used = ?, stale = ?, entries = ?, names = ?, xattrs = ? WHERE id = ?`,
			used, len(past) > 0, held.entries, held.names, held.xattrs, id); err != nil {
			return err
		}
		r, err = scanOneVolume(tx.QueryRow(selectByID, id))
		return err
	})
	if err != nil {
		return driver.Info{}, err
	}
	p.store(offUsed, used)
	p.setTally(held)
	p.store(offStale, 0)
	atomic.AddInt64(p.wordPointer(offEpoch), 1)
	b.renewEpoch(id, p.load(offEpoch))
	return b.currentInfo(r), nil
}

// countVolumeFiles walks the files of a volume. It adds up the size of each regular file, each
// inode once, and the charge of the entries.
func (b *Backend) countVolumeFiles(ctx context.Context, id string) (int64, tally, error) {
	root, err := openDirAt(b.volumes, id+"/data")
	if errors.Is(err, fs.ErrNotExist) {
		if r, gerr := b.getVolume(ctx, driver.ByID(id)); gerr == nil && !r.made {
			return 0, tally{}, nil // never used
		}
	}
	if err != nil {
		return 0, tally{}, err
	}
	defer root.Close()
	w := usageWalker{ctx: ctx, host: b.host, seen: map[uint64]bool{}}
	w.held.xattrs = chargedXattrBytes(openXattrs(root))
	if err := w.walkDirectory(root); err != nil {
		return 0, tally{}, err
	}
	err = b.countTreesInRemoval(&w, id)
	return w.bytes, w.held, err
}

// countTreesInRemoval adds the trees that live processes are removing: their files are charged
// until they are deleted.
func (b *Backend) countTreesInRemoval(w *usageWalker, id string) error {
	live := b.newLiveness()
	return forEachTemp(b.volumes, id+"/tmp", func(tmp *os.File, name string) error {
		if !strings.HasSuffix(name, removedSuffix) || !live.isAlive(processOfTemp(name)) {
			return nil
		}
		if err := w.countEntry(tmp, name); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// usageWalker adds up the charge of a tree.
type usageWalker struct {
	ctx   context.Context
	host  hostFS
	seen  map[uint64]bool // inodes with several names that were counted
	bytes int64
	held  tally
	depth int
}

// maxDepth is how many directories deep a volume can be measured, each of which takes a
// descriptor: deeper than any path can be.
const maxDepth = driver.MaxPathLen/2 + 16

// walkDirectory counts the entries of an open directory and everything beneath it.
func (w *usageWalker) walkDirectory(dir *os.File) error {
	if w.depth++; w.depth > maxDepth {
		return driver.Errorf(driver.ErrUnsupported, "directories are nested more than %d deep; the volume cannot be measured", maxDepth)
	}
	defer func() { w.depth-- }()
	return forEachName(dir, func(name string) error {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		err := w.countEntry(dir, name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			return nil // gone, or something else, since it was looked at
		}
		return err
	})
}

// countEntry counts one entry, and walks it if it is a directory.
func (w *usageWalker) countEntry(dir *os.File, name string) error {
	entry := resolved{parent: dir, name: name}
	st, err := entry.lstat()
	if err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT
	w.held = w.held.plus(entryTally(name))
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		if w.seen[uint64(st.Ino)] {
			return nil
		}
		w.seen[uint64(st.Ino)] = true
	}
	w.held = w.held.plus(symlinkTally(&st))
	w.held.xattrs += chargedXattrBytes(linkXattrs(entry))
	switch kind {
	case unix.S_IFREG:
		w.bytes += st.Size
	case unix.S_IFDIR:
		err := w.walkSubdirectory(dir, name)
		if errors.Is(err, fs.ErrPermission) {
			return w.walkClosedDirectory(dir, name, uint32(st.Mode)&0o7777)
		}
		return err
	}
	return nil
}

// walkSubdirectory opens and walks a directory.
func (w *usageWalker) walkSubdirectory(dir *os.File, name string) error {
	d, err := openDirAt(dir, name)
	if err != nil {
		return err
	}
	defer d.Close()
	return w.walkDirectory(d)
}

// walkClosedDirectory walks a directory that its owner may not read, and changes its mode while
// it does. Without that the volume could not be measured at all.
func (w *usageWalker) walkClosedDirectory(dir *os.File, name string, mode uint32) error {
	if err := w.host.grantOwnerRights(dir, name); err != nil {
		return err
	}
	err := w.walkSubdirectory(dir, name)
	return errors.Join(err, nofollow.Chmod(int(dir.Fd()), name, mode))
}

// changeQuota applies a change of quota while the volume is at rest, after checking that the
// volume fits into the new quota.
func (b *Backend) changeQuota(ctx context.Context, id string, change driver.Update, apply func() error) error {
	return b.withVolumeAtRest(ctx, id, "changing the quota", func(p *page) error {
		if change.Quota != 0 {
			if err := b.checkQuotaFits(ctx, id, p, change.Quota); err != nil {
				return err
			}
		}
		if err := apply(); err != nil {
			return err
		}
		p.store(offQuota, int64(change.Quota))
		return nil
	})
}

// checkQuotaFits returns ErrQuota if the volume holds more than the quota. It measures a volume
// whose usage is stale.
func (b *Backend) checkQuotaFits(ctx context.Context, id string, p *page, quota driver.Size) error {
	r, err := b.getVolume(ctx, driver.ByID(id))
	if err != nil {
		return err
	}
	r = b.withLiveUsage(r)
	if r.UsedStale || r.tally.entries < 0 {
		if _, err = b.measureLocked(ctx, id, p); err != nil {
			return err
		}
		if r, err = b.getVolume(ctx, driver.ByID(id)); err != nil {
			return err
		}
		r = b.withLiveUsage(r)
	}
	// Still stale: an attachment writes past the FS; apply refuses and names it.
	if r.Used > quota {
		return driver.Errorf(driver.ErrQuota, "the volume holds %d bytes already, more than a quota of %s", int64(r.Used), quota)
	}
	return driver.MetadataBounds(quota).Admit(driver.Metadata{}, r.tally.metadata())
}
