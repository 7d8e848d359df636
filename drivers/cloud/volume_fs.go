package cloud

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	pathpkg "path"
	"strconv"
	"sync"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
)

// volumeFS is a volume's files, open at the server.
type volumeFS struct {
	b        *Backend
	volumeID string
	opts     driver.FSOptions
	// stateless: nothing needs to be open at the server, so any server will do.
	stateless bool

	dirty dirtyChanges // changes in batch mode, by path and by handle

	mu     sync.Mutex // guards what follows
	closed bool
	remote *remoteRef
}

// remoteRef is where a file system is open: at one server, in one session.
type remoteRef struct {
	session *session
	id      string
}

// OpenFS implements driver.Backend.
func (b *Backend) OpenFS(ctx context.Context, id string, opts driver.FSOptions) (driver.FS, error) {
	if err := b.checkOpen(ctx); err != nil {
		return nil, err
	}
	opts.ReadOnly = opts.ReadOnly || b.opts.ReadOnly
	f := &volumeFS{b: b, volumeID: id, opts: opts}
	info, err := b.Get(ctx, driver.ByID(id))
	if err != nil {
		return nil, err
	}
	f.stateless = info.Kind == driver.KindDir && !opts.Batch && opts.Attachment == ""
	if !f.stateless {
		if _, err := f.currentRef(ctx, nil); err != nil {
			return nil, err
		}
	}
	b.mu.Lock()
	closed := b.closed
	if !closed {
		b.open[f] = struct{}{}
	}
	b.mu.Unlock()
	if closed {
		return nil, driver.ErrClosed
	}
	return f, nil
}

// currentRef returns where the file system is open, which is anew if that is not known or
// was old, which the server has lost.
func (f *volumeFS) currentRef(ctx context.Context, old *remoteRef) (*remoteRef, error) {
	f.mu.Lock()
	at, closed := f.remote, f.closed
	f.mu.Unlock()
	if closed {
		return nil, driver.ErrClosed
	}
	if at != nil && at != old && !at.session.isStale() {
		return at, nil
	}
	q := url.Values{"volume": {f.volumeID}}
	setBoolParams(q, map[string]bool{"read_only": f.opts.ReadOnly, "batch": f.opts.Batch})
	if f.opts.Attachment != "" {
		q.Set("attachment", f.opts.Attachment)
	}
	var now *remoteRef
	err := f.b.withSession(ctx, func(s *session) error {
		var out api.Filesystem
		err := f.b.sendJSON(ctx, call{method: "POST", path: "/sessions/" + s.id + "/filesystems", query: q, server: s.server, repeatable: true}, nil, &out)
		now = &remoteRef{s, out.ID}
		return err
	})
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.remote != at && f.remote != nil {
		return f.remote, nil // another was quicker; the spare one ends with the session
	}
	f.dirty.markLost()
	f.remote = now
	return now, nil
}

func setBoolParams(q url.Values, flags map[string]bool) {
	for name, on := range flags {
		if on {
			q.Set(name, "true")
		}
	}
}

// withRoute runs fn, a request through the open file system; when the server has lost that, again
// through a new one.
func (f *volumeFS) withRoute(ctx context.Context, change bool, fn func(p *remoteRef) error) error {
	err := f.retryRoute(ctx, change, fn)
	if err != nil && f.b.checkOpen(ctx) == driver.ErrClosed {
		return driver.ErrClosed // what it needs was closed under it
	}
	return err
}

func (f *volumeFS) retryRoute(ctx context.Context, change bool, fn func(p *remoteRef) error) error {
	if err := f.checkUsable(ctx, change); err != nil {
		return err
	}
	if f.stateless {
		return fn(nil)
	}
	return f.withRef(ctx, func(p *remoteRef) error {
		err := fn(p)
		if err == nil && change {
			f.recordChange(p)
		}
		return err
	})
}

// recordChange notes a change that the server acknowledged where the file system was open.
func (f *volumeFS) recordChange(p *remoteRef) {
	if !f.opts.Batch {
		return // changes by path are durable, files keep their own account
	}
	f.mu.Lock()
	gone := f.remote != p
	f.mu.Unlock()
	f.dirty.recordChange(gone)
}

// withRef runs fn where the file system is open.
func (f *volumeFS) withRef(ctx context.Context, fn func(p *remoteRef) error) error {
	var old *remoteRef
	for range 3 {
		p, err := f.currentRef(ctx, old)
		if err != nil {
			return err
		}
		err = fn(p)
		if !errors.Is(err, api.ErrStale) && !f.b.isUnreachable(p.session, err) {
			return err
		}
		if f.b.isUnreachable(p.session, err) {
			p.session.markStale()
		}
		old = p
	}
	return driver.Errorf(driver.ErrUnavailable, "the server loses what was opened as soon as it is open")
}

