package bucket

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/openset"
)

// handle implements driver.File. What it shares with other handles on the file is in its
// openInode.
type handle struct {
	b     *Backend
	fs    *volumeFS
	inode *openInode // released by Free
	name  string     // last element of the path that was opened
	opts  driver.OpenOptions
	ahead readAhead // its prefetches
	life  openset.Life

	// reportedLosses are those of inode.lossCount that this handle has reported, or that came
	// before it. Guarded by inode.mu.
	reportedLosses int64
}

// Open implements driver.FS.
func (fsys *volumeFS) Open(ctx context.Context, path string, opts driver.OpenOptions) (driver.File, error) {
	defer fsys.b.ns.metrics.observeSince("fs_open", time.Now())
	h, err := fsys.openPath(ctx, path, opts)
	if err != nil {
		return nil, err
	}
	return h, nil
}

// openPath is Open for the package's own use, which is not counted as a call.
func (fsys *volumeFS) openPath(ctx context.Context, path string, opts driver.OpenOptions) (*handle, error) {
	writes := opts.Write || opts.Create || opts.Append || opts.Truncate
	if writes {
		if err := fsys.checkWritable(ctx); err != nil {
			return nil, err
		}
	}
	for tries := 0; ; tries++ {
		ino, err := fsys.resolveOrCreate(ctx, path, opts)
		if err != nil {
			return nil, err
		}
		h, err := fsys.openHandle(ctx, ino, baseName(path), opts)
		// The file may be removed after its name was resolved and before it was acquired.
		if errors.Is(err, driver.ErrNotExist) && tries < 100 {
			continue
		}
		return h, err
	}
}

// OpenEntry implements driver.FS.
func (fsys *volumeFS) OpenEntry(ctx context.Context, path string) (driver.File, driver.Entry, error) {
	defer fsys.b.ns.metrics.observeSince("fs_open", time.Now())
	h, err := fsys.openPath(ctx, path, driver.OpenOptions{NoFollow: true})
	if err != nil {
		return nil, driver.Entry{}, err
	}
	row, err := h.inode.readInode(ctx)
	if err != nil {
		return nil, driver.Entry{}, errors.Join(err, closeInTime(&h.life))
	}
	return h, row.toEntry(h.name), nil
}

// resolveOrCreate returns the inode number of the regular file at path. With opts.Create it
// creates one if nothing is there.
func (fsys *volumeFS) resolveOrCreate(ctx context.Context, path string, opts driver.OpenOptions) (int64, error) {
	mode := resolveMode{followLast: !opts.NoFollow && !opts.Exclusive}
	target, err := fsys.resolvePath(ctx, path, mode)
	if err != nil {
		return 0, err
	}
	if target.node == nil && opts.Create {
		var made int64
		err := fsys.runTxIfWritable(ctx, []string{path}, func(tx *volumeTx) error {
			made = 0
			target, err = tx.walker.resolve(path, mode)
			if err != nil || target.node != nil {
				return err
			}
			n := inode{mode: typeFile | permissionBits(opts.Mode), nlink: 1}
			if opts.Mode == 0 {
				n.mode |= 0o644
			}
			tx.createInode(&target.parent, target.name, &n)
			made = n.ino
			return nil
		})
		if err != nil || made != 0 {
			return made, err
		}
	}
	switch {
	case target.node == nil:
		return 0, driver.ErrNotExist
	case opts.Exclusive:
		return 0, driver.ErrExists
	case target.node.isSymlink():
		return 0, driver.Errorf(driver.ErrLoop, "the path is a symbolic link, and the options say not to follow it")
	case target.node.isDir():
		return 0, driver.ErrIsDir
	case !target.node.isRegular():
		return 0, driver.Errorf(driver.ErrUnsupported, "the path is a special file, neither a file nor a directory; it cannot be opened")
	}
	return target.node.ino, nil
}

