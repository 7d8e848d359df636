package bucket

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"path"
	"slices"
	"sync/atomic"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/openset"
	"github.com/volehq/vole/internal/sqldb"
)

// volumeFS implements driver.FS.
type volumeFS struct {
	b           *Backend
	vol         []byte
	opts        driver.FSOptions
	attachment  []byte       // id of the attachment under which files are changed; nil: none
	maintenance bool         // an exclusive writer does not exclude it
	quotaHint   atomic.Int64 // the quota as this process last saw it, in bytes; transactions read it themselves
	life        openset.Life
}

// maintenanceFS returns an FS for background work: no rights apply to it, and it is not
// registered.
func (b *Backend) maintenanceFS(vol []byte) *volumeFS {
	return &volumeFS{b: b, vol: vol, maintenance: true}
}

// OpenFS implements driver.Backend.
func (b *Backend) OpenFS(ctx context.Context, id string, opts driver.FSOptions) (driver.FS, error) {
	defer b.ns.metrics.observeSince("volume_open", time.Now())
	fsys, err := b.openVolumeFS(ctx, id, opts)
	if err != nil {
		return nil, err
	}
	return fsys, nil
}

// openVolumeFS is OpenFS for the Backend's own use, which is not counted as a call.
func (b *Backend) openVolumeFS(ctx context.Context, id string, opts driver.FSOptions) (*volumeFS, error) {
	if err := b.checkOpen(ctx); err != nil {
		return nil, err
	}
	row, err := b.getVolume(ctx, driver.ByID(id))
	if err != nil {
		return nil, err
	}
	fsys := &volumeFS{b: b, vol: row.id, opts: opts}
	fsys.quotaHint.Store(row.quota)
	if opts.Attachment != "" {
		if fsys.attachment, err = b.findWriterAttachment(ctx, row.id, opts.Attachment); err != nil {
			return nil, err
		}
	}
	fsys.opts.ReadOnly = opts.ReadOnly || b.ns.opts.ReadOnly
	if err := fsys.life.Begin(&b.open, fsys); err != nil {
		return nil, err
	}
	return fsys, nil
}

