package bucket

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/volehq/vole/driver"
)

// fileSystem implements driver.FS.
type fileSystem struct {
	b      *Backend
	vol    []byte
	opts   driver.FSOptions
	att    []byte       // the attachment under which files are changed; nil: none
	system bool         // of maintenance, which an exclusive writer does not keep out
	hint   atomic.Int64 // the quota as this process last saw it; commits look themselves

	mu     sync.Mutex // guards closed
	closed bool
}

// system is an FS of maintenance: it is under nobody's rights, and in nobody's way.
func (b *Backend) system(vol []byte) *fileSystem {
	return &fileSystem{b: b, vol: vol, system: true}
}

// openFS is OpenFS for the package itself.
func (b *Backend) openFS(ctx context.Context, id string, opts driver.FSOptions) (*fileSystem, error) {
	if err := b.usable(ctx); err != nil {
		return nil, err
	}
	v, err := b.get(ctx, driver.ByID(id))
	if err != nil {
		return nil, err
	}
	f := &fileSystem{b: b, vol: v.id, opts: opts}
	f.hint.Store(v.quota)
	if opts.Attachment != "" {
		if f.att, err = b.writerAttachment(ctx, v.id, opts.Attachment); err != nil {
			return nil, err
		}
	}
	f.opts.ReadOnly = opts.ReadOnly || b.ns.opts.ReadOnly
	if err := b.keep(f); err != nil {
		return nil, err
	}
	return f, nil
}

// writerAttachment checks that an attachment lives and is for writing to the volume.
func (b *Backend) writerAttachment(ctx context.Context, vol []byte, id string) ([]byte, error) {
	var list []attachment
	if err := b.ns.db.read(ctx, b.liveAttachments(&list, vol)); err != nil {
		return nil, err
	}
	for _, a := range list {
		if idText(a.id) != id {
			continue
		}
		if a.readOnly != 0 {
			return nil, driver.Errorf(driver.ErrReadOnly, "the attachment is for reading")
		}
		return a.id, nil
	}
	return nil, errAttachmentEnded
}

var errAttachmentEnded = driver.Errorf(driver.ErrClosed, "the attachment has ended; attach again")

// enter begins a call.
func (f *fileSystem) enter(ctx context.Context) error {
	f.mu.Lock()
	closed := f.closed
	f.mu.Unlock()
	if closed {
		return driver.ErrClosed
	}
	return f.b.usable(ctx)
}

// enterWrite begins a call that changes something.
func (f *fileSystem) enterWrite(ctx context.Context) error {
	if err := f.enter(ctx); err != nil {
		return err
	}
	if !f.opts.ReadOnly {
		return nil
	}
	// A volume that is gone says so, also to who may not change it.
	if _, err := f.b.get(ctx, driver.ByID(idText(f.vol))); err != nil {
		return err
	}
	return driver.Errorf(driver.ErrReadOnly, "the volume is open for reading only")
}

// look resolves a path outside of a transaction.
func (f *fileSystem) look(ctx context.Context, path string, h how) (place, error) {
	if err := f.enter(ctx); err != nil {
		return place{}, err
	}
	return f.b.look(ctx, f.vol, path, h)
}

func (b *Backend) look(ctx context.Context, vol []byte, path string, h how) (place, error) {
	db := b.ns.db
	before := b.commits.Load()
	w := walker{vol: vol, chain: db.chain, run: func(list ...query) error { return db.read(ctx, list...) }}
	var list []inode
	ask, atOnce := db.chains(b.org, vol, path, &list)
	if atOnce {
		if err := db.read(ctx, ask); err != nil {
			return place{}, err
		}
		w.ready = map[string][]inode{path: list}
	} else if err := b.checkVolumeExists(ctx, vol); err != nil {
		return place{}, err
	}
	p, err := w.resolve(path, h)
	if !atOnce && (errors.Is(err, driver.ErrNotExist) || err == nil && p.node == nil) {
		// The elements were looked up one by one. If the volume was removed in between, its
		// rows are being deleted, and the name may only be missing for that.
		if gone := b.checkVolumeExists(ctx, vol); gone != nil {
			return place{}, gone
		}
	}
	if err == nil && p.node != nil {
		err = b.overlay(ctx, vol, p.node, before)
	}
	return p, err
}

