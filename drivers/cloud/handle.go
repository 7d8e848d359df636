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
	"github.com/volehq/vole/internal/openset"
)

// handle is an open file. It acts on a handle of the server, and so on the file's inode; the path
// serves only to reopen the file when the server has lost that handle.
type handle struct {
	fs   *volumeFS
	path string
	opts driver.OpenOptions

	dirty dirtyChanges // by this handle
	life  openset.Life

	mu     sync.Mutex // guards remote; held while the file is reopened
	remote *remoteHandle
}

// maxTransfer is the most bytes that one request reads or writes; ReadAt and WriteAt split what
// is larger.
const maxTransfer = 4 << 20

// OpenEntry implements driver.FS. The response to the opening has the entry.
func (f *volumeFS) OpenEntry(ctx context.Context, path string) (driver.File, driver.Entry, error) {
	h, err := f.openHandle(ctx, path, driver.OpenOptions{NoFollow: true})
	if err != nil {
		return nil, driver.Entry{}, err
	}
	return h, h.remote.entry, nil
}

// Open implements driver.FS.
func (f *volumeFS) Open(ctx context.Context, path string, opts driver.OpenOptions) (driver.File, error) {
	h, err := f.openHandle(ctx, path, opts)
	if err != nil {
		return nil, err
	}
	return h, nil
}