func (f *volumeFS) checkUsable(ctx context.Context, change bool) error {
	if err := f.b.checkOpen(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	closed := f.closed
	f.mu.Unlock()
	switch {
	case closed:
		return driver.ErrClosed
	case change && f.opts.ReadOnly:
		return driver.Errorf(driver.ErrReadOnly, "the volume is open for reading only")
	}
	return nil
}

func callThrough(p *remoteRef, c call) call {
	if p == nil {
		return c
	}
	h := http.Header{}
	for k, v := range c.header {
		h[k] = v
	}
	h.Set(api.HeaderFilesystem, p.id)
	c.header, c.server = h, p.session.server
	return c
}

// getJSON makes a request that changes nothing and decodes its answer.
func (f *volumeFS) getJSON(ctx context.Context, route string, q url.Values, out any) error {
	return f.withRoute(ctx, false, func(p *remoteRef) error {
		return f.b.sendJSON(ctx, callThrough(p, call{method: "GET", path: volumePath(f.volumeID, route), query: q, repeatable: true}), nil, out)
	})
}

// sendChange makes a request that changes something.
func (f *volumeFS) sendChange(ctx context.Context, c call) error {
	c.path, c.keyed = volumePath(f.volumeID, c.path), true
	return f.withRoute(ctx, true, func(p *remoteRef) error { return f.b.sendDiscard(ctx, callThrough(p, c)) })
}

func (f *volumeFS) statEntry(ctx context.Context, path string, follow bool) (driver.Entry, error) {
	var out api.Entry
	q := url.Values{"path": {path}}
	setBoolParams(q, map[string]bool{"follow": follow})
	if err := f.getJSON(ctx, "stat", q, &out); err != nil {
		return driver.Entry{}, err
	}
	e := out.Driver()
	e.Name = pathpkg.Base(path) // as it was asked for, whatever the server calls it
	return e, nil
}

func (f *volumeFS) Stat(ctx context.Context, path string) (driver.Entry, error) {
	return f.statEntry(ctx, path, true)
}

func (f *volumeFS) Lstat(ctx context.Context, path string) (driver.Entry, error) {
	return f.statEntry(ctx, path, false)
}

func (f *volumeFS) Readlink(ctx context.Context, path string) (string, error) {
	b, err := f.getBytes(ctx, "readlink", url.Values{"path": {path}}, driver.MaxPathLen+1)
	if err == nil && (len(b) == 0 || len(b) > driver.MaxPathLen || bytes.IndexByte(b, 0) >= 0) {
		return "", driver.Errorf(driver.ErrCorrupt, "the server's target of the link is empty, longer than %d bytes, or has a NUL byte", driver.MaxPathLen)
	}
	return string(b), err
}

// getBytes makes a request whose answer is a few bytes.
func (f *volumeFS) getBytes(ctx context.Context, route string, q url.Values, most int) (b []byte, err error) {
	err = f.withRoute(ctx, false, func(p *remoteRef) error {
		buf := make([]byte, most)
		n, err := f.b.readBytes(ctx, callThrough(p, call{method: "GET", path: volumePath(f.volumeID, route), query: q, repeatable: true}), buf)
		b = buf[:n]
		return err
	})
	return b, err
}

func setModeParam(q url.Values, mode fs.FileMode) url.Values {
	q.Set("mode", api.FormatMode(mode))
	return q
}

func (f *volumeFS) Mkdir(ctx context.Context, path string, mode fs.FileMode) error {
	return f.sendChange(ctx, call{method: "POST", path: "mkdir", query: setModeParam(url.Values{"path": {path}}, mode)})
}

func (f *volumeFS) MkdirAll(ctx context.Context, path string, mode fs.FileMode) error {
	q := setModeParam(url.Values{"path": {path}, "parents": {"true"}}, mode)
	return f.sendChange(ctx, call{method: "POST", path: "mkdir", query: q, repeatable: true})
}

func (f *volumeFS) Remove(ctx context.Context, path string) error {
	return f.sendChange(ctx, call{method: "DELETE", path: "files", query: url.Values{"path": {path}}})
}

func (f *volumeFS) RemoveAll(ctx context.Context, path string) error {
	return f.sendChange(ctx, call{method: "DELETE", path: "files", query: url.Values{"path": {path}, "recursive": {"true"}}, repeatable: true, longRunning: true})
}

func (f *volumeFS) Rename(ctx context.Context, from, to string, opts driver.RenameOptions) error {
	q := url.Values{"path": {from}, "to": {to}}
	setBoolParams(q, map[string]bool{"no_replace": opts.NoReplace})
	return f.sendChange(ctx, call{method: "POST", path: "rename", query: q})
}

func (f *volumeFS) Copy(ctx context.Context, from, to string, opts driver.CopyOptions) error {
	q := url.Values{"path": {from}, "to": {to}}
	setBoolParams(q, map[string]bool{"no_replace": opts.NoReplace})
	return f.sendChange(ctx, call{method: "POST", path: "copy", query: q, longRunning: true})
}

func (f *volumeFS) Link(ctx context.Context, target, path string) error {
	return f.sendChange(ctx, call{method: "POST", path: "link", query: url.Values{"path": {path}, "target": {target}}})
}

func (f *volumeFS) Symlink(ctx context.Context, target, path string) error {
	return f.sendChange(ctx, call{method: "POST", path: "symlink", query: url.Values{"path": {path}, "target": {target}}})
}

func (f *volumeFS) Mknod(ctx context.Context, path string, mode fs.FileMode, rdev uint64) error {
	kind := api.TypeOf(mode)
	if kind == "" {
		return driver.Errorf(driver.ErrInvalid, "mode %v: not the type of a node", mode)
	}
	q := setModeParam(url.Values{"path": {path}, "type": {string(kind)}, "rdev": {strconv.FormatUint(rdev, 10)}}, mode)
	return f.sendChange(ctx, call{method: "POST", path: "mknod", query: q})
}

func (f *volumeFS) Chmod(ctx context.Context, path string, mode fs.FileMode) error {
	return f.sendChange(ctx, call{method: "POST", path: "chmod", query: setModeParam(url.Values{"path": {path}}, mode), repeatable: true})
}

func (f *volumeFS) Chown(ctx context.Context, path string, uid, gid int) error {
	q := url.Values{"path": {path}}
	if uid >= 0 {
		q.Set("uid", strconv.Itoa(uid))
	}
	if gid >= 0 {
		q.Set("gid", strconv.Itoa(gid))
	}
	return f.sendChange(ctx, call{method: "POST", path: "chown", query: q, repeatable: true})
}

func (f *volumeFS) Chtimes(ctx context.Context, path string, atime, mtime time.Time) error {
	q := url.Values{"path": {path}}
	for name, t := range map[string]time.Time{"atime": atime, "mtime": mtime} {
		if !t.IsZero() {
			q.Set(name, t.UTC().Format(time.RFC3339Nano))
		}
	}
	return f.sendChange(ctx, call{method: "POST", path: "chtimes", query: q, repeatable: true})
}

func (f *volumeFS) Truncate(ctx context.Context, path string, size int64) error {
	q := url.Values{"path": {path}, "size": {strconv.FormatInt(size, 10)}}
	return f.sendChange(ctx, call{method: "POST", path: "truncate", query: q, repeatable: true})
}

func (f *volumeFS) Getxattr(ctx context.Context, path, name string) ([]byte, error) {
	return f.getBytes(ctx, "xattr", url.Values{"path": {path}, "name": {name}}, driver.MaxXattrLen)
}

func (f *volumeFS) Setxattr(ctx context.Context, path, name string, value []byte) error {
	return f.sendChange(ctx, call{method: "PUT", path: "xattr", query: url.Values{"path": {path}, "name": {name}}, body: append([]byte{}, value...), repeatable: true})
}

func (f *volumeFS) Removexattr(ctx context.Context, path, name string) error {
	return f.sendChange(ctx, call{method: "DELETE", path: "xattr", query: url.Values{"path": {path}, "name": {name}}})
}

func (f *volumeFS) Listxattr(ctx context.Context, path string) ([]string, error) {
	var out api.XattrNames
	err := f.getJSON(ctx, "xattrs", url.Values{"path": {path}}, &out)
	return out.Names, err
}

func (f *volumeFS) Statfs(ctx context.Context) (driver.Statfs, error) {
	var out api.Usage
	err := f.getJSON(ctx, "usage", nil, &out)
	return out.Driver(), err
}

// Sync implements driver.FS.
func (f *volumeFS) Sync(ctx context.Context) error {
	if err := f.checkUsable(ctx, false); err != nil {
		return err
	}
	if f.opts.ReadOnly {
		return nil
	}
	if f.stateless {
		return f.syncHandles(ctx)
	}
	upTo := f.dirty.beginSync()
	err := f.withRoute(ctx, false, func(p *remoteRef) error {
		return f.b.sendDiscard(ctx, callThrough(p, call{method: "POST", path: volumePath(f.volumeID, "sync"), repeatable: true, longRunning: true}))
	})
	if err != nil {
		return err
	}
	return f.dirty.endSync(upTo)
}

// syncHandles makes durable what was written to files that are open.
func (f *volumeFS) syncHandles(ctx context.Context) error {
	var list []*handle
	f.b.mu.Lock()
	for x := range f.b.handles {
		if x.fs == f {
			list = append(list, x)
		}
	}
	f.b.mu.Unlock()
	for _, x := range list {
		if !x.dirty.isDirty() {
			continue
		}
		if err := x.Sync(ctx); err != nil && !errors.Is(err, driver.ErrClosed) {
			return err
		}
	}
	// A volume that is gone says so.
	_, err := f.b.Get(ctx, driver.ByID(f.volumeID))
	return err
}

// Close implements driver.FS.
func (f *volumeFS) Close() error {
	f.b.mu.Lock()
	ended := f.b.closed
	delete(f.b.open, f)
	f.b.mu.Unlock()
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	f.closed = true
	p := f.remote
	f.mu.Unlock()
	if ended || p == nil {
		return nil
	}
	err := f.b.sendClosing(call{method: "DELETE", path: "/filesystems/" + p.id, server: p.session.server, repeatable: true, keyed: true, longRunning: true})
	if errors.Is(err, api.ErrStale) {
		err = nil
		f.dirty.markLost()
	}
	if err != nil {
		return err
	}
	return f.dirty.endSync(0)
}
