//go:build unix

package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/beneath"
	"github.com/volehq/vole/internal/openset"
	"golang.org/x/sys/unix"
)

// volumeFS implements driver.FS on a dir volume. os.Root resolves paths, so the kernel keeps
// every step beneath the volume's root. Operations on a name then use the descriptor of the
// directory that the name is in, which cannot be moved away under them, and never follow the
// name itself.
type volumeFS struct {
	b        *Backend
	id       string
	readOnly bool
	batch    bool

	root      *os.Root // of data/
	dataDir   *os.File // data/ itself
	volumeDir *os.File // the volume's directory, of which tmp is a child

	dirty     atomic.Bool   // in batch mode: changed since the last sync
	tempCount atomic.Uint64 // number of temporary names given out

	usage lazyCounter
	life  openset.Life

	mu        sync.Mutex // guards what follows
	tmpDir    *os.File   // tmp/, nil until needed
	cachedDir *cachedDir // of a draft, the directory that was used last; nil: none
}

// OpenFS implements driver.Backend.
func (b *Backend) OpenFS(ctx context.Context, id string, opts driver.FSOptions) (driver.FS, error) {
	if err := b.checkOpen(); err != nil {
		return nil, err
	}
	r, err := b.getVolume(ctx, driver.ByID(id))
	if err != nil {
		return nil, err
	}
	if r.Kind == driver.KindDisk {
		return b.disks.Volume(id).OpenFS(ctx, opts)
	}
	f := &volumeFS{b: b, id: id, usage: lazyCounter{b: b, id: id}, readOnly: opts.ReadOnly || b.readOnly, batch: opts.Batch}
	if err := f.openDirectories(ctx, r.made); err != nil {
		f.closeDescriptors()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, b.errMissingDirectory(ctx, id)
		}
		return nil, translateError(err)
	}
	if err := f.life.Begin(&b.open, f); err != nil {
		f.closeDescriptors()
		return nil, err
	}
	return f, nil
}

