//go:build unix

package local

import (
	"context"
	"errors"
	"io"
	"math"
	"os"
	"sync/atomic"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/openset"
	"github.com/volehq/vole/internal/sparse"
	"golang.org/x/sys/unix"
)

// handle implements driver.File on a file of a dir volume. While it is open it has a reference
// to its inode, and to the usage counter if it can write.
type handle struct {
	b          *Backend
	fd         int      // used by reads: the descriptor of file, or one of its own
	file       *os.File // nil: opened by OpenEntry, for reading only
	name       string
	key        inodeKey
	batch      bool
	canWrite   bool
	appendOnly bool
	counter    *counter // of a file open for writing, else nil

	dirty atomic.Bool // written since the last sync

	life openset.Life
}

// Finish implements openset.Member.
func (h *handle) Finish(context.Context) error {
	if !h.batch && h.dirty.Swap(false) {
		return translateError(h.b.host.syncFile(h.file))
	}
	return nil
}

// Free implements openset.Member.
func (h *handle) Free(context.Context) error {
	if h.counter != nil {
		h.counter.release()
	}
	h.b.releaseInode(h.key)
	h.closeDescriptor()
	return nil
}

// closeDescriptor closes the file, or the bare descriptor of OpenEntry.
func (h *handle) closeDescriptor() {
	if h.file == nil {
		unix.Close(h.fd)
		return
	}
	h.file.Close()
}

// Close implements driver.File.
func (h *handle) Close() error { return h.life.Close(context.Background()) }

// ReadAt implements driver.File.
func (h *handle) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := h.life.Enter(ctx); err != nil {
		return 0, err
	}
	defer h.life.Leave()
	// No file reaches that far, but pread(2) would call the range invalid.
	if most := math.MaxInt64 - off; int64(len(p)) > most {
		p = p[:most]
		if len(p) == 0 {
			return 0, io.EOF
		}
	}
	n, err := preadFull(h.fd, p, off)
	return n, translateError(err)
}

// preadFull reads as io.ReaderAt does.
func preadFull(fd int, p []byte, off int64) (n int, err error) {
	for n < len(p) {
		m, err := unix.Pread(fd, p[n:min(len(p), n+maxPread)], off+int64(n))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return n, err
		case m == 0:
			return n, io.EOF
		default:
			n += m
		}
	}
	return n, nil
}

// maxPread is the most that one system call is asked for: some systems refuse 2 GiB.
const maxPread = 1 << 30

// changeContent runs a change of the file's content under the file's lock. st is the state of
// the file before it.
func (h *handle) changeContent(ctx context.Context, fn func(st *unix.Stat_t) error) error {
	if err := h.life.Enter(ctx); err != nil {
		return err
	}
	defer h.life.Leave()
	if !h.canWrite {
		return driver.Errorf(driver.ErrReadOnly, "the file is open for reading only")
	}
	return h.counter.withFileLock(ctx, h.key.ino, func() error {
		var st unix.Stat_t
		if err := unix.Fstat(int(h.file.Fd()), &st); err != nil {
			return translateError(err)
		}
		h.dirty.Store(true)
		err := fn(&st)
		if st.Nlink == 0 {
			if now, serr := h.file.Stat(); serr == nil {
				h.counter.chargeNamelessGrowth(h.key.ino, now.Size()-st.Size)
			}
		}
		return err
	})
}

// growReserved runs a write that may grow the file from size to end. It charges the growth
// before, and uncharges the part that a failed write did not use.
func (h *handle) growReserved(size, end int64, write func() error) error {
	more := max(0, end-size)
	if err := h.counter.page.reserveBytes(more); err != nil {
		return err
	}
	err := translateError(write())
	if err != nil && more > 0 {
		if st, serr := h.file.Stat(); serr == nil {
			h.counter.page.addBytes(max(size, st.Size()) - size - more)
		}
	}
	return err
}