// checkVolumeExists returns ErrNotFound if a volume does not exist or is being removed.
func (b *Backend) checkVolumeExists(ctx context.Context, vol []byte) error {
	var exists bool
	err := b.ns.db.read(ctx, isThere(&exists, b.org, vol))
	if err == nil && !exists {
		err = driver.ErrNotFound
	}
	return err
}

// there is look where something must be.
func (f *fileSystem) there(ctx context.Context, path string, h how) (place, error) {
	p, err := f.look(ctx, path, h)
	if err == nil && p.node == nil {
		err = driver.ErrNotExist
	}
	return p, err
}

// baseOf is path.Base, for functions that have a path of that name.
func baseOf(p string) string { return path.Base(p) }

// Stat implements driver.FS.
func (f *fileSystem) Stat(ctx context.Context, path string) (driver.Entry, error) {
	return f.stat(ctx, path, how{follow: true})
}

// Lstat implements driver.FS.
func (f *fileSystem) Lstat(ctx context.Context, path string) (driver.Entry, error) {
	return f.stat(ctx, path, how{})
}

func (f *fileSystem) stat(ctx context.Context, path string, h how) (driver.Entry, error) {
	p, err := f.there(ctx, path, h)
	if err != nil {
		return driver.Entry{}, err
	}
	return p.node.entry(baseOf(path)), nil
}

// Readlink implements driver.FS.
func (f *fileSystem) Readlink(ctx context.Context, path string) (string, error) {
	p, err := f.there(ctx, path, how{})
	if err != nil {
		return "", err
	}
	if !p.node.isLink() {
		return "", driver.Errorf(driver.ErrInvalid, "not a symbolic link")
	}
	return string(p.node.target), nil
}

// Mkdir implements driver.FS.
func (f *fileSystem) Mkdir(ctx context.Context, path string, mode fs.FileMode) error {
	return f.make(ctx, path, inode{mode: typeDir | permOf(mode), nlink: 2})
}

// Symlink implements driver.FS.
func (f *fileSystem) Symlink(ctx context.Context, target, path string) error {
	return f.make(ctx, path, inode{mode: typeLink | 0o777, nlink: 1, size: int64(len(target)), target: []byte(target)})
}

// Mknod implements driver.FS.
func (f *fileSystem) Mknod(ctx context.Context, path string, mode fs.FileMode, rdev uint64) error {
	typ := nodeType(mode)
	if typ == 0 {
		return driver.Errorf(driver.ErrInvalid, "a node is a fifo, a socket or a device, not %v", mode.Type())
	}
	if typ == typeFifo || typ == typeSocket {
		rdev = 0
	}
	if rdev > math.MaxInt64 {
		return driver.Errorf(driver.ErrInvalid, "device number %d is too large", rdev)
	}
	return f.make(ctx, path, inode{mode: typ | permOf(mode), nlink: 1, rdev: int64(rdev)})
}

// make adds what is not there yet.
func (f *fileSystem) make(ctx context.Context, path string, n inode) error {
	return f.change(ctx, []string{path}, func(c *change) error {
		p, err := c.w.resolve(path, how{})
		if err != nil {
			return err
		}
		if p.node != nil {
			return driver.ErrExists
		}
		c.add(&p.parent, p.name, &n)
		return nil
	})
}

// MkdirAll implements driver.FS.
func (f *fileSystem) MkdirAll(ctx context.Context, path string, mode fs.FileMode) error {
	return f.change(ctx, []string{path}, func(c *change) error {
		p, err := c.w.resolve(path, how{parents: true})
		if err == nil && p.node != nil && p.node.isLink() {
			if p, err = c.w.resolve(path, how{follow: true}); err == nil && p.node == nil {
				err = driver.ErrNotExist
			}
		}
		if err != nil {
			return err
		}
		if p.node != nil {
			if !p.node.isDir() {
				return driver.ErrNotDir
			}
			return nil
		}
		dir := c.parents(&p, permOf(mode))
		c.add(dir, p.name, &inode{mode: typeDir | permOf(mode), nlink: 2})
		return nil
	})
}

