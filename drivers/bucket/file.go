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
	f     *fileSystem
	n     *node
	name  string // of the path by which it was opened
	opts  driver.OpenOptions
	ahead readAhead

	mu     sync.Mutex // guards what follows
	closed bool
	told   int64 // of the node's losses
}

// Open implements driver.FS.
func (f *fileSystem) Open(ctx context.Context, path string, opts driver.OpenOptions) (driver.File, error) {
	writes := opts.Write || opts.Create || opts.Append || opts.Truncate
	if writes {
		if err := f.enterWrite(ctx); err != nil {
			return nil, err
		}
	}
	for tries := 0; ; tries++ {
		ino, err := f.find(ctx, path, opts)
		if err != nil {
			return nil, err
		}
		h, err := f.open(ctx, ino, baseOf(path), opts)
		// It may go between the look at its name and the hold on it.
		if errors.Is(err, driver.ErrNotExist) && tries < 100 {
			continue
		}
		return h, err
	}
}

// OpenEntry implements driver.FS.
func (f *fileSystem) OpenEntry(ctx context.Context, path string) (driver.File, driver.Entry, error) {
	return driver.OpenThenStat(ctx, f, path)
}

// find returns the inode of the file at path, which it makes where opts say so.
func (f *fileSystem) find(ctx context.Context, path string, opts driver.OpenOptions) (int64, error) {
	h := how{follow: !opts.NoFollow && !opts.Exclusive}
	p, err := f.look(ctx, path, h)
	if err != nil {
		return 0, err
	}
	if p.node == nil && opts.Create {
		var made int64
		err := f.change(ctx, []string{path}, func(c *change) error {
			made = 0
			p, err = c.w.resolve(path, h)
			if err != nil || p.node != nil {
				return err
			}
			n := inode{mode: typeFile | permOf(opts.Mode), nlink: 1}
			if opts.Mode == 0 {
				n.mode |= 0o644
			}
			c.add(&p.parent, p.name, &n)
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
	case p.node.isLink():
		return 0, driver.Errorf(driver.ErrLoop, "a symbolic link, which is not to be followed")
	case p.node.isDir():
		return 0, driver.ErrIsDir
	case !p.node.isFile():
		return 0, driver.Errorf(driver.ErrUnsupported, "neither a file nor a directory: it cannot be opened")
	}
	return p.node.ino, nil
}

func (f *fileSystem) open(ctx context.Context, ino int64, name string, opts driver.OpenOptions) (driver.File, error) {
	n, err := f.b.acquire(ctx, f, ino)
	if err != nil {
		return nil, err
	}
	opts.Write = opts.Write || opts.Create || opts.Append
	h := &handle{b: f.b, f: f, n: n, name: name, opts: opts}
	// Here and not at the first read: once the extents are known, the file can be read
	// though another host replaces it, for as long as the grace time.
	_, _, err = n.load(ctx, 0)
	if opts.Write {
		h.told = n.enter(1)
	}
	if err == nil && opts.Truncate {
		err = n.truncate(ctx, f, 0)
	}
	if err == nil {
		err = f.b.keep(h)
	}
	if err != nil {
		if opts.Write {
			n.enter(-1)
		}
		return nil, errors.Join(err, f.b.release(ctx, n))
	}
	return h, nil
}

// enter counts the handles that may write, and returns how often something was lost.
func (n *node) enter(writers int) (losses int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.writers += writers
	return n.losses
}

func (h *handle) enter(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return driver.ErrClosed
	}
	return h.b.usable(ctx)
}

func (h *handle) enterWrite(ctx context.Context) error {
	if err := h.enter(ctx); err != nil {
		return err
	}
	if !h.opts.Write {
		return driver.Errorf(driver.ErrReadOnly, "the file is open for reading only")
	}
	return nil
}

// WriteAt implements driver.File.
func (h *handle) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := h.enterWrite(ctx); err != nil {
		return 0, err
	}
	if h.opts.Append {
		return 0, driver.Errorf(driver.ErrInvalid, "the file is open for appending; write at its end, or open it without Append")
	}
	if len(p) == 0 {
		return 0, nil
	}
	if off < 0 {
		return 0, negative(off)
	}
	if off > maxFileSize-int64(len(p)) {
		return 0, errTooLarge
	}
	n := h.n
	n.mu.Lock()
	grows := off+int64(len(p)) > n.size && h.f.hint.Load() > 0
	n.mu.Unlock()
	if grows {
		// Under a quota the room is taken at once, so that it is there when the bytes are
		// committed.
		if err := n.resize(ctx, h.f, off+int64(len(p)), false); err != nil {
			return 0, err
		}
	}
	full, err := n.write(ctx, h.f, p, off)
	if err != nil {
		return 0, err
	}
	if full {
		if err := n.flush(ctx); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Append implements driver.File.
func (h *handle) Append(ctx context.Context, p []byte) (int64, error) {
	if err := h.enterWrite(ctx); err != nil {
		return 0, err
	}
	if err := h.n.flushFor(ctx, h.f); err != nil {
		return 0, err
	}
	return h.n.append(ctx, h.f, p)
}

// Truncate implements driver.File.
func (h *handle) Truncate(ctx context.Context, size int64) error {
	if err := h.enterWrite(ctx); err != nil {
		return err
	}
	return h.n.truncate(ctx, h.f, size)
}

// PunchHole implements driver.File.
func (h *handle) PunchHole(ctx context.Context, off, length int64) error {
	if err := h.enterWrite(ctx); err != nil {
		return err
	}
	if off < 0 || length < 0 {
		return negative(min(off, length))
	}
	if err := h.n.flushFor(ctx, h.f); err != nil {
		return err
	}
	return h.n.punch(ctx, h.f, off, length)
}

// Stat implements driver.File.
func (h *handle) Stat(ctx context.Context) (driver.Entry, error) {
	if err := h.enter(ctx); err != nil {
		return driver.Entry{}, err
	}
	i, err := h.n.row(ctx)
	if err != nil {
		return driver.Entry{}, err
	}
	return i.entry(h.name), nil
}

// Sync implements driver.File.
func (h *handle) Sync(ctx context.Context) error {
	if err := h.enter(ctx); err != nil {
		return err
	}
	if !h.opts.Write {
		return nil
	}
	if err := h.settle(ctx); err != nil || !h.f.opts.Batch {
		return err
	}
	return h.b.harden(ctx, h.f.vol)
}

// settle commits what was written, and tells of what cannot be any more.
func (h *handle) settle(ctx context.Context) error {
	err := h.n.flush(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	if h.told < h.n.losses {
		h.told = h.n.losses
		if err == nil && sameRights(h.n.loser, h.f) {
			err = h.n.lost
		}
	}
	return err
}

// Close implements driver.File.
func (h *handle) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	return h.close(ctx)
}

func (h *handle) close(ctx context.Context) error {
	h.mu.Lock()
	was := h.closed
	h.closed = true
	h.mu.Unlock()
	if was {
		return nil
	}
	h.ahead.stop()
	h.b.forget(h)
	if !h.opts.Write {
		return h.b.release(ctx, h.n)
	}
	err := h.settle(ctx)
	h.n.mu.Lock()
	if h.n.writers--; h.n.writers == 0 {
		// It was told, and nobody is left who could try again.
		h.n.forget()
	}
	h.n.mu.Unlock()
	return errors.Join(err, h.b.release(ctx, h.n))
}

func (h *handle) closeWith(ctx context.Context) error { return h.close(ctx) }

// negative is the error for an offset or a size that cannot be.
func negative(n int64) error {
	return driver.Errorf(driver.ErrInvalid, "offset or size %d: must not be negative", n)
}

// NextData implements driver.File.
func (h *handle) NextData(ctx context.Context, off int64) (start, end int64, err error) {
	if err := h.enter(ctx); err != nil {
		return 0, 0, err
	}
	if off < 0 {
		return 0, 0, negative(off)
	}
	if err := h.n.flush(ctx); err != nil {
		return 0, 0, err
	}
	i, err := h.n.row(ctx)
	if err != nil {
		return 0, 0, err
	}
	for start = -1; ; {
		w, err := h.n.chunksAt(ctx, off)
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
func (f *fileSystem) Truncate(ctx context.Context, path string, size int64) error {
	h, err := f.Open(ctx, path, driver.OpenOptions{Write: true})
	if err != nil {
		return err
	}
	return errors.Join(h.Truncate(ctx, size), h.Close())
}
