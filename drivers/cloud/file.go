package cloud

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	pathpkg "path"
	"strconv"
	"sync"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
)

// file is a file that is open at the server. It acts on the handle, and so on the file's
// inode; the path serves only to open it again when the server has lost it.
type file struct {
	f    *fileSystem
	path string
	opts driver.OpenOptions

	unsynced ledger // changes by this handle

	mu     sync.Mutex // guards what follows
	closed bool
	h      *openHandle
}

type openHandle struct {
	p     *place
	id    string
	inode uint64
	entry driver.Entry // of the file as it was opened
}

// pieceSize is the most bytes that one request reads or writes; larger ones are cut.
const pieceSize = 4 << 20

// OpenEntry implements driver.FS. The server describes what it opens.
func (f *fileSystem) OpenEntry(ctx context.Context, path string) (driver.File, driver.Entry, error) {
	x, err := f.openFile(ctx, path, driver.OpenOptions{NoFollow: true})
	if err != nil {
		return nil, driver.Entry{}, err
	}
	return x, x.h.entry, nil
}

// Open implements driver.FS.
func (f *fileSystem) Open(ctx context.Context, path string, opts driver.OpenOptions) (driver.File, error) {
	x, err := f.openFile(ctx, path, opts)
	if err != nil {
		return nil, err
	}
	return x, nil
}

func (f *fileSystem) openFile(ctx context.Context, path string, opts driver.OpenOptions) (*file, error) {
	change := opts.Write || opts.Append || opts.Create || opts.Truncate
	x := &file{f: f, path: path, opts: opts}
	if err := f.usable(ctx, change); err != nil {
		return nil, err
	}
	err := f.placed(ctx, func(p *place) (err error) {
		x.h, err = x.open(ctx, p, opts, 0)
		return err
	})
	if err != nil {
		if f.b.usable(ctx) == driver.ErrClosed {
			err = driver.ErrClosed
		}
		return nil, err
	}
	f.b.mu.Lock()
	closed := f.b.closed
	if !closed {
		f.b.files[x] = struct{}{}
	}
	f.b.mu.Unlock()
	if closed {
		return nil, driver.ErrClosed
	}
	return x, nil
}

func (x *file) open(ctx context.Context, p *place, opts driver.OpenOptions, inode uint64) (*openHandle, error) {
	q := url.Values{"path": {x.path}}
	setFlags(q, map[string]bool{"write": opts.Write, "append": opts.Append, "create": opts.Create, "exclusive": opts.Exclusive,
		"truncate": opts.Truncate, "no_follow": opts.NoFollow})
	if opts.Mode != 0 {
		modeParam(q, opts.Mode)
	}
	if inode != 0 {
		q.Set("inode", strconv.FormatUint(inode, 10))
	}
	c := call{method: "POST", path: "/filesystems/" + p.id + "/handles", query: q, at: p.s.base, once: true, again: !opts.Exclusive}
	var out api.Handle
	if err := x.f.b.json(ctx, c, nil, &out); err != nil {
		return nil, err
	}
	return &openHandle{p, out.ID, out.Entry.Inode, out.Entry.Driver()}, nil
}

// handle returns the open handle, which is opened again if it is old, which the server
// has lost.
func (x *file) handle(ctx context.Context, old *openHandle) (*openHandle, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return nil, driver.ErrClosed
	}
	if x.h != old && !x.h.p.s.lost() {
		return x.h, nil
	}
	opts := x.opts
	opts.Create, opts.Exclusive, opts.Truncate = false, false, false
	opts.Write = opts.Write || x.opts.Create
	was := x.h
	err := x.f.reopen(ctx, was.p, func(p *place) (err error) {
		x.h, err = x.open(ctx, p, opts, was.inode)
		return err
	})
	if errors.Is(err, driver.ErrNotExist) || errors.Is(err, driver.ErrClosed) && !errors.Is(err, errLost) {
		err = driver.Errorf(driver.ErrClosed, "the server ended, and the file is not at its path any more: %v", err)
	}
	if err != nil {
		x.h = was
		return nil, err
	}
	x.unsynced.lose()
	return x.h, nil
}

// reopen calls fn with a place other than old, which the server has lost.
func (f *fileSystem) reopen(ctx context.Context, old *place, fn func(p *place) error) error {
	for range 3 {
		p, err := f.place(ctx, old)
		if err != nil {
			return err
		}
		if err := fn(p); !errors.Is(err, errLost) {
			return err
		}
		old = p
	}
	return errLost
}

// in runs fn on the open handle, and again when the server had lost it.
func (x *file) in(ctx context.Context, change bool, fn func(h *openHandle) error) error {
	err := x.through(ctx, change, fn)
	if err != nil && x.f.b.usable(ctx) == driver.ErrClosed {
		return driver.ErrClosed // what it needs was closed under it
	}
	return err
}

func (x *file) through(ctx context.Context, change bool, fn func(h *openHandle) error) error {
	if err := x.usable(ctx, change); err != nil {
		return err
	}
	var old *openHandle
	for range 3 {
		h, err := x.handle(ctx, old)
		if err != nil {
			return err
		}
		err = fn(h)
		if err == nil && change {
			x.ack(h)
		}
		astray := x.f.b.astray(h.p.s, err)
		if !errors.Is(err, errLost) && !astray {
			return err
		}
		if astray {
			h.p.s.lose()
		}
		old = h
	}
	return driver.Errorf(driver.ErrUnavailable, "the server loses what was opened as soon as it is open")
}

// ack notes a change that the server acknowledged for a handle.
func (x *file) ack(h *openHandle) {
	x.mu.Lock()
	gone := x.h != h
	x.mu.Unlock()
	x.unsynced.ack(gone)
	x.f.ack(h.p)
}

