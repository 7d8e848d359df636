package local

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"sync"
	"sync/atomic"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/durable"
	"github.com/volehq/vole/internal/fault"
	"golang.org/x/sys/unix"
)

// file implements driver.File.
type file struct {
	b      *Backend
	f      *os.File
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

// Open implements driver.FS.
func (f *fileSystem) Open(ctx context.Context, name string, opts driver.OpenOptions) (driver.File, error) {
	if err := f.enter(ctx); err != nil {
		return nil, err
	}
	defer f.done()
	h := &file{b: f.b, name: path.Base(name), key: inodeKey{volume: f.id}, batch: f.batch, write: opts.Write, append: opts.Append}
	if opts.Write {
		c, err := f.startChange(ctx)
		if err != nil {
			return nil, err
		}
		h.count = c
	}
	var err error
	if h.f, err = f.openFile(ctx, h.count, name, opts); err != nil {
		if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
			return nil, notRegular("socket, device or fifo")
		}
		return nil, f.gone(err)
	}
	if err := h.begin(ctx, opts); err != nil {
		return nil, err
	}
	return h, nil
}

// openFile opens or makes the file. O_NONBLOCK keeps a fifo from waiting for its
// other end; begin refuses it then.
func (f *fileSystem) openFile(ctx context.Context, c *counter, name string, opts driver.OpenOptions) (*os.File, error) {
	flag := os.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY
	if opts.Write {
		flag = os.O_RDWR | unix.O_NONBLOCK | unix.O_NOCTTY
	}
	if opts.NoFollow {
		flag |= unix.O_NOFOLLOW
		if err := f.refuseLink(name); err != nil {
			return nil, err
		}
	}
	if !opts.Exclusive {
		h, err := f.root.OpenFile(name, flag, 0)
		if !opts.Create || !errors.Is(err, fs.ErrNotExist) {
			return h, err
		}
	}
	h, err := f.create(ctx, c, name, flag|os.O_EXCL, 0o600)
	if err == nil {
		return h, f.created(h, name, opts.Mode)
	}
	if opts.Exclusive || !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	// Made by another meanwhile; or a dangling link, whose target is made: os.Root
	// keeps it inside.
	return f.create(ctx, c, name, flag, createMode(opts.Mode))
}

func (f *fileSystem) refuseLink(name string) error {
	p, err := f.find(name)
	if err != nil {
		return err
	}
	defer p.close()
	if st, err := p.stat(); err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return driver.ErrLoop
	}
	return nil
}

// create opens a file that is to be made. Its name must not come up between the look
// that another change takes at it and that change.
func (f *fileSystem) create(ctx context.Context, c *counter, name string, flag int, mode fs.FileMode) (h *os.File, err error) {
	err = c.changeNames(ctx, func() error {
		return at("create", name, func() error {
			h, err = f.root.OpenFile(name, flag|os.O_CREATE, mode.Perm())
			return err
		})
	})
	return h, err
}

// created finishes a new file: its exact mode, and its name made durable.
func (f *fileSystem) created(h *os.File, name string, mode fs.FileMode) error {
	err := unix.Fchmod(int(h.Fd()), sysMode(createMode(mode)))
	if err == nil && !f.batch {
		var p place
		if p, err = f.find(name); err == nil {
			err = f.syncDirs(p)
			p.close()
		}
	}
	if err != nil {
		h.Close()
	}
	return err
}

func createMode(mode fs.FileMode) fs.FileMode {
	if mode == 0 {
		return 0o644
	}
	return mode
}

// begin checks that what was opened is a regular file, and registers it.
func (h *file) begin(ctx context.Context, opts driver.OpenOptions) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(h.f.Fd()), &st); err != nil {
		h.f.Close()
		return sysErr(err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		h.f.Close()
		return driver.ErrIsDir
	default:
		h.f.Close()
		return notRegular(fileMode(uint32(st.Mode)).Type().String())
	}
	h.key.ino = uint64(st.Ino)
	h.b.openInode(h.key)
	if h.write {
		h.count.retain()
	}
	if err := h.b.register(h); err != nil {
		h.end()
		return err
	}
	if opts.Truncate {
		if err := h.Truncate(ctx, 0); err != nil {
			h.Close()
			return err
		}
	}
	return nil
}

func notRegular(what string) error {
	return driver.Errorf(driver.ErrUnsupported, "only regular files are opened; this is a %s", what)
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
	h.f.Close()
	h.b.unregister(h)
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
		return sysErr(durable.Sync(h.f))
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
	n, err := h.f.ReadAt(p, off)
	if err != nil && err != io.EOF {
		err = sysErr(err)
	}
	return n, err
}

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
		return fault.Do("write", h.name, func() error {
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
			err := fault.Do("truncate", h.name, func() error { return h.f.Truncate(size) })
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
		err := fault.Do("punch", h.name, func() error { return punch(h.f, off, length) })
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
	start, end, err = nextData(h.f, off)
	if err != nil && err != io.EOF {
		err = sysErr(err)
	}
	return start, end, err
}

// nextData finds data by lseek(2). Nothing else uses the offset of the open file.
func nextData(f *os.File, off int64) (start, end int64, err error) {
	fd := int(f.Fd())
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
	st, err := f.Stat() // a file system that does not know holes
	if err == nil && off >= st.Size() {
		err = io.EOF
	}
	if err != nil {
		return 0, 0, err
	}
	return off, st.Size(), nil
}

// Stat implements driver.File.
func (h *file) Stat(ctx context.Context) (driver.Entry, error) {
	if err := h.enter(ctx); err != nil {
		return driver.Entry{}, err
	}
	defer h.done()
	var st unix.Stat_t
	if err := unix.Fstat(int(h.f.Fd()), &st); err != nil {
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
	err := durable.Sync(h.f)
	if err != nil {
		h.dirty.Store(true)
	}
	return sysErr(err)
}
