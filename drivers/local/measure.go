package local

import (
	"context"
	"errors"
	"io"
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
	if err := b.writable(); err != nil {
		return driver.Info{}, err
	}
	return b.measure(ctx, id)
}

func (b *Backend) measure(ctx context.Context, id string) (driver.Info, error) {
	var info driver.Info
	err := b.atRest(ctx, id, "measuring", func(p *page) error {
		var err error
		info, err = b.measureLocked(ctx, id, p)
		return err
	})
	return info, err
}

// atRest runs fn while nothing changes a volume through an FS, in any process.
func (b *Backend) atRest(ctx context.Context, id, why string, fn func(*page) error) error {
	if _, err := b.get(ctx, driver.ByID(id)); err != nil {
		return err
	}
	if err := b.shareDraft(ctx, id); err != nil { // changes of a draft do not lock the page
		return err
	}
	p, err := b.openPage(id)
	if err != nil {
		return sysErr(err)
	}
	defer p.close()
	unlock, err := p.lockAll(ctx, why)
	if err != nil {
		return err
	}
	defer unlock()
	err = fn(p)
	if errors.Is(err, driver.ErrNotFound) {
		_ = b.removeLock(id) // removed in between; opening the page made it again
	}
	return err
}

// measureLocked counts a volume that is at rest, and sets the figure everywhere.
func (b *Backend) measureLocked(ctx context.Context, id string, p *page) (driver.Info, error) {
	r, err := b.get(ctx, driver.ByID(id))
	if err != nil {
		return driver.Info{}, err
	}
	var used int64
	var held tally
	if r.Kind == driver.KindDisk {
		var busy bool
		if used, busy, err = b.countDisk(ctx, id); busy {
			return b.now(r), nil // what uses it counts, or makes the figure stale
		}
	} else {
		used, held, err = b.countFiles(ctx, id)
	}
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			if _, gerr := b.get(ctx, driver.ByID(id)); gerr != nil {
				return driver.Info{}, gerr
			}
		}
		return driver.Info{}, sysErr(err)
	}
	used += b.namelessBytes(id)
	err = b.db.Write(ctx, catalog.Lazy, func(tx *catalog.Tx) error {
		past, err := b.writersPast(tx, id)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE volumes SET used = ?, stale = ?, entries = ?, names = ?, xattrs = ? WHERE id = ?`,
			used, len(past) > 0, held.entries, held.names, held.xattrs, id); err != nil {
			return err
		}
		r, err = scanOne(tx.QueryRow(selectByID, id))
		return err
	})
	if err != nil {
		return driver.Info{}, err
	}
	p.store(offUsed, used)
	p.setTally(held)
	p.store(offStale, 0)
	atomic.AddInt64(p.word(offEpoch), 1)
	b.renewEpoch(id, p.load(offEpoch))
	return b.now(r), nil
}

// countFiles walks a volume's files: the size of each regular file, each inode once, and
// what entries are charged.
func (b *Backend) countFiles(ctx context.Context, id string) (int64, tally, error) {
	root, err := openDirAt(b.volumes, id+"/data")
	if errors.Is(err, fs.ErrNotExist) {
		if r, gerr := b.get(ctx, driver.ByID(id)); gerr == nil && !r.made {
			return 0, tally{}, nil // never used
		}
	}
	if err != nil {
		return 0, tally{}, err
	}
	defer root.Close()
	w := walker{ctx: ctx, host: b.host, seen: map[uint64]bool{}}
	w.held.xattrs = xattrBytes(openXattrs(root))
	if err := w.walk(root); err != nil {
		return 0, tally{}, err
	}
	err = b.walkRemoved(&w, id)
	return w.bytes, w.held, err
}

// walkRemoved counts the trees that live processes are removing from a volume.
func (b *Backend) walkRemoved(w *walker, id string) error {
	tmp, err := openDirAt(b.volumes, id+"/tmp")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer tmp.Close()
	names, err := tmp.Readdirnames(-1)
	if err != nil {
		return err
	}
	live := b.liveness()
	for _, n := range names {
		if !strings.HasSuffix(n, removedSuffix) || !live.alive(tempProcess(n)) {
			continue
		}
		if err := w.entry(tmp, n); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

type walker struct {
	ctx   context.Context
	host  hostFS
	seen  map[uint64]bool // inodes with several names that were counted
	bytes int64
	held  tally
	depth int
}

// maxDepth is how many directories deep a volume is measured, each of which takes a
// descriptor: more than any path can name.
const maxDepth = driver.MaxPathLen/2 + 16

func (w *walker) walk(dir *os.File) error {
	if w.depth++; w.depth > maxDepth {
		return driver.Errorf(driver.ErrUnsupported, "directories are nested more than %d deep; the volume cannot be measured", maxDepth)
	}
	defer func() { w.depth-- }()
	for {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		names, err := dir.Readdirnames(1024)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			err := w.entry(dir, name)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
				continue // gone, or something else, since it was looked at
			}
			if err != nil {
				return err
			}
		}
	}
}

func (w *walker) entry(dir *os.File, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
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
	w.held = w.held.plus(linkTally(&st))
	w.held.xattrs += xattrBytes(linkXattrs(place{dir: dir, base: name}))
	switch kind {
	case unix.S_IFREG:
		w.bytes += st.Size
	case unix.S_IFDIR:
		err := w.open(dir, name)
		if errors.Is(err, fs.ErrPermission) {
			return w.openClosed(dir, name, uint32(st.Mode)&0o7777)
		}
		return err
	}
	return nil
}

func (w *walker) open(dir *os.File, name string) error {
	d, err := openDirAt(dir, name)
	if err != nil {
		return err
	}
	defer d.Close()
	return w.walk(d)
}

// openClosed walks a directory whose mode keeps its owner out, under another mode
// meanwhile. Without it the volume could not be measured at all.
func (w *walker) openClosed(dir *os.File, name string, mode uint32) error {
	if err := w.host.openUp(dir, name); err != nil {
		return err
	}
	err := w.open(dir, name)
	return errors.Join(err, nofollow.Chmod(int(dir.Fd()), name, mode))
}

// changeQuota runs a change of a volume's quota while the volume is at rest, having
// made sure that the new quota can be kept.
func (b *Backend) changeQuota(ctx context.Context, id string, change driver.Update, apply func() error) error {
	return b.atRest(ctx, id, "changing the quota", func(p *page) error {
		if change.Quota != 0 {
			if err := b.fitsQuota(ctx, id, p, change.Quota); err != nil {
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

func (b *Backend) fitsQuota(ctx context.Context, id string, p *page, quota driver.Size) error {
	r, err := b.get(ctx, driver.ByID(id))
	if err != nil {
		return err
	}
	r = b.rowNow(r)
	if r.UsedStale || r.tally.entries < 0 {
		if _, err = b.measureLocked(ctx, id, p); err != nil {
			return err
		}
		if r, err = b.get(ctx, driver.ByID(id)); err != nil {
			return err
		}
		r = b.rowNow(r)
	}
	// Still stale: something is writing past the FS, which apply will refuse by name.
	if r.Used > quota {
		return driver.Errorf(driver.ErrQuota, "the volume holds %d bytes already, more than a quota of %s", int64(r.Used), quota)
	}
	return driver.MetadataBounds(quota).Admit(driver.Metadata{}, r.tally.metadata())
}
