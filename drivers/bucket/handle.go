package bucket

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/volehq/vole/driver"
)

// handle implements driver.File.
type handle struct {
	b     *Backend
	fs    *volumeFS
	inode *openInode
	name  string // of the path by which it was opened
	opts  driver.OpenOptions
	ahead readAhead

	mu             sync.Mutex // guards what follows
	closed         bool
	reportedLosses int64 // of the node's losses
}

// Open implements driver.FS.
func (f *volumeFS) Open(ctx context.Context, path string, opts driver.OpenOptions) (driver.File, error) {
	writes := opts.Write || opts.Create || opts.Append || opts.Truncate
	if writes {
		if err := f.checkWritable(ctx); err != nil {
			return nil, err
		}
	}
	for tries := 0; ; tries++ {
		ino, err := f.resolveOrCreate(ctx, path, opts)
		if err != nil {
			return nil, err
		}
		h, err := f.openHandle(ctx, ino, baseName(path), opts)
		// It may go between the look at its name and the hold on it.
		if errors.Is(err, driver.ErrNotExist) && tries < 100 {
			continue
		}
		return h, err
	}
}

// OpenEntry implements driver.FS.
func (f *volumeFS) OpenEntry(ctx context.Context, path string) (driver.File, driver.Entry, error) {
	return driver.OpenThenStat(ctx, f, path)
}

// resolveOrCreate returns the inode of the file at path, which it makes where opts say so.
func (f *volumeFS) resolveOrCreate(ctx context.Context, path string, opts driver.OpenOptions) (int64, error) {
	mode := resolveMode{followLast: !opts.NoFollow && !opts.Exclusive}
	p, err := f.resolvePath(ctx, path, mode)
	if err != nil {
		return 0, err
	}
	if p.node == nil && opts.Create {
		var made int64
		err := f.runVolumeTx(ctx, []string{path}, func(tx *volumeTx) error {
			made = 0
			p, err = tx.walker.resolve(path, mode)
			if err != nil || p.node != nil {
				return err
			}
			n := inode{mode: typeFile | permissionBits(opts.Mode), nlink: 1}
			if opts.Mode == 0 {
				n.mode |= 0o644
			}
			tx.createInode(&p.parent, p.name, &n)
			made = n.ino
			return nil
		})
		if err != nil || made != 0 {
			return made, err
		}
	}
	switch {
	case p.node == nil:
		return 0, driver.ErrNotExist
	case opts.Exclusive:
		return 0, driver.ErrExists
	case p.node.isSymlink():
		return 0, driver.Errorf(driver.ErrLoop, "a symbolic link, which is not to be followed")
	case p.node.isDir():
		return 0, driver.ErrIsDir
	case !p.node.isRegular():
		return 0, driver.Errorf(driver.ErrUnsupported, "neither a file nor a directory: it cannot be opened")
	}
	return p.node.ino, nil
}

func (f *volumeFS) openHandle(ctx context.Context, ino int64, name string, opts driver.OpenOptions) (driver.File, error) {
	n, err := f.b.acquireInode(ctx, f, ino)
	if err != nil {
		return nil, err
	}
	opts.Write = opts.Write || opts.Create || opts.Append
	h := &handle{b: f.b, fs: f, inode: n, name: name, opts: opts}
	// Here and not at the first read: once the extents are known, the file can be read
	// though another host replaces it, for as long as the grace time.
	_, _, err = n.loadWindow(ctx, 0)
	if opts.Write {
		h.reportedLosses = n.addWriters(1)
	}
	if err == nil && opts.Truncate {
		err = n.flushAndTruncate(ctx, f, 0)
	}
	if err == nil {
		err = f.b.registerCloser(h)
	}
	if err != nil {
		if opts.Write {
			n.addWriters(-1)
		}
		return nil, errors.Join(err, f.b.releaseInode(ctx, n))
	}
	return h, nil
}

// addWriters counts the handles that may write, and returns how often something was lost.
func (n *openInode) addWriters(writers int) (losses int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.writerCount += writers
	return n.lossCount
}

func (h *handle) checkOpen(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return driver.ErrClosed
	}
	return h.b.checkOpen(ctx)
}

func (h *handle) checkWritable(ctx context.Context) error {
	if err := h.checkOpen(ctx); err != nil {
		return err
	}
	if !h.opts.Write {
		return driver.Errorf(driver.ErrReadOnly, "the file is open for reading only")
	}
	return nil
}

