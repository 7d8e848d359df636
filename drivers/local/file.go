package local

import (
	"context"
	"errors"
	"io"
	"math"
	"os"
	"sync"
	"sync/atomic"

	"github.com/volehq/vole/driver"
	"golang.org/x/sys/unix"
)

// file implements driver.File.
type file struct {
	b      *Backend
	fd     int      // what reads use: f, or the file itself
	f      *os.File // nil: opened by OpenEntry, for reading only
	name   string
	key    inodeKey
	batch  bool
	write  bool
	append bool
	count  *counter // of a file open for writing, else nil

	dirty atomic.Bool // written since the last sync

	mu     sync.Mutex // guards what follows
	refs   int
	closed bool
}

func (h *file) enter(ctx context.Context) error {
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

func (h *file) done() {
	h.mu.Lock()
	h.refs--
	last := h.closed && h.refs == 0
	h.mu.Unlock()
	if last {
		h.end()
	}
}

// end gives everything back, once the file is closed and nothing is under way.
func (h *file) end() {
	if h.count != nil {
		h.count.release()
	}
	h.b.closeInode(h.key)
	h.closeDescriptor()
	h.b.unregister(h)
}

func (h *file) closeDescriptor() {
	if h.f == nil {
		unix.Close(h.fd)
		return
	}
	h.f.Close()
}

// Close implements driver.File.
func (h *file) Close() error { return h.closeWith(context.Background()) }

func (h *file) closeWith(context.Context) error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	h.refs++ // of Close itself
	h.mu.Unlock()
	defer h.done()
	if !h.batch && h.dirty.Swap(false) {
		return sysErr(h.b.host.syncFile(h.f))
	}
	return nil
}

// ReadAt implements driver.File.
func (h *file) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := h.enter(ctx); err != nil {
		return 0, err
	}
	defer h.done()
	// No file reaches that far, but pread(2) would call the range invalid.
	if most := math.MaxInt64 - off; int64(len(p)) > most {
		p = p[:most]
		if len(p) == 0 {
			return 0, io.EOF
		}
	}
	n, err := preadFull(h.fd, p, off)
	if err != nil && err != io.EOF {
		err = sysErr(err)
	}
	return n, err
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

// change runs a change of the file's contents under its lock, given its state.
func (h *file) change(ctx context.Context, fn func(st *unix.Stat_t) error) error {
	if err := h.enter(ctx); err != nil {
		return err
	}
	defer h.done()
	if !h.write {
		return driver.Errorf(driver.ErrReadOnly, "the file is open for reading only")
	}
	return h.count.changeFile(ctx, h.key.ino, func() error {
		var st unix.Stat_t
		if err := unix.Fstat(int(h.f.Fd()), &st); err != nil {
			return sysErr(err)
		}
		h.dirty.Store(true)
		err := fn(&st)
		if st.Nlink == 0 {
			if now, serr := h.f.Stat(); serr == nil {
				h.count.grewNameless(h.key.ino, now.Size()-st.Size)
			}
		}
		return err
	})
}

// grow runs a write that takes the file from size to at least end, charged before.
// When the write falls short, what is too much is given back.
func (h *file) grow(size, end int64, write func() error) error {
	more := max(0, end-size)
	if err := h.count.page.reserve(more); err != nil {
		return err
	}
	err := sysErr(write())
	if err != nil && more > 0 {
		if st, serr := h.f.Stat(); serr == nil {
			h.count.page.add(max(size, st.Size()) - size - more)
		}
	}
	return err
}

// WriteAt implements driver.File.
func (h *file) WriteAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	err = h.change(ctx, func(st *unix.Stat_t) error {
		if h.append {
			return driver.Errorf(driver.ErrInvalid, "the file is open for appending only")
		}
		if len(p) == 0 {
			return nil
		}
		n, err = h.writeAt(st.Size, p, off)
		return err
	})
	return n, err
}

