//go:build unix

package disk

import (
	"context"
	"path"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/openset"
)

// handle implements driver.File on the image of a volume. It has a reference of its own to the
// shared file system, so the file outlives the FS that opened it.
type handle struct {
	d          *sharedFS
	f          *ext4.File
	batch      bool
	name       string
	canWrite   bool
	appendOnly bool

	life openset.Life
}

// Open implements driver.FS.
func (f *volumeFS) Open(ctx context.Context, name string, opts driver.OpenOptions) (driver.File, error) {
	write := opts.Write || opts.Append || opts.Create
	h := &handle{d: f.d, batch: f.batch, name: path.Base(name), canWrite: write, appendOnly: opts.Append}
	run := f.runRead
	if write {
		run = f.runChangeAndSync
	}
	err := run(ctx, func() (err error) {
		h.f, err = f.fs.OpenFile(name, ext4.OpenFlags{
			Write: write, Create: opts.Create, Exclusive: opts.Exclusive, Truncate: opts.Truncate && write,
			NoFollow: opts.NoFollow, Mode: opts.Mode,
		})
		return err
	})
	if err == nil {
		err = h.startHandle()
	}
	if err != nil {
		return nil, err
	}
	return h, nil
}

// OpenEntry implements driver.FS.
func (f *volumeFS) OpenEntry(ctx context.Context, name string) (driver.File, driver.Entry, error) {
	h := &handle{d: f.d, batch: f.batch, name: path.Base(name)}
	entry, err := readValue(ctx, f, func() (driver.Entry, error) {
		var info ext4.Info
		var err error
		h.f, info, err = f.fs.OpenEntry(name)
		return entryOfInfo(info, err)
	})
	if err == nil {
		err = h.startHandle()
	}
	if err != nil {
		return nil, driver.Entry{}, err
	}
	return h, entry, nil
}

// startHandle adds the open file to those that the home closes, with a reference to the shared
// file system.
func (h *handle) startHandle() error {
	h.d.acquire()
	err := h.life.Begin(h.d.volume.Opened, h)
	if err != nil {
		_ = h.Free(context.Background())
	}
	return err
}

// Finish implements openset.Member.
func (h *handle) Finish(context.Context) error {
	if h.canWrite && !h.batch && !h.d.image.isRemoved() {
		return translateError(h.f.Sync())
	}
	return nil
}

// Free implements openset.Member. Errors are ignored: Finish has synced the file.
func (h *handle) Free(context.Context) error {
	_ = h.f.Close()
	h.d.updateCharge()
	_ = h.d.release()
	return nil
}

// Close implements driver.File.
func (h *handle) Close() error { return h.life.Close(context.Background()) }

// runRead runs an operation that leaves the content as it is.
func (h *handle) runRead(ctx context.Context, fn func() error) error {
	return h.life.Run(ctx, func() error { return translateError(fn()) })
}

// runChange runs a change of the content and charges its growth.
func (h *handle) runChange(ctx context.Context, fn func() error) error {
	return h.runRead(ctx, func() error {
		if !h.canWrite {
			return driver.Errorf(driver.ErrReadOnly, "the file is open for reading only")
		}
		if h.d.image.isRemoved() {
			return errVolumeRemoved()
		}
		defer h.d.updateCharge()
		return fn()
	})
}

// ReadAt implements driver.File.
func (h *handle) ReadAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	err = h.runRead(ctx, func() error {
		n, err = h.f.ReadAt(p, off)
		return err
	})
	return n, err
}

// WriteAt implements driver.File.
func (h *handle) WriteAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	err = h.runChange(ctx, func() error {
		if h.appendOnly {
			return driver.Errorf(driver.ErrInvalid, "the file is open for appending")
		}
		n, err = h.f.WriteAt(p, off)
		return err
	})
	return n, err
}

// Append implements driver.File.
func (h *handle) Append(ctx context.Context, p []byte) (off int64, err error) {
	err = h.runChange(ctx, func() error {
		off, err = h.f.Append(p)
		return err
	})
	return off, err
}

// Truncate implements driver.File.
func (h *handle) Truncate(ctx context.Context, size int64) error {
	return h.runChange(ctx, func() error { return h.f.Truncate(size) })
}

// PunchHole implements driver.File.
func (h *handle) PunchHole(ctx context.Context, off, length int64) error {
	return h.runChange(ctx, func() error {
		if length == 0 {
			return nil
		}
		return h.f.PunchHole(off, length)
	})
}

// NextData implements driver.File.
func (h *handle) NextData(ctx context.Context, off int64) (start, end int64, err error) {
	err = h.runRead(ctx, func() error {
		start, end, err = h.f.NextData(off)
		return err
	})
	return start, end, err
}

// Stat implements driver.File.
func (h *handle) Stat(ctx context.Context) (entry driver.Entry, err error) {
	err = h.runRead(ctx, func() error {
		entry, err = entryOfInfo(h.f.Stat())
		entry.Name = h.name
		return err
	})
	return entry, err
}

// Sync implements driver.File.
func (h *handle) Sync(ctx context.Context) error { return h.runRead(ctx, h.f.Sync) }