// WriteAt implements driver.File.
func (h *handle) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := h.checkWritable(ctx); err != nil {
		return 0, err
	}
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
	n := h.inode
	n.mu.Lock()
	grows := off+int64(len(p)) > n.size && h.fs.quotaHint.Load() > 0
	n.mu.Unlock()
	if grows {
		// Under a quota the room is taken at once, so that it is there when the bytes are
		// committed.
		if err := n.commitSize(ctx, h.fs, off+int64(len(p)), false); err != nil {
			return 0, err
		}
	}
	full, err := n.bufferWrite(ctx, h.fs, p, off)
	if err != nil {
		return 0, err
	}
	if full {
		if err := n.flushDirty(ctx); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Append implements driver.File.
func (h *handle) Append(ctx context.Context, p []byte) (int64, error) {
	if err := h.checkWritable(ctx); err != nil {
		return 0, err
	}
	if err := h.inode.flushBeforeWrite(ctx, h.fs); err != nil {
		return 0, err
	}
	return h.inode.appendBytes(ctx, h.fs, p)
}

// Truncate implements driver.File.
func (h *handle) Truncate(ctx context.Context, size int64) error {
	if err := h.checkWritable(ctx); err != nil {
		return err
	}
	return h.inode.flushAndTruncate(ctx, h.fs, size)
}

// PunchHole implements driver.File.
func (h *handle) PunchHole(ctx context.Context, off, length int64) error {
	if err := h.checkWritable(ctx); err != nil {
		return err
	}
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
	if err := h.checkOpen(ctx); err != nil {
		return driver.Entry{}, err
	}
	i, err := h.inode.readInode(ctx)
	if err != nil {
		return driver.Entry{}, err
	}
	return i.toEntry(h.name), nil
}

// Sync implements driver.File.
func (h *handle) Sync(ctx context.Context) error {
	if err := h.checkOpen(ctx); err != nil {
		return err
	}
	if !h.opts.Write {
		return nil
	}
	if err := h.flushAndReport(ctx); err != nil || !h.fs.opts.Batch {
		return err
	}
	return h.b.flushLazyCommits(ctx, h.fs.vol)
}

// flushAndReport commits what was written, and tells of what cannot be any more.
func (h *handle) flushAndReport(ctx context.Context) error {
	err := h.inode.flushDirty(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.inode.mu.Lock()
	defer h.inode.mu.Unlock()
	if h.reportedLosses < h.inode.lossCount {
		h.reportedLosses = h.inode.lossCount
		if err == nil && sameWriteRights(h.inode.failedWriter, h.fs) {
			err = h.inode.lostErr
		}
	}
	return err
}

// Close implements driver.File.
func (h *handle) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return h.flushAndClose(ctx)
}

func (h *handle) flushAndClose(ctx context.Context) error {
	h.mu.Lock()
	was := h.closed
	h.closed = true
	h.mu.Unlock()
	if was {
		return nil
	}
	h.ahead.stopPrefetching()
	h.b.unregisterCloser(h)
	if !h.opts.Write {
		return h.b.releaseInode(ctx, h.inode)
	}
	err := h.flushAndReport(ctx)
	h.inode.mu.Lock()
	if h.inode.writerCount--; h.inode.writerCount == 0 {
		// It was told, and nobody is left who could try again.
		h.inode.clearDirty()
	}
	h.inode.mu.Unlock()
	return errors.Join(err, h.b.releaseInode(ctx, h.inode))
}

func (h *handle) closeWithBackend(ctx context.Context) error { return h.flushAndClose(ctx) }

// negativeError is the error for an offset or a size that cannot be.
func negativeError(n int64) error {
	return driver.Errorf(driver.ErrInvalid, "offset or size %d: must not be negative", n)
}

// NextData implements driver.File.
func (h *handle) NextData(ctx context.Context, off int64) (start, end int64, err error) {
	if err := h.checkOpen(ctx); err != nil {
		return 0, 0, err
	}
	if off < 0 {
		return 0, 0, negativeError(off)
	}
	if err := h.inode.flushDirty(ctx); err != nil {
		return 0, 0, err
	}
	i, err := h.inode.readInode(ctx)
	if err != nil {
		return 0, 0, err
	}
	for start = -1; ; {
		w, err := h.inode.windowAt(ctx, off)
		if err != nil {
			return 0, 0, err
		}
		for _, x := range w.list {
			switch {
			case x.pos+x.len <= off:
			case start < 0:
				start, end = max(off, x.pos), x.pos+x.len
			case x.pos > end:
				return start, min(end, i.size), nil
			default:
				end = x.pos + x.len
			}
		}
		if w.hi >= i.size {
			if start < 0 || start >= i.size {
				return 0, 0, io.EOF
			}
			return start, min(end, i.size), nil
		}
		off = w.hi
		if start >= 0 && end < w.hi {
			return start, end, nil
		}
	}
}

// Truncate implements driver.FS.
func (f *volumeFS) Truncate(ctx context.Context, path string, size int64) error {
	h, err := f.Open(ctx, path, driver.OpenOptions{Write: true})
	if err != nil {
		return err
	}
	return errors.Join(h.Truncate(ctx, size), h.Close())
}
