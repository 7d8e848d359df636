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
	"golang.org/x/sys/unix"
)

// fileSystem implements driver.FS on a dir volume. Paths are resolved by os.Root, so
// the kernel holds every step beneath the volume's root; what acts on a name then
// works with the descriptor of the directory that the name is in, which cannot be
// moved away under it, and never follows the name itself.
type fileSystem struct {
	b        *Backend
	id       string
	readOnly bool
	batch    bool

	root *os.Root // of data/
	dir  *os.File // data/ itself
	top  *os.File // the volume's directory, of which tmp is a child

	dirty atomic.Bool   // something was changed and not synced, in batch mode
	temps atomic.Uint64 // number of temporary names given out

	mu     sync.Mutex // guards what follows
	refs   int        // operations under way
	closed bool
	count  *counter // nil until the first change
	tmp    *os.File // tmp/, nil until needed
	kept   *keptDir // of a draft, the directory that was used last; nil: none
}

// OpenFS implements driver.Backend.
func (b *Backend) OpenFS(ctx context.Context, id string, opts driver.FSOptions) (driver.FS, error) {
	if err := b.usable(); err != nil {
		return nil, err
	}
	r, err := b.get(ctx, driver.ByID(id))
	if err != nil {
		return nil, err
	}
	if r.Kind == driver.KindDisk {
		return b.openDiskVolume(ctx, id, opts)
	}
	f := &fileSystem{b: b, id: id, readOnly: opts.ReadOnly || b.readOnly, batch: opts.Batch}
	if err := f.openRoot(ctx, r.made); err != nil {
		f.free()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, b.whyMissing(ctx, id)
		}
		return nil, sysErr(err)
	}
	if err := b.register(f); err != nil {
		f.free()
		return nil, err
	}
	return f, nil
}

// openRoot opens the volume's directories. One that was never used has no data yet: it
// is made for a writer, and a reader sees the directory above, which is as empty.
func (f *fileSystem) openRoot(ctx context.Context, made bool) (err error) {
	name := f.id + "/data"
	if !made {
		if !f.readOnly {
			err = f.b.ensureData(ctx, f.id)
		} else if _, serr := beneath.Lstat(f.b.volumes, name); errors.Is(serr, fs.ErrNotExist) {
			name = f.id
		}
	}
	if err != nil {
		return err
	}
	if f.top, err = openDirAt(f.b.volumes, f.id); err != nil {
		return err
	}
	dir, err := openDirAt(f.b.volumes, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	if f.root, err = f.b.rootOf(dir, "volumes/"+name); err != nil {
		return err
	}
	f.dir, err = f.root.Open(".")
	return err
}

// rootOf makes an open directory of the home, name by its path there, the root of paths.
// os opens a root by a path alone, so what it opened is compared.
func (b *Backend) rootOf(dir *os.File, name string) (*os.Root, error) {
	root, err := os.OpenRoot(b.path(name))
	if err != nil {
		return nil, err
	}
	want, err := dir.Stat()
	have, herr := root.Stat(".")
	if err = errors.Join(err, herr); err == nil && !os.SameFile(want, have) {
		err = errMoved(name)
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}

// errMoved is the error for a home whose path leads elsewhere than it did.
func errMoved(name string) error {
	return driver.Errorf(driver.ErrCorrupt, "the path of the home does not lead to the %s that was opened; the home, or a link to it, has been moved: open it again", name)
}

// free closes what is open.
func (f *fileSystem) free() {
	if f.root != nil {
		f.root.Close()
	}
	f.kept.release()
	for _, d := range []*os.File{f.dir, f.top, f.tmp} {
		if d != nil {
			d.Close()
		}
	}
}

// enter begins an operation; done ends it. What Close frees stays until then.
func (f *fileSystem) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return driver.ErrClosed
	}
	f.refs++
	return nil
}

func (f *fileSystem) done() {
	f.mu.Lock()
	f.refs--
	last := f.closed && f.refs == 0
	f.mu.Unlock()
	if last {
		f.end()
	}
}

// end frees everything, once the FS is closed and nothing is under way.
func (f *fileSystem) end() {
	if f.count != nil {
		f.count.release()
	}
	f.free()
	f.b.unregister(f)
}