func (h *file) writeAt(size int64, p []byte, off int64) (n int, err error) {
	end := off + int64(len(p))
	if end < off {
		return 0, driver.Errorf(driver.ErrInvalid, "a write at %d would end beyond the largest file", off)
	}
	err = h.grow(size, end, func() error {
		return h.b.host.faults.Do("write", h.name, func() error {
			var err error
			n, err = h.f.WriteAt(p, off)
			return err
		})
	})
	return n, err
}

// Append implements driver.File.
func (h *file) Append(ctx context.Context, p []byte) (off int64, err error) {
	err = h.change(ctx, func(st *unix.Stat_t) error {
		off = st.Size
		if len(p) == 0 {
			return nil
		}
		if _, err := h.writeAt(st.Size, p, off); err != nil {
			// In one step means that no part of it stays.
			return errors.Join(err, sysErr(h.cut(st.Size)))
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return off, nil
}

// cut takes the file back to a size it had before a write failed.
func (h *file) cut(size int64) error {
	st, err := h.f.Stat()
	if err != nil || st.Size() <= size {
		return err
	}
	if err := h.f.Truncate(size); err != nil {
		return err
	}
	h.count.page.add(size - st.Size())
	return nil
}

// Truncate implements driver.File.
func (h *file) Truncate(ctx context.Context, size int64) error {
	return h.change(ctx, func(st *unix.Stat_t) error {
		return h.grow(st.Size, size, func() error {
			err := h.b.host.faults.Do("truncate", h.name, func() error { return h.f.Truncate(size) })
			if err == nil && size < st.Size {
				h.count.page.add(size - st.Size)
			}
			return err
		})
	})
}

// PunchHole implements driver.File.
func (h *file) PunchHole(ctx context.Context, off, length int64) error {
	return h.change(ctx, func(st *unix.Stat_t) error {
		length = min(length, st.Size-off)
		if length <= 0 {
			return nil
		}
		err := h.b.host.faults.Do("punch", h.name, func() error { return punch(h.f, off, length) })
		if errors.Is(err, unix.ENOTSUP) {
			err = writeZeros(h.f, off, length)
		}
		return sysErr(err)
	})
}

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
func (h *file) NextData(ctx context.Context, off int64) (start, end int64, err error) {
	if err := h.enter(ctx); err != nil {
		return 0, 0, err
	}
	defer h.done()
	start, end, err = nextData(h.fd, off)
	if err != nil && err != io.EOF {
		err = sysErr(err)
	}
	return start, end, err
}

// nextData finds data by lseek(2). Nothing else uses the offset of the open file.
func nextData(fd int, off int64) (start, end int64, err error) {
	start, err = unix.Seek(fd, off, seekData)
	if errors.Is(err, unix.ENXIO) {
		return 0, 0, io.EOF
	}
	if err == nil {
		end, err = unix.Seek(fd, start, seekHole)
	}
	if !errors.Is(err, unix.EINVAL) {
		return start, end, err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st) // a file system that does not know holes
	if err == nil && off >= st.Size {
		err = io.EOF
	}
	if err != nil {
		return 0, 0, err
	}
	return off, st.Size, nil
}

// Stat implements driver.File.
func (h *file) Stat(ctx context.Context) (driver.Entry, error) {
	if err := h.enter(ctx); err != nil {
		return driver.Entry{}, err
	}
	defer h.done()
	var st unix.Stat_t
	if err := unix.Fstat(h.fd, &st); err != nil {
		return driver.Entry{}, sysErr(err)
	}
	return entryOf(h.name, &st), nil
}

// Sync implements driver.File.
func (h *file) Sync(ctx context.Context) error {
	if err := h.enter(ctx); err != nil {
		return err
	}
	defer h.done()
	if !h.dirty.Swap(false) {
		return nil
	}
	err := h.b.host.syncFile(h.f)
	if err != nil {
		h.dirty.Store(true)
	}
	return sysErr(err)
}
