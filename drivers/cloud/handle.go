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

// handle is a file that is open at the server. It acts on the handle, and so on the file's
// inode; the path serves only to open it again when the server has lost it.
type handle struct {
	fs   *volumeFS
	path string
	opts driver.OpenOptions

	dirty dirtyChanges // changes by this handle

	mu     sync.Mutex // guards what follows
	closed bool
	remote *remoteHandle
}

type remoteHandle struct {
	ref   *remoteRef
	id    string
	inode uint64
	entry driver.Entry // of the file as it was opened
}

// maxTransfer is the most bytes that one request reads or writes; larger ones are cut.
const maxTransfer = 4 << 20

// OpenEntry implements driver.FS. The server describes what it opens.
func (f *volumeFS) OpenEntry(ctx context.Context, path string) (driver.File, driver.Entry, error) {
	x, err := f.openHandle(ctx, path, driver.OpenOptions{NoFollow: true})
	if err != nil {
		return nil, driver.Entry{}, err
	}
	return x, x.remote.entry, nil
}

// Open implements driver.FS.
func (f *volumeFS) Open(ctx context.Context, path string, opts driver.OpenOptions) (driver.File, error) {
	x, err := f.openHandle(ctx, path, opts)
	if err != nil {
		return nil, err
	}
	return x, nil
}

func (f *volumeFS) openHandle(ctx context.Context, path string, opts driver.OpenOptions) (*handle, error) {
	change := opts.Write || opts.Append || opts.Create || opts.Truncate
	x := &handle{fs: f, path: path, opts: opts}
	if err := f.checkUsable(ctx, change); err != nil {
		return nil, err
	}
	err := f.withRef(ctx, func(p *remoteRef) (err error) {
		x.remote, err = x.openRemote(ctx, p, opts, 0)
		return err
	})
	if err != nil {
		if f.b.checkOpen(ctx) == driver.ErrClosed {
			err = driver.ErrClosed
		}
		return nil, err
	}
	f.b.mu.Lock()
	closed := f.b.closed
	if !closed {
		f.b.handles[x] = struct{}{}
	}
	f.b.mu.Unlock()
	if closed {
		return nil, driver.ErrClosed
	}
	return x, nil
}

func (x *handle) openRemote(ctx context.Context, p *remoteRef, opts driver.OpenOptions, inode uint64) (*remoteHandle, error) {
	q := url.Values{"path": {x.path}}
	setBoolParams(q, map[string]bool{"write": opts.Write, "append": opts.Append, "create": opts.Create, "exclusive": opts.Exclusive,
		"truncate": opts.Truncate, "no_follow": opts.NoFollow})
	if opts.Mode != 0 {
		setModeParam(q, opts.Mode)
	}
	if inode != 0 {
		q.Set("inode", strconv.FormatUint(inode, 10))
	}
	c := call{method: "POST", path: "/filesystems/" + p.id + "/handles", query: q, server: p.session.server, keyed: true, repeatable: !opts.Exclusive}
	var out api.Handle
	if err := x.fs.b.sendJSON(ctx, c, nil, &out); err != nil {
		return nil, err
	}
	return &remoteHandle{p, out.ID, out.Entry.Inode, out.Entry.Driver()}, nil
}

// currentRemote returns the open handle, which is opened again if it is old, which the server
// has lost.
func (x *handle) currentRemote(ctx context.Context, old *remoteHandle) (*remoteHandle, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return nil, driver.ErrClosed
	}
	if x.remote != old && !x.remote.ref.session.isStale() {
		return x.remote, nil
	}
	opts := x.opts
	opts.Create, opts.Exclusive, opts.Truncate = false, false, false
	opts.Write = opts.Write || x.opts.Create
	was := x.remote
	err := x.fs.reopenRef(ctx, was.ref, func(p *remoteRef) (err error) {
		x.remote, err = x.openRemote(ctx, p, opts, was.inode)
		return err
	})
	if errors.Is(err, driver.ErrNotExist) || errors.Is(err, driver.ErrClosed) && !errors.Is(err, api.ErrStale) {
		err = driver.Errorf(driver.ErrClosed, "the server ended, and the file is not at its path any more: %v", err)
	}
	if err != nil {
		x.remote = was
		return nil, err
	}
	x.dirty.markLost()
	return x.remote, nil
}

// reopenRef calls fn with a place other than old, which the server has lost.
func (f *volumeFS) reopenRef(ctx context.Context, old *remoteRef, fn func(p *remoteRef) error) error {
	for range 3 {
		p, err := f.currentRef(ctx, old)
		if err != nil {
			return err
		}
		if err := fn(p); !errors.Is(err, api.ErrStale) {
			return err
		}
		old = p
	}
	return api.ErrStale
}

// withHandle runs fn on the open handle, and again when the server had lost it.
func (x *handle) withHandle(ctx context.Context, change bool, fn func(h *remoteHandle) error) error {
	err := x.retryHandle(ctx, change, fn)
	if err != nil && x.fs.b.checkOpen(ctx) == driver.ErrClosed {
		return driver.ErrClosed // what it needs was closed under it
	}
	return err
}

func (x *handle) retryHandle(ctx context.Context, change bool, fn func(h *remoteHandle) error) error {
	if err := x.checkUsable(ctx, change); err != nil {
		return err
	}
	var old *remoteHandle
	for range 3 {
		h, err := x.currentRemote(ctx, old)
		if err != nil {
			return err
		}
		err = fn(h)
		if err == nil && change {
			x.recordChange(h)
		}
		astray := x.fs.b.isUnreachable(h.ref.session, err)
		if !errors.Is(err, api.ErrStale) && !astray {
			return err
		}
		if astray {
			h.ref.session.markStale()
		}
		old = h
	}
	return driver.Errorf(driver.ErrUnavailable, "the server loses what was opened as soon as it is open")
}

