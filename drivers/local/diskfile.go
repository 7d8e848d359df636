package local

import (
	"context"
	"io"
	"path"
	"sync"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/ext4"
)

// diskFile implements driver.File on the image of a disk volume. It keeps the image
// open until it is closed itself.
type diskFile struct {
	d      *sharedDisk
	h      *ext4.File
	batch  bool
	name   string
	write  bool
	append bool

	mu     sync.Mutex // guards what follows
	refs   int
	closed bool
}

// Open implements driver.FS.
func (f *diskFS) Open(ctx context.Context, name string, opts driver.OpenOptions) (driver.File, error) {
	write := opts.Write || opts.Append || opts.Create
	h := &diskFile{d: f.d, batch: f.batch, name: path.Base(name), write: write, append: opts.Append}
	open := func() (err error) {
		h.h, err = f.fs.OpenFile(name, ext4.OpenFlags{
			Write: write, Create: opts.Create, Exclusive: opts.Exclusive, Truncate: opts.Truncate && write,
			NoFollow: opts.NoFollow, Mode: opts.Mode,
		})
		return err
	}
	run := f.read
	if write {
		run = f.change
	}
	if err := run(ctx, open); err != nil {
		return nil, err
	}
	if err := h.begin(); err != nil {
		return nil, err
	}
	return h, nil
}

// OpenEntry implements driver.FS.
func (f *diskFS) OpenEntry(ctx context.Context, name string) (driver.File, driver.Entry, error) {
	h := &diskFile{d: f.d, batch: f.batch, name: path.Base(name)}
	var info ext4.Info
	err := f.read(ctx, func() (err error) {
		h.h, info, err = f.fs.OpenEntry(name)
		return err
	})
	if err == nil {
		err = h.begin()
	}
	if err != nil {
		return nil, driver.Entry{}, err
	}
	return h, diskEntry(info), nil
}

// begin registers a file that was opened. It keeps the image open until it is closed.
func (h *diskFile) begin() error {
	h.d.retain()
	err := h.d.b.register(h)
	if err != nil {
		h.end()
	}
	return err
}

func (h *diskFile) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return driver.ErrClosed
	}
	h.refs++
	return nil
}

func (h *diskFile) done() {
	h.mu.Lock()
	h.refs--
	last := h.closed && h.refs == 0
	h.mu.Unlock()
	if last {
		h.end()
	}
}

// end gives everything back, once the file is closed and nothing is under way.
func (h *diskFile) end() {
	_ = h.h.Close() // it was synced
	h.d.charge()
	_ = h.d.release()
	h.d.b.unregister(h)
}

// Close implements driver.File.
func (h *diskFile) Close() error { return h.closeWith(context.Background()) }

func (h *diskFile) closeWith(context.Context) error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	h.refs++ // of Close itself
	h.mu.Unlock()
	defer h.done()
	if h.write && !h.batch && !h.d.gone() {
		return diskErr(h.h.Sync())
	}
	return nil
}

// ReadAt implements driver.File.
func (h *diskFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := h.enter(ctx); err != nil {
		return 0, err
	}
	defer h.done()
	n, err := h.h.ReadAt(p, off)
	if err != io.EOF {
		err = diskErr(err)
	}
	return n, err
}

// change runs a change of the content, and charges what it added.
func (h *diskFile) change(ctx context.Context, fn func() error) error {
	if err := h.enter(ctx); err != nil {
		return err
	}
	defer h.done()
	if !h.write {
		return driver.Errorf(driver.ErrReadOnly, "the file is open for reading only")
	}
	if h.d.gone() {
		return volumeGone()
	}
	err := fn()
	h.d.charge()
	return diskErr(err)
}

// WriteAt implements driver.File.
func (h *diskFile) WriteAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	err = h.change(ctx, func() error {
		if h.append {
			return driver.Errorf(driver.ErrInvalid, "the file is open for appending")
		}
		n, err = h.h.WriteAt(p, off)
		return err
	})
	return n, err
}

// Append implements driver.File.
func (h *diskFile) Append(ctx context.Context, p []byte) (off int64, err error) {
	err = h.change(ctx, func() error {
		off, err = h.h.Append(p)
		return err
	})
	return off, err
}

// Truncate implements driver.File.
func (h *diskFile) Truncate(ctx context.Context, size int64) error {
	return h.change(ctx, func() error { return h.h.Truncate(size) })
}

// PunchHole implements driver.File.
func (h *diskFile) PunchHole(ctx context.Context, off, length int64) error {
	return h.change(ctx, func() error {
		if length == 0 {
			return nil
		}
		return h.h.PunchHole(off, length)
	})
}

// NextData implements driver.File.
func (h *diskFile) NextData(ctx context.Context, off int64) (start, end int64, err error) {
	if err := h.enter(ctx); err != nil {
		return 0, 0, err
	}
	defer h.done()
	start, end, err = h.h.NextData(off)
	if err != io.EOF {
		err = diskErr(err)
	}
	return start, end, err
}

// Stat implements driver.File.
func (h *diskFile) Stat(ctx context.Context) (driver.Entry, error) {
	if err := h.enter(ctx); err != nil {
		return driver.Entry{}, err
	}
	defer h.done()
	info, err := h.h.Stat()
	info.Name = h.name
	return diskEntry(info), diskErr(err)
}

// Sync implements driver.File.
func (h *diskFile) Sync(ctx context.Context) error {
	if err := h.enter(ctx); err != nil {
		return err
	}
	defer h.done()
	return diskErr(h.h.Sync())
}