// openDirectories opens the volume's directories. A volume that was never used has no data
// directory: a writer makes it, and a reader sees the directory above, which is as empty.
func (f *volumeFS) openDirectories(ctx context.Context, made bool) (err error) {
	name := f.id + "/data"
	if !made {
		if !f.readOnly {
			err = f.b.ensureDataDir(ctx, f.id)
		} else if _, serr := beneath.Lstat(f.b.volumes, name); errors.Is(serr, fs.ErrNotExist) {
			name = f.id
		}
	}
	if err != nil {
		return err
	}
	if f.volumeDir, err = openDirAt(f.b.volumes, f.id); err != nil {
		return err
	}
	dir, err := openDirAt(f.b.volumes, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	if f.root, err = f.b.openVerifiedRoot(dir, "volumes/"+name); err != nil {
		return err
	}
	f.dataDir, err = f.root.Open(".")
	return err
}

// openVerifiedRoot returns an os.Root of an open directory of the home; name is its path there.
// os opens a root only by path, so the result is compared with the open directory.
func (b *Backend) openVerifiedRoot(dir *os.File, name string) (*os.Root, error) {
	root, err := os.OpenRoot(b.homePath(name))
	if err != nil {
		return nil, err
	}
	want, err := dir.Stat()
	have, herr := root.Stat(".")
	if err = errors.Join(err, herr); err == nil && !os.SameFile(want, have) {
		err = errHomeMoved(name)
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}

// errHomeMoved returns ErrCorrupt for a home whose path leads to another directory than before.
func errHomeMoved(name string) error {
	return driver.Errorf(driver.ErrCorrupt, "the path of the home does not lead to the %s that was opened; the home, or a link to it, has been moved: open it again", name)
}

// closeDescriptors closes all files and directories that the FS has open.
func (f *volumeFS) closeDescriptors() {
	if f.root != nil {
		f.root.Close()
	}
	f.cachedDir.release()
	for _, d := range []*os.File{f.dataDir, f.volumeDir, f.tmpDir} {
		d.Close() // nil is closed already
	}
}

// Finish implements openset.Member.
func (f *volumeFS) Finish(context.Context) error {
	if f.batch && f.dirty.Swap(false) {
		return f.explainError(f.syncVolume())
	}
	return nil
}

// Free implements openset.Member.
func (f *volumeFS) Free(context.Context) error {
	f.usage.Release(false)
	f.closeDescriptors()
	return nil
}

// Close implements driver.FS.
func (f *volumeFS) Close() error { return f.life.Close(context.Background()) }

// changeVolume runs an operation that changes something, with the volume's counter.
func (f *volumeFS) changeVolume(ctx context.Context, change func(c *counter) error) error {
	return f.life.Run(ctx, func() error {
		c, err := f.beginChange(ctx)
		if err != nil {
			return err
		}
		return f.explainError(change(c))
	})
}

// beginChange checks that the volume may be changed, and returns its counter.
func (f *volumeFS) beginChange(ctx context.Context) (*counter, error) {
	if f.readOnly {
		return nil, f.b.errReadOnly()
	}
	c, err := f.usage.acquire(ctx)
	if err != nil {
		return nil, err
	}
	if c.page.load(offRemoved) != 0 {
		return nil, errVolumeRemoved()
	}
	f.dirty.Store(true)
	return c, nil
}

// explainError translates an error, and returns ErrNotFound instead if the volume has been
// removed, or is just being removed.
func (f *volumeFS) explainError(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		if f.isRootDeleted() {
			return errVolumeRemoved()
		}
		if _, gerr := f.b.getVolume(context.Background(), driver.ByID(f.id)); errors.Is(gerr, driver.ErrNotFound) {
			return errVolumeRemoved()
		}
	}
	return translateError(err)
}

// isRootDeleted reports whether the volume's root has been deleted: it has no link left.
func (f *volumeFS) isRootDeleted() bool { return isDeleted(f.dataDir) }

// isDeleted reports whether an open file or directory has no link left.
func isDeleted(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Nlink == 0
}

// resolved is the result of resolving a path: a name in an open directory. The caller of resolve
// releases it.
type resolved struct {
	parent     *os.File
	name       string
	ownsParent bool       // release closes parent
	cached     *cachedDir // or releases this; nil: neither
}

// parentFD is the descriptor of the parent directory.
func (p resolved) parentFD() int { return int(p.parent.Fd()) }

// release closes the parent directory, or gives it back.
func (p resolved) release() {
	if p.ownsParent {
		p.parent.Close()
	}
	p.cached.release()
}

// lstat describes the named file, without following a link.
func (p resolved) lstat() (st unix.Stat_t, err error) {
	err = unix.Fstatat(p.parentFD(), p.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// resolve resolves the parent directory of a path. The root is the name "." in itself.
func (f *volumeFS) resolve(name string) (resolved, error) {
	dir, base := path.Split(name)
	if dir == "" {
		return resolved{parent: f.dataDir, name: base}, nil
	}
	dir = dir[:len(dir)-1]
	if c := f.usage.acquired.Load(); c != nil && f.batch && c.draft.Load() {
		return f.resolveInDraft(c, dir, base)
	}
	d, err := beneath.OpenWithin(f.root, f.dataDir, dir)
	if err != nil {
		return resolved{}, err
	}
	return resolved{parent: d, name: base, ownsParent: true}, nil
}

// resolveMakingParents is resolve for a path whose missing parents it makes.
func (f *volumeFS) resolveMakingParents(ctx context.Context, c *counter, name string) (resolved, error) {
	p, err := f.resolve(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return p, err
	}
	if err := f.mkdirAll(ctx, c, path.Dir(name), 0o755); err != nil {
		return resolved{}, err
	}
	return f.resolve(name)
}

// syncParents makes changes in the parent directories durable, unless in batch mode.
func (f *volumeFS) syncParents(places ...resolved) error {
	if f.batch {
		return nil
	}
	for i, p := range places {
		if i > 0 && p.parent == places[0].parent {
			continue
		}
		if err := f.b.host.syncFile(p.parent); err != nil {
			return err
		}
	}
	return nil
}

// syncResolved makes a change of the named file durable, unless in batch mode: a file or
// directory by itself, anything else by its parent directory.
func (f *volumeFS) syncResolved(p resolved) error {
	if f.batch {
		return nil
	}
	st, err := p.lstat()
	if err != nil {
		return err
	}
	if t := st.Mode & unix.S_IFMT; t == unix.S_IFREG || t == unix.S_IFDIR {
		fd, err := unix.Openat(p.parentFD(), p.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			n := os.NewFile(uintptr(fd), p.name)
			defer n.Close()
			return f.b.host.syncFile(n)
		}
		// The user may not open it, so it can only be synced with its directory.
	}
	return f.b.host.syncFile(p.parent)
}

// readResolved runs an operation that reads the named file.
func (f *volumeFS) readResolved(ctx context.Context, name string, read func(resolved) error) error {
	return f.life.Run(ctx, func() error {
		p, err := f.resolve(name)
		if err != nil {
			return f.explainError(err)
		}
		defer p.release()
		return f.explainError(read(p))
	})
}

// Stat implements driver.FS.
func (f *volumeFS) Stat(ctx context.Context, name string) (e driver.Entry, err error) {
	err = f.life.Run(ctx, func() error {
		info, err := f.root.Stat(name)
		if err != nil {
			return f.explainError(err)
		}
		if e = entryOfInfo(path.Base(name), info); name == "." && e.Nlink == 0 {
			return errVolumeRemoved()
		}
		return nil
	})
	return e, err
}

// Lstat implements driver.FS.
func (f *volumeFS) Lstat(ctx context.Context, name string) (e driver.Entry, err error) {
	err = f.readResolved(ctx, name, func(p resolved) error {
		st, err := p.lstat()
		if err == nil && name == "." && st.Nlink == 0 {
			err = errVolumeRemoved()
		}
		e = entryOfStat(path.Base(name), &st)
		return err
	})
	return e, err
}

// Readlink implements driver.FS.
func (f *volumeFS) Readlink(ctx context.Context, name string) (target string, err error) {
	err = f.life.Run(ctx, func() error {
		target, err = f.root.Readlink(name)
		if errors.Is(err, unix.EINVAL) {
			return driver.Errorf(driver.ErrInvalid, "not a symbolic link")
		}
		return f.explainError(err)
	})
	return target, err
}

// Statfs implements driver.FS.
func (f *volumeFS) Statfs(ctx context.Context) (driver.Statfs, error) {
	if err := f.life.Enter(ctx); err != nil {
		return driver.Statfs{}, err
	}
	defer f.life.Leave()
	r, err := f.b.getVolume(ctx, driver.ByID(f.id))
	if err != nil {
		return driver.Statfs{}, err
	}
	r = f.b.withLiveUsage(r)
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.dataDir.Fd()), &st); err != nil {
		return driver.Statfs{}, translateError(err)
	}
	s := driver.Statfs{
		Used:  int64(r.Used),
		Free:  int64(st.Bavail) * int64(st.Bsize),
		Files: int64(st.Ffree),
	}
	s.Total = s.Used + s.Free
	if r.Quota != 0 {
		s.Total = int64(r.Quota)
		s.Free = min(s.Free, max(0, s.Total-s.Used))
	}
	s.Files = min(s.Files, max(0, driver.MetadataBounds(r.Quota).Entries-max(0, r.tally.entries)))
	return s, nil
}

// Sync implements driver.FS.
func (f *volumeFS) Sync(ctx context.Context) error {
	return f.life.Run(ctx, func() error {
		if f.isRootDeleted() {
			return errVolumeRemoved()
		}
		if f.readOnly || !f.dirty.Swap(false) {
			return nil
		}
		err := f.explainError(f.syncVolume())
		if err != nil {
			f.dirty.Store(true)
		}
		return err
	})
}

// syncVolume makes all changes durable by syncing the file system that holds the volume.
func (f *volumeFS) syncVolume() error {
	return f.b.host.faults.Do("syncfs", f.id, func() error { return syncHostFileSystem(f.dataDir) })
}

// omitTime is the time of a stat that a system call leaves as it is.
var omitTime = unix.Timespec{Nsec: utimeOmit}

// toTimespec converts a time; the zero time becomes omitTime.
func toTimespec(t time.Time) unix.Timespec {
	if t.IsZero() {
		return omitTime
	}
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())} // UnixNano ends in 2262
}