// recordChange notes a change that the server acknowledged for a handle.
func (x *handle) recordChange(h *remoteHandle) {
	x.mu.Lock()
	gone := x.remote != h
	x.mu.Unlock()
	x.dirty.recordChange(gone)
	x.fs.recordChange(h.ref)
}

func (x *handle) checkUsable(ctx context.Context, change bool) error {
	if err := x.fs.b.checkAlive(ctx); err != nil {
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

// checkAlive is usable while the Backend is being closed, which closes files.
func (b *Backend) checkAlive(ctx context.Context) error {
	if b.lifetime.Err() != nil {
		return driver.ErrClosed
	}
	return ctx.Err()
}

func (h *remoteHandle) newCall(method, route string, q url.Values) call {
	return call{method: method, path: "/handles/" + h.id + route, query: q, server: h.ref.session.server, repeatable: true}
}

func offsetQuery(off int64) url.Values { return url.Values{"offset": {strconv.FormatInt(off, 10)}} }

// ReadAt implements driver.File.
func (x *handle) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	done := 0
	for {
		part := p[done:min(len(p), done+maxTransfer)]
		n := 0
		err := x.withHandle(ctx, false, func(h *remoteHandle) (err error) {
			q := offsetQuery(off + int64(done))
			q.Set("length", strconv.Itoa(len(part)))
			n, err = x.fs.b.readBytes(ctx, h.newCall("GET", "/data", q), part)
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
func (x *handle) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := x.checkUsable(ctx, true); err != nil {
		return 0, err
	}
	if x.opts.Append {
		return 0, driver.Errorf(driver.ErrInvalid, "the file is open for appending; use Append")
	}
	done := 0
	for {
		part := p[done:min(len(p), done+maxTransfer)]
		err := x.withHandle(ctx, true, func(h *remoteHandle) error {
			c := h.newCall("PUT", "/data", offsetQuery(off+int64(done)))
			c.keyed = true
			c.body = append([]byte{}, part...) // the transport may read it after an error
			return x.fs.b.sendDiscard(ctx, c)
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
func (x *handle) Append(ctx context.Context, p []byte) (int64, error) {
	if len(p) > api.MaxIO {
		return 0, driver.Errorf(driver.ErrInvalid, "%d bytes to append at once; the most is %d", len(p), api.MaxIO)
	}
	var out api.Appended
	err := x.withHandle(ctx, true, func(h *remoteHandle) error {
		c := h.newCall("POST", "/data", nil)
		c.body, c.keyed, c.repeatable = append([]byte{}, p...), true, false
		return x.fs.b.sendJSON(ctx, c, nil, &out)
	})
	return out.Offset, err
}

// Truncate implements driver.File.
func (x *handle) Truncate(ctx context.Context, size int64) error {
	return x.withHandle(ctx, true, func(h *remoteHandle) error {
		c := h.newCall("POST", "/truncate", url.Values{"size": {strconv.FormatInt(size, 10)}})
		c.keyed = true
		return x.fs.b.sendDiscard(ctx, c)
	})
}

// PunchHole implements driver.File.
func (x *handle) PunchHole(ctx context.Context, off, length int64) error {
	return x.withHandle(ctx, true, func(h *remoteHandle) error {
		q := offsetQuery(off)
		q.Set("length", strconv.FormatInt(length, 10))
		c := h.newCall("POST", "/punch", q)
		c.keyed = true
		return x.fs.b.sendDiscard(ctx, c)
	})
}

// NextData implements driver.File.
func (x *handle) NextData(ctx context.Context, off int64) (start, end int64, err error) {
	var out api.Extent
	none := false
	err = x.withHandle(ctx, false, func(h *remoteHandle) error {
		res, err := x.fs.b.sendRetrying(ctx, h.newCall("GET", "/extent", offsetQuery(off)))
		if err != nil {
			return err
		}
		defer drainBody(res)
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
func (x *handle) Stat(ctx context.Context) (driver.Entry, error) {
	var out api.Entry
	err := x.withHandle(ctx, false, func(h *remoteHandle) error { return x.fs.b.sendJSON(ctx, h.newCall("GET", "", nil), nil, &out) })
	if err != nil {
		return driver.Entry{}, err
	}
	e := out.Driver()
	e.Name = pathpkg.Base(x.path)
	return e, nil
}

// Sync implements driver.File.
func (x *handle) Sync(ctx context.Context) error {
	upTo := x.dirty.beginSync()
	if err := x.withHandle(ctx, false, func(h *remoteHandle) error { return x.fs.b.sendDiscard(ctx, h.newCall("POST", "/sync", nil)) }); err != nil {
		return err
	}
	return x.dirty.endSync(upTo)
}

// Close implements driver.File.
func (x *handle) Close() error {
	x.fs.b.mu.Lock()
	delete(x.fs.b.handles, x)
	x.fs.b.mu.Unlock()
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		return nil
	}
	x.closed = true
	h := x.remote
	x.mu.Unlock()
	if x.fs.b.lifetime.Err() != nil {
		return nil
	}
	c := h.newCall("DELETE", "", nil)
	c.keyed = true // a second one would find nothing open
	err := x.fs.b.sendClosing(c)
	if errors.Is(err, api.ErrStale) {
		err = nil
		x.dirty.markLost()
	}
	if err != nil {
		return err
	}
	return x.dirty.endSync(0)
}
