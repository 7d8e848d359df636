//go:build unix

package local

import (
	"context"
	"io"
	"path"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/openset"
)

// diskHandle implements driver.File on the image of a disk volume. It has a reference of its own
// to the image, so the file outlives the FS that opened it.
type diskHandle struct {
	d          *sharedDisk
	h          *ext4.File
	batch      bool
	name       string
	canWrite   bool
	appendOnly bool

	life openset.Life
}

// Open implements driver.FS.
func (f *diskFS) Open(ctx context.Context, name string, opts driver.OpenOptions) (driver.File, error) {
	write := opts.Write || opts.Append || opts.Create
	h := &diskHandle{d: f.d, batch: f.batch, name: path.Base(name), canWrite: write, appendOnly: opts.Append}
	open := func() (err error) {
		h.h, err = f.fs.OpenFile(name, ext4.OpenFlags{
			Write: write, Create: opts.Create, Exclusive: opts.Exclusive, Truncate: opts.Truncate && write,
			NoFollow: opts.NoFollow, Mode: opts.Mode,
		})
		return err
	}
	run := f.runRead
	if write {
		run = f.runChange
	}
	if err := run(ctx, open); err != nil {
		return nil, err
	}
	if err := h.startHandle(); err != nil {
		return nil, err
	}
	return h, nil
}

// OpenEntry implements driver.FS.
func (f *diskFS) OpenEntry(ctx context.Context, name string) (driver.File, driver.Entry, error) {
	h := &diskHandle{d: f.d, batch: f.batch, name: path.Base(name)}
	var info ext4.Info
	err := f.runRead(ctx, func() (err error) {
		h.h, info, err = f.fs.OpenEntry(name)
		return err
	})
	if err == nil {
		err = h.startHandle()
	}
	if err != nil {
		return nil, driver.Entry{}, err
	}
	return h, entryOfDiskInfo(info), nil
}

// startHandle adds the open file to those that the backend closes, with a reference to the
// image.
func (h *diskHandle) startHandle() error {
	h.d.acquire()
	err := h.life.Begin(&h.d.b.open, h)
	if err != nil {
		_ = h.Free()
	}
	return err
}

// Finish implements openset.Member.
func (h *diskHandle) Finish(context.Context) error {
	if h.canWrite && !h.batch && !h.d.isRemoved() {
		return translateDiskError(h.h.Sync())
	}
	return nil
}

// Free implements openset.Member. Errors are ignored: Finish has synced the file.
func (h *diskHandle) Free() error {
	_ = h.h.Close()
	h.d.updateCharge()
	_ = h.d.release()
	return nil
}

// Close implements driver.File.
func (h *diskHandle) Close() error { return h.life.Close(context.Background()) }

// ReadAt implements driver.File.
func (h *diskHandle) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := h.life.Enter(ctx); err != nil {
		return 0, err
	}
	defer h.life.Leave()
	n, err := h.h.ReadAt(p, off)
	if err != io.EOF {
		err = translateDiskError(err)
	}
	return n, err
}

// runChange runs a change of the content and charges its growth.
func (h *diskHandle) runChange(ctx context.Context, fn func() error) error {
	if err := h.life.Enter(ctx); err != nil {
		return err
	}
	defer h.life.Leave()
	if !h.canWrite {
		return driver.Errorf(driver.ErrReadOnly, "the file is open for reading only")
	}
	if h.d.isRemoved() {
		return errVolumeRemoved()
	}
	err := fn()
	h.d.updateCharge()
	return translateDiskError(err)
}

// WriteAt implements driver.File.
func (h *diskHandle) WriteAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	err = h.runChange(ctx, func() error {
		if h.appendOnly {
			return driver.Errorf(driver.ErrInvalid, "the file is open for appending")
		}
		n, err = h.h.WriteAt(p, off)
		return err
	})
	return n, err
}

// Append implements driver.File.
func (h *diskHandle) Append(ctx context.Context, p []byte) (off int64, err error) {
	err = h.runChange(ctx, func() error {
		off, err = h.h.Append(p)
		return err
	})
	return off, err
}

// Truncate implements driver.File.
func (h *diskHandle) Truncate(ctx context.Context, size int64) error {
	return h.runChange(ctx, func() error { return h.h.Truncate(size) })
}

// PunchHole implements driver.File.
func (h *diskHandle) PunchHole(ctx context.Context, off, length int64) error {
	return h.runChange(ctx, func() error {
		if length == 0 {
			return nil
		}
		return h.h.PunchHole(off, length)
	})
}

// NextData implements driver.File.
func (h *diskHandle) NextData(ctx context.Context, off int64) (start, end int64, err error) {
	if err := h.life.Enter(ctx); err != nil {
		return 0, 0, err
	}
	defer h.life.Leave()
	start, end, err = h.h.NextData(off)
	if err != io.EOF {
		err = translateDiskError(err)
	}
	return start, end, err
}

// Stat implements driver.File.
func (h *diskHandle) Stat(ctx context.Context) (driver.Entry, error) {
	if err := h.life.Enter(ctx); err != nil {
		return driver.Entry{}, err
	}
	defer h.life.Leave()
	info, err := h.h.Stat()
	info.Name = h.name
	return entryOfDiskInfo(info), translateDiskError(err)
}

// Sync implements driver.File.
func (h *diskHandle) Sync(ctx context.Context) error {
	if err := h.life.Enter(ctx); err != nil {
		return err
	}
	defer h.life.Leave()
	return translateDiskError(h.h.Sync())
}