// findWriterAttachment returns the id of an attachment if it is alive and may write to the
// volume.
func (b *Backend) findWriterAttachment(ctx context.Context, vol []byte, id string) ([]byte, error) {
	var list []attachment
	if err := b.ns.db.RunQueries(ctx, b.liveAttachmentsQuery(&list, vol)); err != nil {
		return nil, err
	}
	for _, a := range list {
		if rows.FormatID(a.id) != id {
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

// checkOpen begins each call of an FS. Calls under way do not keep it open: it holds nothing
// that they could lose.
func (fsys *volumeFS) checkOpen(ctx context.Context) error {
	if err := fsys.life.Enter(ctx); err != nil {
		return err
	}
	fsys.life.Leave()
	return fsys.b.checkOpen(ctx)
}

// checkWritable begins each call of an FS that changes something.
func (fsys *volumeFS) checkWritable(ctx context.Context) error {
	if err := fsys.checkOpen(ctx); err != nil {
		return err
	}
	if !fsys.opts.ReadOnly {
		return nil
	}
	// ErrNotFound comes before ErrReadOnly.
	if _, err := fsys.b.getVolume(ctx, driver.ByID(rows.FormatID(fsys.vol))); err != nil {
		return err
	}
	return driver.Errorf(driver.ErrReadOnly, "the volume is open for reading only")
}

// resolvePath resolves a path outside a transaction. The node that it finds has this process's
// dirty size and times.
func (fsys *volumeFS) resolvePath(ctx context.Context, path string, mode resolveMode) (resolved, error) {
	if err := fsys.checkOpen(ctx); err != nil {
		return resolved{}, err
	}
	b, vol := fsys.b, fsys.vol
	db := b.ns.db
	before := b.commitCount.Load()
	w := pathWalker{db: db, vol: vol, run: func(list ...sqldb.Query) error { return db.RunQueries(ctx, list...) }}
	var list []inode
	ask, atOnce := lookupPathQuery(db, b.org, vol, path, &list)
	if atOnce {
		if err := db.RunQueries(ctx, ask); err != nil {
			return resolved{}, err
		}
		w.prefetched = map[string][]inode{path: list}
	}
	target, err := w.resolve(path, mode)
	if !atOnce {
		// The elements were looked up one by one, and a removal may have been deleting rows of
		// the volume: what was found, or not, counts if the volume exists afterwards.
		if gone := db.RunQueries(ctx, b.requireVolumeQuery(vol)); gone != nil {
			return resolved{}, gone
		}
	}
	if err == nil && target.node != nil {
		err = b.overlayDirty(ctx, vol, target.node, before)
	}
	return target, err
}

// mustResolve is resolvePath with ErrNotExist if nothing is there.
func (fsys *volumeFS) mustResolve(ctx context.Context, path string, mode resolveMode) (resolved, error) {
	target, err := fsys.resolvePath(ctx, path, mode)
	if err == nil && target.node == nil {
		err = driver.ErrNotExist
	}
	return target, err
}

// baseName is path.Base, for functions with a parameter called path.
func baseName(p string) string { return path.Base(p) }

// Stat implements driver.FS.
func (fsys *volumeFS) Stat(ctx context.Context, path string) (driver.Entry, error) {
	defer fsys.b.ns.metrics.observeSince("fs_stat", time.Now())
	return fsys.statPath(ctx, path, resolveMode{followLast: true})
}

// Lstat implements driver.FS.
func (fsys *volumeFS) Lstat(ctx context.Context, path string) (driver.Entry, error) {
	defer fsys.b.ns.metrics.observeSince("fs_lstat", time.Now())
	return fsys.statPath(ctx, path, resolveMode{})
}

// statPath describes the inode at a path.
func (fsys *volumeFS) statPath(ctx context.Context, path string, mode resolveMode) (driver.Entry, error) {
	target, err := fsys.mustResolve(ctx, path, mode)
	if err != nil {
		return driver.Entry{}, err
	}
	return target.node.toEntry(baseName(path)), nil
}

// Readlink implements driver.FS.
func (fsys *volumeFS) Readlink(ctx context.Context, path string) (string, error) {
	defer fsys.b.ns.metrics.observeSince("fs_readlink", time.Now())
	target, err := fsys.mustResolve(ctx, path, resolveMode{})
	if err != nil {
		return "", err
	}
	if !target.node.isSymlink() {
		return "", driver.Errorf(driver.ErrInvalid, "not a symbolic link")
	}
	return string(target.node.target), nil
}

// Mkdir implements driver.FS.
func (fsys *volumeFS) Mkdir(ctx context.Context, path string, mode fs.FileMode) error {
	defer fsys.b.ns.metrics.observeSince("fs_mkdir", time.Now())
	return fsys.createUnlessExists(ctx, path, inode{mode: typeDir | permissionBits(mode), nlink: 2})
}

// Symlink implements driver.FS.
func (fsys *volumeFS) Symlink(ctx context.Context, target, path string) error {
	defer fsys.b.ns.metrics.observeSince("fs_symlink", time.Now())
	return fsys.createUnlessExists(ctx, path, inode{mode: typeLink | 0o777, nlink: 1, size: int64(len(target)), target: []byte(target)})
}

// Mknod implements driver.FS.
func (fsys *volumeFS) Mknod(ctx context.Context, path string, mode fs.FileMode, rdev uint64) error {
	defer fsys.b.ns.metrics.observeSince("fs_mknod", time.Now())
	typ := specialFileType(mode)
	if typ == 0 {
		return driver.Errorf(driver.ErrInvalid, "a node is a fifo, a socket or a device, not %v", mode.Type())
	}
	if typ == typeFifo || typ == typeSocket {
		rdev = 0
	}
	if rdev > math.MaxInt64 {
		return driver.Errorf(driver.ErrInvalid, "device number %d is too large", rdev)
	}
	return fsys.createUnlessExists(ctx, path, inode{mode: typ | permissionBits(mode), nlink: 1, rdev: int64(rdev)})
}

// createUnlessExists creates n at a path, and returns ErrExists if something is there.
func (fsys *volumeFS) createUnlessExists(ctx context.Context, path string, n inode) error {
	return fsys.runTxIfWritable(ctx, []string{path}, func(tx *volumeTx) error {
		target, err := tx.walker.resolve(path, resolveMode{})
		if err != nil {
			return err
		}
		if target.node != nil {
			return driver.ErrExists
		}
		tx.createInode(&target.parent, target.name, &n)
		return nil
	})
}

// MkdirAll implements driver.FS.
func (fsys *volumeFS) MkdirAll(ctx context.Context, path string, mode fs.FileMode) error {
	defer fsys.b.ns.metrics.observeSince("fs_mkdir_all", time.Now())
	return fsys.runTxIfWritable(ctx, []string{path}, func(tx *volumeTx) error {
		target, err := tx.walker.resolve(path, resolveMode{allowMissingParents: true})
		if err == nil && target.node != nil && target.node.isSymlink() {
			if target, err = tx.walker.resolve(path, resolveMode{followLast: true}); err == nil && target.node == nil {
				err = driver.ErrNotExist
			}
		}
		if err != nil {
			return err
		}
		if target.node != nil {
			if !target.node.isDir() {
				return driver.ErrNotDir
			}
			return nil
		}
		dir := tx.makeMissingParents(&target, permissionBits(mode))
		tx.createInode(dir, target.name, &inode{mode: typeDir | permissionBits(mode), nlink: 2})
		return nil
	})
}

// Link implements driver.FS.
func (fsys *volumeFS) Link(ctx context.Context, target, path string) error {
	defer fsys.b.ns.metrics.observeSince("fs_link", time.Now())
	return fsys.runTxIfWritable(ctx, []string{target, path}, func(tx *volumeTx) error {
		from, err := tx.mustResolve(target, resolveMode{})
		if err != nil {
			return err
		}
		to, err := tx.walker.resolve(path, resolveMode{})
		if err != nil {
			return err
		}
		switch {
		case to.node != nil:
			return driver.ErrExists
		case from.node.isDir():
			return driver.Errorf(driver.ErrPermission, "a directory cannot have a second name")
		}
		tx.addDirent(&to.parent, to.name, from.node.ino, 0)
		tx.QueueExec(`UPDATE inodes SET nlink = nlink + 1, ctime = $3 WHERE vol = $1 AND ino = $2`, tx.vol, from.node.ino, tx.now)
		return nil
	})
}

// Rename implements driver.FS.
func (fsys *volumeFS) Rename(ctx context.Context, from, to string, opts driver.RenameOptions) error {
	defer fsys.b.ns.metrics.observeSince("fs_rename", time.Now())
	return fsys.runTxIfWritable(ctx, []string{from, to}, func(tx *volumeTx) error {
		src, err := tx.mustResolve(from, resolveMode{})
		if err != nil {
			return err
		}
		dst, err := tx.walker.resolve(to, resolveMode{})
		if err != nil {
			return err
		}
		if src.node.isDir() && slices.Contains(dst.ancestors, src.node.ino) {
			return driver.Errorf(driver.ErrInvalid, "a directory cannot be moved into itself")
		}
		if dst.node != nil {
			if opts.NoReplace {
				return driver.ErrExists
			}
			if dst.node.ino == src.node.ino {
				return nil
			}
			if err := tx.checkReplaceable(src.node, dst.node); err != nil {
				return err
			}
			tx.unlinkResolved(&dst)
		}
		moved := int64(0)
		if src.node.isDir() {
			moved = 1
		}
		tx.removeDirent(src.parent.ino, src.name)
		tx.noteTouchedDir(src.parent.ino, -moved)
		tx.addDirent(&dst.parent, dst.name, src.node.ino, moved)
		tx.QueueExec(`UPDATE inodes SET ctime = $3 WHERE vol = $1 AND ino = $2`, tx.vol, src.node.ino, tx.now)
		return nil
	})
}

// Statfs implements driver.FS.
func (fsys *volumeFS) Statfs(ctx context.Context) (driver.Statfs, error) {
	defer fsys.b.ns.metrics.observeSince("fs_statfs", time.Now())
	if err := fsys.checkOpen(ctx); err != nil {
		return driver.Statfs{}, err
	}
	if err := fsys.b.flushVolumeBestEffort(ctx, fsys.vol); err != nil {
		return driver.Statfs{}, err
	}
	row, err := fsys.b.getVolume(ctx, driver.ByID(rows.FormatID(fsys.vol)))
	if err != nil {
		return driver.Statfs{}, err
	}
	s := driver.Statfs{Total: row.quota, Used: row.used, Free: max(0, row.quota-row.used), Files: -1}
	if row.quota == 0 {
		s.Total, s.Free = max(unlimitedSize, row.used), max(0, unlimitedSize-row.used)
	}
	return s, nil
}

// unlimitedSize is what Statfs returns for a volume without a quota, in bytes: blob stores do
// not tell their free space, and programs take this for plenty.
const unlimitedSize = 1 << 60

// Sync implements driver.FS.
func (fsys *volumeFS) Sync(ctx context.Context) error {
	defer fsys.b.ns.metrics.observeSince("fs_sync", time.Now())
	if err := fsys.checkOpen(ctx); err != nil {
		return err
	}
	return fsys.syncFiles(ctx)
}

// syncFiles flushes the files of the volume, and makes them durable if commits were lazy.
func (fsys *volumeFS) syncFiles(ctx context.Context) error {
	if _, err := fsys.b.getVolume(ctx, driver.ByID(rows.FormatID(fsys.vol))); err != nil || fsys.opts.ReadOnly {
		return err
	}
	if err := fsys.b.flushVolume(ctx, fsys.vol); err != nil || !fsys.opts.Batch {
		return err
	}
	return fsys.b.flushLazyCommits(ctx, fsys.vol)
}

// flushLazyCommits makes the lazy commits to a volume durable. The database's log is synced in
// order, so one durable commit covers all before it.
func (b *Backend) flushLazyCommits(ctx context.Context, vol []byte) error {
	return b.ns.runFreeingTx(ctx, nil, func(tx sqldb.Tx) error {
		tx.QueueExec(`UPDATE volumes SET generation = generation + 1 WHERE org = $1 AND id = $2`, b.org, vol)
		return nil
	})
}

// Close implements driver.FS.
func (fsys *volumeFS) Close() error {
	defer fsys.b.ns.metrics.observeSince("fs_close", time.Now())
	return closeInTime(&fsys.life)
}

// Finish implements openset.Member.
func (fsys *volumeFS) Finish(ctx context.Context) error {
	err := fsys.syncFiles(ctx)
	if errors.Is(err, driver.ErrNotFound) {
		return nil // the volume was removed
	}
	return err
}

// Free implements openset.Member. An FS holds nothing.
func (fsys *volumeFS) Free(context.Context) error { return nil }