// openHandle opens a handle on an inode. ErrNotExist: it was deleted since its name was
// resolved.
func (fsys *volumeFS) openHandle(ctx context.Context, ino int64, name string, opts driver.OpenOptions) (*handle, error) {
	o, err := fsys.b.acquireInode(ctx, fsys, ino)
	if err != nil {
		return nil, err
	}
	opts.Write = opts.Write || opts.Create || opts.Append
	h := &handle{b: fsys.b, fs: fsys, inode: o, name: name, opts: opts}
	// Load now and not at the first read: once the extents are known, the file can be read
	// for the grace time even if another host replaces it.
	_, _, err = o.loadWindow(ctx, 0)
	if opts.Write {
		h.reportedLosses = o.addWriters(1)
	}
	if err == nil && opts.Truncate {
		err = o.flushAndTruncate(ctx, fsys, 0)
	}
	if err == nil {
		err = h.life.Begin(&fsys.b.open, h)
	}
	if err != nil {
		if opts.Write {
			o.addWriters(-1)
		}
		return nil, errors.Join(err, fsys.b.releaseAndReapInode(ctx, o))
	}
	return h, nil
}

// addWriters changes the number of handles that may write, and returns how many losses there
// were.
func (o *openInode) addWriters(writers int) (losses int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.writerCount += writers
	return o.lossCount
}

// enter begins each call of a handle, which ends with life.Leave.
func (h *handle) enter(ctx context.Context) error {
	if err := h.b.checkOpen(ctx); err != nil {
		return err
	}
	return h.life.Enter(ctx)
}

// enterWriting is enter for each call that writes.
func (h *handle) enterWriting(ctx context.Context) error {
	if err := h.enter(ctx); err != nil {
		return err
	}
	if !h.opts.Write {
		h.life.Leave()
		return driver.Errorf(driver.ErrReadOnly, "the file is open for reading only")
	}
	return nil
}