// openHandle opens a file and registers the handle, so that Backend.Close closes it.
func (f *volumeFS) openHandle(ctx context.Context, path string, opts driver.OpenOptions) (*handle, error) {
	change := opts.Write || opts.Append || opts.Create || opts.Truncate
	h := &handle{fs: f, path: path, opts: opts}
	if err := f.enter(ctx, change); err != nil {
		return nil, err
	}
	defer f.life.Leave()
	// Opening is not recorded as a change, even if it creates or truncates the file.
	err := f.withRemoteRef(ctx, false, func(ref *remoteRef) (err error) {
		h.remote, err = h.openRemoteHandle(ctx, ref, opts, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := h.life.Begin(&f.b.open, h); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handles[h] = struct{}{}
	return h, nil
}

// openRemoteHandle opens the file through ref. If inode is not 0, the server refuses a file with
// another one: a reopened handle must not act on a file that took the place of the first.
func (h *handle) openRemoteHandle(ctx context.Context, ref *remoteRef, opts driver.OpenOptions, inode uint64) (*remoteHandle, error) {
	q := withParams(url.Values{"path": {h.path}}, "write", formatFlag(opts.Write), "append", formatFlag(opts.Append), "create", formatFlag(opts.Create),
		"exclusive", formatFlag(opts.Exclusive), "truncate", formatFlag(opts.Truncate), "no_follow", formatFlag(opts.NoFollow), "mode", formatModeIfSet(opts.Mode))
	if inode != 0 {
		q.Set("inode", strconv.FormatUint(inode, 10))
	}
	c := call{method: "POST", path: "/filesystems/" + ref.id + "/handles", query: q, server: ref.session.server, keyed: true, repeatable: !opts.Exclusive}
	var out api.Handle
	if err := h.fs.b.sendJSON(ctx, c, nil, &out); err != nil {
		return nil, err
	}
	return &remoteHandle{ref, out.ID, out.Entry.Inode, out.Entry.Driver()}, nil
}

// enter begins an operation, which ends with h.life.Leave, unless the handle is closed or does not
// allow changes. Unlike those of volumeFS, operations pass while Backend.Close closes the handles.
func (h *handle) enter(ctx context.Context, change bool) error {
	if err := h.life.Enter(ctx); err != nil {
		return err
	}
	if change && !h.opts.Write && !h.opts.Append && !h.opts.Create && !h.opts.Truncate {
		h.life.Leave()
		return driver.Errorf(driver.ErrReadOnly, "the file is open for reading")
	}
	return nil
}

// ReadAt implements driver.File.
func (h *handle) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	done := 0
	for {
		part := p[done:min(len(p), done+maxTransfer)]
		n := 0
		err := h.withHandle(ctx, false, func(r *remoteHandle) (err error) {
			q := offsetQuery(off + int64(done))
			q.Set("length", strconv.Itoa(len(part)))
			n, err = h.fs.b.readResponseBytes(ctx, r.newHandleCall("GET", "/data", q), part)
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
func (h *handle) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := h.enter(ctx, true); err != nil {
		return 0, err
	}
	defer h.life.Leave()
	if h.opts.Append {
		return 0, driver.Errorf(driver.ErrInvalid, "the file is open for appending; use Append")
	}
	done := 0
	for {
		part := p[done:min(len(p), done+maxTransfer)]
		body := append([]byte{}, part...) // a copy: net/http may still read it after an error
		if err := h.sendHandleChange(ctx, "PUT", "/data", offsetQuery(off+int64(done)), body); err != nil {
			return done, err
		}
		if done += len(part); done == len(p) {
			return done, nil
		}
	}
}

// sendHandleChange makes a request that changes the file. body may be nil.
func (h *handle) sendHandleChange(ctx context.Context, method, route string, q url.Values, body []byte) error {
	return h.withHandle(ctx, true, func(r *remoteHandle) error {
		c := r.newHandleCall(method, route, q)
		c.keyed, c.body = true, body
		return h.fs.b.sendDiscard(ctx, c)
	})
}

// Append implements driver.File.
func (h *handle) Append(ctx context.Context, p []byte) (int64, error) {
	if len(p) > api.MaxIO {
		return 0, driver.Errorf(driver.ErrInvalid, "%d bytes to append at once; the most is %d", len(p), api.MaxIO)
	}
	var out api.Appended
	err := h.withHandle(ctx, true, func(r *remoteHandle) error {
		c := r.newHandleCall("POST", "/data", nil)
		c.body, c.keyed, c.repeatable = append([]byte{}, p...), true, false
		return h.fs.b.sendJSON(ctx, c, nil, &out)
	})
	return out.Offset, err
}

// Truncate implements driver.File.
func (h *handle) Truncate(ctx context.Context, size int64) error {
	return h.sendHandleChange(ctx, "POST", "/truncate", url.Values{"size": {strconv.FormatInt(size, 10)}}, nil)
}

// PunchHole implements driver.File.
func (h *handle) PunchHole(ctx context.Context, off, length int64) error {
	q := offsetQuery(off)
	q.Set("length", strconv.FormatInt(length, 10))
	return h.sendHandleChange(ctx, "POST", "/punch", q, nil)
}

// NextData implements driver.File.
func (h *handle) NextData(ctx context.Context, off int64) (start, end int64, err error) {
	var out api.Extent
	none := false
	err = h.withHandle(ctx, false, func(r *remoteHandle) error {
		res, err := h.fs.b.sendRetrying(ctx, r.newHandleCall("GET", "/extent", offsetQuery(off)))
		if err != nil {
			return err
		}
		defer drainResponse(res)
		if none = res.StatusCode == http.StatusNoContent; none {
			return nil
		}
		if err := api.Decode(res.Body, &out); err != nil {
			return err
		}
		if out.End <= off {
			return driver.Errorf(driver.ErrCorrupt, "the server's range of data ends at %d, at or before the offset %d", out.End, off)
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
func (h *handle) Stat(ctx context.Context) (driver.Entry, error) {
	var out api.Entry
	err := h.withHandle(ctx, false, func(r *remoteHandle) error { return h.fs.b.sendJSON(ctx, r.newHandleCall("GET", "", nil), nil, &out) })
	if err != nil {
		return driver.Entry{}, err
	}
	e := out.Driver()
	e.Name = pathpkg.Base(h.path)
	return e, nil
}

// Sync implements driver.File.
func (h *handle) Sync(ctx context.Context) error {
	upTo := h.dirty.beginSync()
	if err := h.withHandle(ctx, false, func(r *remoteHandle) error { return h.fs.b.sendDiscard(ctx, r.newHandleCall("POST", "/sync", nil)) }); err != nil {
		return err
	}
	return h.dirty.endSync(upTo)
}

// Close implements driver.File.
func (h *handle) Close() error { return h.life.Close(context.Background()) }

// Finish implements openset.Member. It closes the remote handle, and reports changes that were
// lost. Backend.Close does not fail for a volume that was removed.
func (h *handle) Finish(context.Context) error {
	h.fs.mu.Lock()
	delete(h.fs.handles, h)
	h.fs.mu.Unlock()
	h.mu.Lock()
	c := h.remote.newHandleCall("DELETE", "", nil)
	h.mu.Unlock()
	c.keyed = true // without a key, a retry would find nothing open
	err := h.fs.b.sendClosing(c)
	if errors.Is(err, driver.ErrNotFound) && h.fs.b.isClosed() {
		return nil
	}
	return h.dirty.endClosing(err)
}

// Free implements openset.Member: this process holds nothing of the file.
func (h *handle) Free(context.Context) error { return nil }