// Close implements driver.FS.
func (f *fileSystem) Close() error { return f.closeWith(context.Background()) }

func (f *fileSystem) closeWith(context.Context) error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	f.closed = true
	f.refs++ // of Close itself
	f.mu.Unlock()
	defer f.done()
	if f.batch && f.dirty.Swap(false) {
		return f.gone(f.syncAll())
	}
	return nil
}

// counter returns the volume's counter, taking it at the first change.
func (f *fileSystem) counter(ctx context.Context) (*counter, error) {
	f.mu.Lock()
	c := f.count
	f.mu.Unlock()
	if c != nil {
		return c, nil
	}
	c, err := f.b.useCounter(ctx, f.id)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count != nil {
		c.release()
		return f.count, nil
	}
	f.count = c
	return c, nil
}

// change begins an operation that changes something.
func (f *fileSystem) change(ctx context.Context) (*counter, error) {
	if err := f.enter(ctx); err != nil {
		return nil, err
	}
	c, err := f.startChange(ctx)
	if err != nil {
		f.done()
		return nil, err
	}
	return c, nil
}

func (f *fileSystem) startChange(ctx context.Context) (*counter, error) {
	if f.readOnly {
		return nil, f.b.readOnlyErr()
	}
	c, err := f.counter(ctx)
	if err != nil {
		return nil, err
	}
	if c.page.load(offRemoved) != 0 {
		return nil, volumeGone()
	}
	f.dirty.Store(true)
	return c, nil
}

// gone translates an error, and finds out whether it came because the volume was, or
// is just being, removed.
func (f *fileSystem) gone(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		if f.rootGone() {
			return volumeGone()
		}
		if _, gerr := f.b.get(context.Background(), driver.ByID(f.id)); errors.Is(gerr, driver.ErrNotFound) {
			return volumeGone()
		}
	}
	return sysErr(err)
}

// rootGone reports whether the volume's root has been deleted: it has no link left.
func (f *fileSystem) rootGone() bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.dir.Fd()), &st) == nil && st.Nlink == 0
}

// place is a name in an open directory: what an operation acts on.
type place struct {
	dir  *os.File
	base string
	own  bool     // dir is to be closed
	kept *keptDir // or this is to be released
}

func (p place) fd() int { return int(p.dir.Fd()) }

func (p place) close() {
	if p.own {
		p.dir.Close()
	}
	p.kept.release()
}

