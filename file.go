package vole

import (
	"cmp"
	"context"
	"errors"
	"io"
	"math"

	"github.com/volehq/vole/driver"
)

// File is one open regular file of a volume, used by offset. What was written is
// durable once Sync or Close returned nil.
type File struct {
	d    driver.File
	vol  *Volume
	path string
}

// NewReader streams n bytes of the file from offset off; n < 0 means to its end. A range
// beyond the end yields what there is. Closing the Reader closes the file.
func (f *File) NewReader(ctx context.Context, off, n int64) *Reader {
	end := int64(-1)
	if n >= 0 && off <= math.MaxInt64-n {
		end = off + n
	}
	return &Reader{ctx: ctx, f: f, start: off, off: off, end: end}
}

// wrapError leaves io.EOF as it is, which io's interfaces ask for.
func (f *File) wrapError(op string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return f.vol.wrapError(op, f.path, err)
}

// checkUsable checks an offset or size, and that ctx is not done.
func (f *File) checkUsable(ctx context.Context, off int64) error {
	return cmp.Or(refuseNegative("offset or size", off), ctx.Err())
}

// ReadAt reads as io.ReaderAt does.
func (f *File) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := f.checkUsable(ctx, off); err != nil {
		return 0, f.wrapError("read", err)
	}
	n, err := f.d.ReadAt(ctx, p, off)
	return n, f.wrapError("read", err)
}

// WriteAt writes all of p at off.
func (f *File) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := f.checkUsable(ctx, off); err != nil {
		return 0, f.wrapError("write", err)
	}
	n, err := f.d.WriteAt(ctx, p, off)
	return n, f.wrapError("write", err)
}

// Append writes all of p at the end in one step and returns where that was.
func (f *File) Append(ctx context.Context, p []byte) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, f.wrapError("append", err)
	}
	off, err := f.d.Append(ctx, p)
	return off, f.wrapError("append", err)
}

// Truncate sets the file's size, in bytes.
func (f *File) Truncate(ctx context.Context, size int64) error {
	if err := f.checkUsable(ctx, size); err != nil {
		return f.wrapError("truncate", err)
	}
	return f.wrapError("truncate", f.d.Truncate(ctx, size))
}

// PunchHole makes length bytes from off read as zeros. The file's size stays.
func (f *File) PunchHole(ctx context.Context, off, length int64) error {
	if err := f.checkUsable(ctx, min(off, length)); err != nil {
		return f.wrapError("punch hole", err)
	}
	return f.wrapError("punch hole", f.d.PunchHole(ctx, off, length))
}

// NextData returns the next range at or after off that may hold data; io.EOF when
// there is none.
func (f *File) NextData(ctx context.Context, off int64) (start, end int64, err error) {
	if err := f.checkUsable(ctx, off); err != nil {
		return 0, 0, f.wrapError("seek", err)
	}
	start, end, err = f.d.NextData(ctx, off)
	return start, end, f.wrapError("seek", err)
}

// Stat describes the file.
func (f *File) Stat(ctx context.Context) (Entry, error) {
	if err := ctx.Err(); err != nil {
		return Entry{}, f.wrapError("stat", err)
	}
	e, err := f.d.Stat(ctx)
	return e, f.wrapError("stat", err)
}

// Sync makes what was written durable.
func (f *File) Sync(ctx context.Context) error { return f.wrapError("sync", f.d.Sync(ctx)) }

// Close makes what was written durable, unless in batch mode, and closes.
func (f *File) Close() error { return f.wrapError("close", f.d.Close()) }

// Dir is an open directory: a stream of its entries.
type Dir struct {
	d    driver.Dir
	vol  *Volume
	path string
}

// Read returns up to n entries, and io.EOF with none at the end.
func (d *Dir) Read(ctx context.Context, n int) ([]Entry, error) {
	if n <= 0 {
		return nil, d.vol.wrapError("list", d.path, driver.Errorf(ErrInvalid, "%d entries asked for; ask for at least one", n))
	}
	list, err := d.d.Read(ctx, n)
	if err == nil || errors.Is(err, io.EOF) {
		return list, err
	}
	return nil, d.vol.wrapError("list", d.path, err)
}

// Close closes the directory.
func (d *Dir) Close() error { return d.vol.wrapError("close", d.path, d.d.Close()) }