// WriteAt implements driver.File.
func (h *handle) WriteAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	err = h.changeContent(ctx, func(st *unix.Stat_t) error {
		if h.appendOnly {
			return driver.Errorf(driver.ErrInvalid, "the file is open for appending only")
		}
		if len(p) == 0 {
			return nil
		}
		n, err = h.writeReserved(st.Size, p, off)
		return err
	})
	return n, err
}

// writeReserved writes p at off to a file of that size, with growReserved.
func (h *handle) writeReserved(size int64, p []byte, off int64) (n int, err error) {
	end := off + int64(len(p))
	if end < off {
		return 0, driver.Errorf(driver.ErrInvalid, "a write at %d would end beyond the largest file", off)
	}
	err = h.growReserved(size, end, func() error {
		return h.b.host.faults.Do("write", h.name, func() error {
			var err error
			n, err = h.file.WriteAt(p, off)
			return err
		})
	})
	return n, err
}

// Append implements driver.File.
func (h *handle) Append(ctx context.Context, p []byte) (off int64, err error) {
	err = h.changeContent(ctx, func(st *unix.Stat_t) error {
		off = st.Size
		if len(p) == 0 {
			return nil
		}
		if _, err := h.writeReserved(st.Size, p, off); err != nil {
			// In one step means that no part of it stays.
			return errors.Join(err, translateError(h.truncateBack(st.Size)))
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return off, nil
}

// truncateBack cuts the file to a size that it had before a write failed, and uncharges the
// rest.
func (h *handle) truncateBack(size int64) error {
	st, err := h.file.Stat()
	if err != nil || st.Size() <= size {
		return err
	}
	if err := h.file.Truncate(size); err != nil {
		return err
	}
	h.counter.page.addBytes(size - st.Size())
	return nil
}

// Truncate implements driver.File.
func (h *handle) Truncate(ctx context.Context, size int64) error {
	return h.changeContent(ctx, func(st *unix.Stat_t) error {
		return h.growReserved(st.Size, size, func() error {
			err := h.b.host.faults.Do("truncate", h.name, func() error { return h.file.Truncate(size) })
			if err == nil && size < st.Size {
				h.counter.page.addBytes(size - st.Size)
			}
			return err
		})
	})
}

// PunchHole implements driver.File.
func (h *handle) PunchHole(ctx context.Context, off, length int64) error {
	return h.changeContent(ctx, func(st *unix.Stat_t) error {
		length = min(length, st.Size-off)
		if length <= 0 {
			return nil
		}
		err := h.b.host.faults.Do("punch", h.name, func() error { return sparse.PunchHole(h.file, off, length) })
		if errors.Is(err, unix.ENOTSUP) {
			err = writeZeros(h.file, off, length)
		}
		return translateError(err)
	})
}

// writeZeros overwrites a range with zeros, where holes cannot be punched.
func writeZeros(f *os.File, off, length int64) error {
	zeros := make([]byte, min(length, 1<<20))
	for length > 0 {
		n, err := f.WriteAt(zeros[:min(length, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off, length = off+int64(n), length-int64(n)
	}
	return nil
}

// NextData implements driver.File.
func (h *handle) NextData(ctx context.Context, off int64) (start, end int64, err error) {
	err = h.life.Run(ctx, func() error {
		start, end, err = sparse.FindData(h.fd, off) // no other operation uses the offset
		return translateError(err)
	})
	return start, end, err
}

// Stat implements driver.File.
func (h *handle) Stat(ctx context.Context) (driver.Entry, error) {
	var st unix.Stat_t
	err := h.life.Run(ctx, func() error { return translateError(unix.Fstat(h.fd, &st)) })
	return entryOfStat(h.name, &st), err
}

// Sync implements driver.File.
func (h *handle) Sync(ctx context.Context) error {
	return h.life.Run(ctx, func() error {
		if !h.dirty.Swap(false) {
			return nil
		}
		err := h.b.host.syncFile(h.file)
		if err != nil {
			h.dirty.Store(true)
		}
		return translateError(err)
	})
}