// WriteAt implements driver.File.
func (h *handle) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	defer h.b.ns.metrics.observeSince("file_write_at", time.Now())
	if err := h.enterWriting(ctx); err != nil {
		return 0, err
	}
	defer h.life.Leave()
	if h.opts.Append {
		return 0, driver.Errorf(driver.ErrInvalid, "the file is open for appending; write at its end, or open it without Append")
	}
	if len(p) == 0 {
		return 0, nil
	}
	if off < 0 {
		return 0, negativeError(off)
	}
	if off > maxFileSize-int64(len(p)) {
		return 0, errTooLarge
	}
	o := h.inode
	o.mu.Lock()
	grows := off+int64(len(p)) > o.size && h.fs.quotaHint.Load() > 0
	o.mu.Unlock()
	if grows {
		// With a quota, grow the file now: if the volume is full, this call fails, and not the
		// flush.
		if err := o.commitSize(ctx, h.fs, off+int64(len(p)), false); err != nil {
			return 0, err
		}
	}
	full, err := o.bufferWrite(ctx, h.fs, p, off)
	if err != nil {
		return 0, err
	}
	if full {
		if err := o.flushDirty(ctx); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Append implements driver.File.
func (h *handle) Append(ctx context.Context, p []byte) (int64, error) {
	defer h.b.ns.metrics.observeSince("file_append", time.Now())
	if err := h.enterWriting(ctx); err != nil {
		return 0, err
	}
	defer h.life.Leave()
	if err := h.inode.flushBeforeWrite(ctx, h.fs); err != nil {
		return 0, err
	}
	return h.inode.commitAppend(ctx, h.fs, p)
}

// Truncate implements driver.File.
func (h *handle) Truncate(ctx context.Context, size int64) error {
	defer h.b.ns.metrics.observeSince("file_truncate", time.Now())
	if err := h.enterWriting(ctx); err != nil {
		return err
	}
	defer h.life.Leave()
	return h.inode.flushAndTruncate(ctx, h.fs, size)
}

// PunchHole implements driver.File.
func (h *handle) PunchHole(ctx context.Context, off, length int64) error {
	defer h.b.ns.metrics.observeSince("file_punch_hole", time.Now())
	if err := h.enterWriting(ctx); err != nil {
		return err
	}
	defer h.life.Leave()
	if off < 0 || length < 0 {
		return negativeError(min(off, length))
	}
	if err := h.inode.flushBeforeWrite(ctx, h.fs); err != nil {
		return err
	}
	return h.inode.commitHole(ctx, h.fs, off, length)
}

// Stat implements driver.File.
func (h *handle) Stat(ctx context.Context) (driver.Entry, error) {
	defer h.b.ns.metrics.observeSince("file_stat", time.Now())
	if err := h.enter(ctx); err != nil {
		return driver.Entry{}, err
	}
	defer h.life.Leave()
	row, err := h.inode.readInode(ctx)
	if err != nil {
		return driver.Entry{}, err
	}
	return row.toEntry(h.name), nil
}

// Sync implements driver.File.
func (h *handle) Sync(ctx context.Context) error {
	defer h.b.ns.metrics.observeSince("file_sync", time.Now())
	if err := h.enter(ctx); err != nil {
		return err
	}
	defer h.life.Leave()
	if !h.opts.Write {
		return nil
	}
	if err := h.flushAndReport(ctx); err != nil || !h.fs.opts.Batch {
		return err
	}
	return h.b.flushLazyCommits(ctx, h.fs.vol)
}

// flushAndReport flushes the file, and returns the write-back error of bytes that were lost
// since the last report, if they may have been this handle's.
func (h *handle) flushAndReport(ctx context.Context) error {
	err := h.inode.flushDirty(ctx)
	h.inode.mu.Lock()
	defer h.inode.mu.Unlock()
	if h.reportedLosses < h.inode.lossCount {
		h.reportedLosses = h.inode.lossCount
		if err == nil && mayShareCommit(h.inode.failedWriter, h.fs) {
			err = h.inode.lostErr
		}
	}
	return err
}

// Close implements driver.File.
func (h *handle) Close() error {
	defer h.b.ns.metrics.observeSince("file_close", time.Now())
	return closeInTime(&h.life)
}

// Finish implements openset.Member. With its Backend, a file is also closed in a volume that
// has been removed.
func (h *handle) Finish(ctx context.Context) error {
	h.ahead.stopPrefetching()
	if !h.opts.Write {
		return nil
	}
	err := h.flushAndReport(ctx)
	if errors.Is(err, driver.ErrNotFound) && h.b.isClosed() {
		return nil
	}
	return err
}

// Free implements openset.Member. What the last writer could not flush is dropped: the error
// was returned, and no handle is left that could retry. When ctx ends, a file without a name is
// left to maintenance.
func (h *handle) Free(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	if h.opts.Write {
		h.inode.mu.Lock()
		if h.inode.writerCount--; h.inode.writerCount == 0 {
			h.inode.resetDirty()
		}
		h.inode.mu.Unlock()
	}
	return h.b.releaseAndReapInode(ctx, h.inode)
}

// negativeError is the error for a negative offset or size.
func negativeError(n int64) error {
	return driver.Errorf(driver.ErrInvalid, "offset or size %d: must not be negative", n)
}

// NextData implements driver.File.
func (h *handle) NextData(ctx context.Context, off int64) (start, end int64, err error) {
	defer h.b.ns.metrics.observeSince("file_next_data", time.Now())
	if err := h.enter(ctx); err != nil {
		return 0, 0, err
	}
	defer h.life.Leave()
	if off < 0 {
		return 0, 0, negativeError(off)
	}
	if err := h.inode.flushDirty(ctx); err != nil {
		return 0, 0, err
	}
	row, err := h.inode.readInode(ctx)
	if err != nil {
		return 0, 0, err
	}
	// Windows may split a run of data: the run goes on until a gap, or the end of the file.
	for start = -1; ; {
		window, err := h.inode.windowAt(ctx, off)
		if err != nil {
			return 0, 0, err
		}
		for _, x := range window.list {
			switch {
			case x.pos+x.len <= off:
			case start < 0:
				start, end = max(off, x.pos), x.pos+x.len
			case x.pos > end:
				return start, min(end, row.size), nil
			default:
				end = x.pos + x.len
			}
		}
		if window.hi >= row.size {
			if start < 0 || start >= row.size {
				return 0, 0, io.EOF
			}
			return start, min(end, row.size), nil
		}
		off = window.hi
		if start >= 0 && end < window.hi {
			return start, end, nil
		}
	}
}

// Truncate implements driver.FS.
func (fsys *volumeFS) Truncate(ctx context.Context, path string, size int64) error {
	defer fsys.b.ns.metrics.observeSince("fs_truncate", time.Now())
	h, err := fsys.openPath(ctx, path, driver.OpenOptions{Write: true})
	if err != nil {
		return err
	}
	return errors.Join(h.inode.flushAndTruncate(ctx, fsys, size), closeInTime(&h.life))
}