// Link implements driver.FS.
func (f *fileSystem) Link(ctx context.Context, target, path string) error {
	return f.change(ctx, []string{target, path}, func(c *change) error {
		from, err := c.must(target, how{})
		if err != nil {
			return err
		}
		to, err := c.w.resolve(path, how{})
		if err != nil {
			return err
		}
		switch {
		case to.node != nil:
			return driver.ErrExists
		case from.node.isDir():
			return driver.Errorf(driver.ErrPermission, "a directory has one name")
		}
		c.name(&to.parent, to.name, from.node.ino, 0)
		c.later(`UPDATE inodes SET nlink = nlink + 1, ctime = $3 WHERE vol = $1 AND ino = $2`, c.vol, from.node.ino, c.now)
		return nil
	})
}

// Rename implements driver.FS.
func (f *fileSystem) Rename(ctx context.Context, from, to string, opts driver.RenameOptions) error {
	return f.change(ctx, []string{from, to}, func(c *change) error {
		src, err := c.must(from, how{})
		if err != nil {
			return err
		}
		dst, err := c.w.resolve(to, how{})
		if err != nil {
			return err
		}
		if src.node.isDir() && slices.Contains(dst.above, src.node.ino) {
			return driver.Errorf(driver.ErrInvalid, "a directory cannot be moved into itself")
		}
		if dst.node != nil {
			if opts.NoReplace {
				return driver.ErrExists
			}
			if dst.node.ino == src.node.ino {
				return nil
			}
			if err := c.replaceable(src.node, dst.node); err != nil {
				return err
			}
			c.unname(&dst)
		}
		moved := int64(0)
		if src.node.isDir() {
			moved = 1
		}
		c.removeName(src.parent.ino, src.name)
		c.touch(src.parent.ino, -moved)
		c.name(&dst.parent, dst.name, src.node.ino, moved)
		c.later(`UPDATE inodes SET ctime = $3 WHERE vol = $1 AND ino = $2`, c.vol, src.node.ino, c.now)
		return nil
	})
}

// Statfs implements driver.FS.
func (f *fileSystem) Statfs(ctx context.Context) (driver.Statfs, error) {
	if err := f.enter(ctx); err != nil {
		return driver.Statfs{}, err
	}
	if err := f.b.flushVolume(ctx, f.vol); err != nil {
		return driver.Statfs{}, err
	}
	v, err := f.b.get(ctx, driver.ByID(idText(f.vol)))
	if err != nil {
		return driver.Statfs{}, err
	}
	s := driver.Statfs{Total: v.quota, Used: v.used, Free: max(0, v.quota-v.used), Files: -1}
	if v.quota == 0 {
		s.Total, s.Free = max(boundless, v.used), max(0, boundless-v.used)
	}
	return s, nil
}

// boundless is what a volume without a quota says it could grow to: no store tells its
// size, and programs take this one for plenty.
const boundless = 1 << 60

// Sync implements driver.FS.
func (f *fileSystem) Sync(ctx context.Context) error {
	if err := f.enter(ctx); err != nil {
		return err
	}
	return f.sync(ctx)
}

func (f *fileSystem) sync(ctx context.Context) error {
	if _, err := f.b.get(ctx, driver.ByID(idText(f.vol))); err != nil || f.opts.ReadOnly {
		return err
	}
	if err := f.b.syncVolume(ctx, f.vol); err != nil || !f.opts.Batch {
		return err
	}
	return f.b.harden(ctx, f.vol)
}

// harden makes the lazy commits to a volume durable: the log is synced in order, so one
// durable commit does it for all before it.
func (b *Backend) harden(ctx context.Context, vol []byte) error {
	return b.ns.freeing(ctx, nil, func(t tx) error {
		t.later(`UPDATE volumes SET generation = generation + 1 WHERE org = $1 AND id = $2`, b.org, vol)
		return nil
	})
}

// Close implements driver.FS.
func (f *fileSystem) Close() error {
	if f.shut() {
		return nil
	}
	f.b.forget(f)
	if f.b.usable(context.Background()) != nil {
		return nil // the Backend synced when it was closed
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	err := f.sync(ctx)
	if errors.Is(err, driver.ErrNotFound) {
		return nil // the volume was removed, and what it held with it
	}
	return err
}

// shut closes the FS to further calls; was tells whether it was closed before.
func (f *fileSystem) shut() (was bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	was, f.closed = f.closed, true
	return was
}

// closeTime bounds calls that take no context.
const closeTime = time.Minute

func (f *fileSystem) closeWith(ctx context.Context) error {
	if f.shut() {
		return nil
	}
	return f.sync(ctx)
}