func (x *file) usable(ctx context.Context, change bool) error {
	if err := x.f.b.alive(ctx); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.closed:
		return driver.ErrClosed
	case !change:
		return nil
	case !x.opts.Write && !x.opts.Append && !x.opts.Create && !x.opts.Truncate:
		return driver.Errorf(driver.ErrReadOnly, "the file is open for reading")
	}
	return nil
}

// alive is usable while the Backend is being closed, which closes files.
func (b *Backend) alive(ctx context.Context) error {
	if b.life.Err() != nil {
		return driver.ErrClosed
	}
	return ctx.Err()
}

func (h *openHandle) call(method, route string, q url.Values) call {
	return call{method: method, path: "/handles/" + h.id + route, query: q, at: h.p.s.base, again: true}
}

func offset(off int64) url.Values { return url.Values{"offset": {strconv.FormatInt(off, 10)}} }

// ReadAt implements driver.File.
func (x *file) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	done := 0
	for {
		part := p[done:min(len(p), done+pieceSize)]
		n := 0
		err := x.in(ctx, false, func(h *openHandle) (err error) {
			q := offset(off + int64(done))
			q.Set("length", strconv.Itoa(len(part)))
			n, err = x.f.b.bytes(ctx, h.call("GET", "/data", q), part)
			return err
		})
		done += n
		switch {
		case err != nil:
			return done, err
		case n < len(part):
			return done, io.EOF
		case done == len(p):
			return done, nil
		}
	}
}

// WriteAt implements driver.File.
func (x *file) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := x.usable(ctx, true); err != nil {
		return 0, err
	}
	if x.opts.Append {
		return 0, driver.Errorf(driver.ErrInvalid, "the file is open for appending; use Append")
	}
	done := 0
	for {
		part := p[done:min(len(p), done+pieceSize)]
		err := x.in(ctx, true, func(h *openHandle) error {
			c := h.call("PUT", "/data", offset(off+int64(done)))
			c.once = true
			c.body = append([]byte{}, part...) // the transport may read it after an error
			return x.f.b.do(ctx, c)
		})
		if err != nil {
			return done, err
		}
		if done += len(part); done == len(p) {
			return done, nil
		}
	}
}

// Append implements driver.File.
func (x *file) Append(ctx context.Context, p []byte) (int64, error) {
	if len(p) > api.MaxIO {
		return 0, driver.Errorf(driver.ErrInvalid, "%d bytes to append at once; the most is %d", len(p), api.MaxIO)
	}
	var out api.Appended
	err := x.in(ctx, true, func(h *openHandle) error {
		c := h.call("POST", "/data", nil)
		c.body, c.once, c.again = append([]byte{}, p...), true, false
		return x.f.b.json(ctx, c, nil, &out)
	})
	return out.Offset, err
}

// Truncate implements driver.File.
func (x *file) Truncate(ctx context.Context, size int64) error {
	return x.in(ctx, true, func(h *openHandle) error {
		c := h.call("POST", "/truncate", url.Values{"size": {strconv.FormatInt(size, 10)}})
		c.once = true
		return x.f.b.do(ctx, c)
	})
}

// PunchHole implements driver.File.
func (x *file) PunchHole(ctx context.Context, off, length int64) error {
	return x.in(ctx, true, func(h *openHandle) error {
		q := offset(off)
		q.Set("length", strconv.FormatInt(length, 10))
		c := h.call("POST", "/punch", q)
		c.once = true
		return x.f.b.do(ctx, c)
	})
}

// NextData implements driver.File.
func (x *file) NextData(ctx context.Context, off int64) (start, end int64, err error) {
	var out api.Extent
	none := false
	err = x.in(ctx, false, func(h *openHandle) error {
		res, err := x.f.b.send(ctx, h.call("GET", "/extent", offset(off)))
		if err != nil {
			return err
		}
		defer drain(res)
		if none = res.StatusCode == http.StatusNoContent; none {
			return nil
		}
		if err := api.Decode(res.Body, &out); err != nil {
			return err
		}
		if out.End <= off {
			return driver.Errorf(driver.ErrCorrupt, "the server's range of data ends at %d, before %d", out.End, off)
		}
		out.Start = max(out.Start, off)
		return nil
	})
	if err == nil && none {
		err = io.EOF
	}
	return out.Start, out.End, err
}

// Stat implements driver.File.
func (x *file) Stat(ctx context.Context) (driver.Entry, error) {
	var out api.Entry
	err := x.in(ctx, false, func(h *openHandle) error { return x.f.b.json(ctx, h.call("GET", "", nil), nil, &out) })
	if err != nil {
		return driver.Entry{}, err
	}
	e := out.Driver()
	e.Name = pathpkg.Base(x.path)
	return e, nil
}

// Sync implements driver.File.
func (x *file) Sync(ctx context.Context) error {
	upTo := x.unsynced.begin()
	if err := x.in(ctx, false, func(h *openHandle) error { return x.f.b.do(ctx, h.call("POST", "/sync", nil)) }); err != nil {
		return err
	}
	return x.unsynced.saved(upTo)
}

// Close implements driver.File.
func (x *file) Close() error {
	x.f.b.mu.Lock()
	delete(x.f.b.files, x)
	x.f.b.mu.Unlock()
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		return nil
	}
	x.closed = true
	h := x.h
	x.mu.Unlock()
	if x.f.b.life.Err() != nil {
		return nil
	}
	c := h.call("DELETE", "", nil)
	c.once = true // a second one would find nothing open
	err := x.f.b.doClosing(c)
	if errors.Is(err, errLost) {
		err = nil
		x.unsynced.lose()
	}
	if err != nil {
		return err
	}
	return x.unsynced.saved(0)
}