// stat describes what is at the place, not following a link.
func (p place) stat() (st unix.Stat_t, err error) {
	err = unix.Fstatat(p.fd(), p.base, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// find resolves the directory that name is in. The root is "." in itself.
func (f *fileSystem) find(name string) (place, error) {
	dir, base := path.Split(name)
	if dir == "" {
		return place{dir: f.dir, base: base}, nil
	}
	dir = dir[:len(dir)-1]
	f.mu.Lock()
	c := f.count
	f.mu.Unlock()
	if c != nil && f.batch && c.draft.Load() {
		return f.findInDraft(c, dir, base)
	}
	d, err := beneath.OpenWithin(f.root, f.dir, dir)
	if err != nil {
		return place{}, err
	}
	return place{dir: d, base: base, own: true}, nil
}

// findMaking is find for a name whose missing parents are to be made.
func (f *fileSystem) findMaking(ctx context.Context, c *counter, name string) (place, error) {
	p, err := f.find(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return p, err
	}
	if err := f.mkdirAll(ctx, c, path.Dir(name), 0o755); err != nil {
		return place{}, err
	}
	return f.find(name)
}

// syncDirs makes changes of directories durable, unless in batch mode.
func (f *fileSystem) syncDirs(places ...place) error {
	if f.batch {
		return nil
	}
	for i, p := range places {
		if i > 0 && p.dir == places[0].dir {
			continue
		}
		if err := f.b.host.syncFile(p.dir); err != nil {
			return err
		}
	}
	return nil
}

// syncNode makes a change of what is at a place durable, unless in batch mode: of a
// file or directory by itself, of anything else with the directory it is in.
func (f *fileSystem) syncNode(p place) error {
	if f.batch {
		return nil
	}
	st, err := p.stat()
	if err != nil {
		return err
	}
	if t := st.Mode & unix.S_IFMT; t == unix.S_IFREG || t == unix.S_IFDIR {
		fd, err := unix.Openat(p.fd(), p.base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			n := os.NewFile(uintptr(fd), p.base)
			defer n.Close()
			return f.b.host.syncFile(n)
		}
		// What its owner may not read can only be synced with the directory.
	}
	return f.b.host.syncFile(p.dir)
}

// Stat implements driver.FS.
func (f *fileSystem) Stat(ctx context.Context, name string) (driver.Entry, error) {
	if err := f.enter(ctx); err != nil {
		return driver.Entry{}, err
	}
	defer f.done()
	info, err := f.root.Stat(name)
	if err != nil {
		return driver.Entry{}, f.gone(err)
	}
	e := entryOfInfo(path.Base(name), info)
	if name == "." && e.Nlink == 0 {
		return driver.Entry{}, volumeGone()
	}
	return e, nil
}

// Lstat implements driver.FS.
func (f *fileSystem) Lstat(ctx context.Context, name string) (driver.Entry, error) {
	if err := f.enter(ctx); err != nil {
		return driver.Entry{}, err
	}
	defer f.done()
	p, err := f.find(name)
	if err != nil {
		return driver.Entry{}, f.gone(err)
	}
	defer p.close()
	st, err := p.stat()
	if err != nil {
		return driver.Entry{}, f.gone(err)
	}
	if name == "." && st.Nlink == 0 {
		return driver.Entry{}, volumeGone()
	}
	return entryOf(path.Base(name), &st), nil
}

// Readlink implements driver.FS.
func (f *fileSystem) Readlink(ctx context.Context, name string) (string, error) {
	if err := f.enter(ctx); err != nil {
		return "", err
	}
	defer f.done()
	target, err := f.root.Readlink(name)
	if errors.Is(err, unix.EINVAL) {
		return "", driver.Errorf(driver.ErrInvalid, "not a symbolic link")
	}
	return target, f.gone(err)
}

// Statfs implements driver.FS.
func (f *fileSystem) Statfs(ctx context.Context) (driver.Statfs, error) {
	if err := f.enter(ctx); err != nil {
		return driver.Statfs{}, err
	}
	defer f.done()
	info, err := f.b.Get(ctx, driver.ByID(f.id))
	if err != nil {
		return driver.Statfs{}, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.dir.Fd()), &st); err != nil {
		return driver.Statfs{}, sysErr(err)
	}
	s := driver.Statfs{
		Used:  int64(info.Used),
		Free:  int64(st.Bavail) * int64(st.Bsize),
		Files: int64(st.Ffree),
	}
	s.Total = s.Used + s.Free
	if info.Quota != 0 {
		s.Total = int64(info.Quota)
		s.Free = min(s.Free, max(0, s.Total-s.Used))
	}
	if r, err := f.b.get(ctx, driver.ByID(f.id)); err == nil {
		held := f.b.rowNow(r).tally
		s.Files = min(s.Files, max(0, driver.MetadataBounds(r.Quota).Entries-max(0, held.entries)))
	}
	return s, nil
}

// Sync implements driver.FS.
func (f *fileSystem) Sync(ctx context.Context) error {
	if err := f.enter(ctx); err != nil {
		return err
	}
	defer f.done()
	if f.rootGone() {
		return volumeGone()
	}
	if f.readOnly || !f.dirty.Swap(false) {
		return nil
	}
	err := f.gone(f.syncAll())
	if err != nil {
		f.dirty.Store(true)
	}
	return err
}

// syncAll makes everything durable that was done in the volume, and around it.
func (f *fileSystem) syncAll() error {
	return f.b.host.faults.Do("syncfs", f.id, func() error { return syncAll(f.dir) })
}

// Times of a stat that no system call is to change.
var omitTime = unix.Timespec{Nsec: utimeOmit}

func timespec(t time.Time) unix.Timespec {
	if t.IsZero() {
		return omitTime
	}
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())} // UnixNano ends in 2262
}
