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

// fileSystem is a volume's files, open at the server.
type fileSystem struct {
	b    *Backend
	vol  string
	opts driver.FSOptions
	// plain: nothing needs to be open at the server, so any server will do.
	plain bool

	unsynced ledger // changes in batch mode, by path and by handle

	mu     sync.Mutex // guards what follows
	closed bool
	at     *place
}

// place is where a file system is open: at one server, in one session.
type place struct {
	s  *session
	id string
}

// OpenFS implements driver.Backend.
func (b *Backend) OpenFS(ctx context.Context, id string, opts driver.FSOptions) (driver.FS, error) {
	if err := b.usable(ctx); err != nil {
		return nil, err
	}
	opts.ReadOnly = opts.ReadOnly || b.opts.ReadOnly
	f := &fileSystem{b: b, vol: id, opts: opts}
	info, err := b.Get(ctx, driver.ByID(id))
	if err != nil {
		return nil, err
	}
	f.plain = info.Kind == driver.KindDir && !opts.Batch && opts.Attachment == ""
	if !f.plain {
		if _, err := f.place(ctx, nil); err != nil {
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

// place returns where the file system is open, which is anew if that is not known or
// was old, which the server has lost.
func (f *fileSystem) place(ctx context.Context, old *place) (*place, error) {
	f.mu.Lock()
	at, closed := f.at, f.closed
	f.mu.Unlock()
	if closed {
		return nil, driver.ErrClosed
	}
	if at != nil && at != old && !at.s.lost() {
		return at, nil
	}
	q := url.Values{"volume": {f.vol}}
	setFlags(q, map[string]bool{"read_only": f.opts.ReadOnly, "batch": f.opts.Batch})
	if f.opts.Attachment != "" {
		q.Set("attachment", f.opts.Attachment)
	}
	var now *place
	err := f.b.inSession(ctx, func(s *session) error {
		var out api.Filesystem
		err := f.b.json(ctx, call{method: "POST", path: "/sessions/" + s.id + "/filesystems", query: q, at: s.base, again: true}, nil, &out)
		now = &place{s, out.ID}
		return err
	})
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at != at && f.at != nil {
		return f.at, nil // another was quicker; the spare one ends with the session
	}
	f.unsynced.lose()
	f.at = now
	return now, nil
}

func setFlags(q url.Values, flags map[string]bool) {
	for name, on := range flags {
		if on {
			q.Set(name, "true")
		}
	}
}

// in runs fn, a request through the open file system; when the server has lost that, again
// through a new one.
func (f *fileSystem) in(ctx context.Context, change bool, fn func(p *place) error) error {
	err := f.through(ctx, change, fn)
	if err != nil && f.b.usable(ctx) == driver.ErrClosed {
		return driver.ErrClosed // what it needs was closed under it
	}
	return err
}

func (f *fileSystem) through(ctx context.Context, change bool, fn func(p *place) error) error {
	if err := f.usable(ctx, change); err != nil {
		return err
	}
	if f.plain {
		return fn(nil)
	}
	return f.placed(ctx, func(p *place) error {
		err := fn(p)
		if err == nil && change {
			f.ack(p)
		}
		return err
	})
}

// ack notes a change that the server acknowledged where the file system was open.
func (f *fileSystem) ack(p *place) {
	if !f.opts.Batch {
		return // changes by path are durable, files keep their own account
	}
	f.mu.Lock()
	gone := f.at != p
	f.mu.Unlock()
	f.unsynced.ack(gone)
}

// placed runs fn where the file system is open.
func (f *fileSystem) placed(ctx context.Context, fn func(p *place) error) error {
	var old *place
	for range 3 {
		p, err := f.place(ctx, old)
		if err != nil {
			return err
		}
		err = fn(p)
		if !errors.Is(err, errLost) && !f.b.astray(p.s, err) {
			return err
		}
		if f.b.astray(p.s, err) {
			p.s.lose()
		}
		old = p
	}
	return driver.Errorf(driver.ErrUnavailable, "the server loses what was opened as soon as it is open")
}

func (f *fileSystem) usable(ctx context.Context, change bool) error {
	if err := f.b.usable(ctx); err != nil {
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

func through(p *place, c call) call {
	if p == nil {
		return c
	}
	h := http.Header{}
	for k, v := range c.header {
		h[k] = v
	}
	h.Set(api.HeaderFilesystem, p.id)
	c.header, c.at = h, p.s.base
	return c
}

// get makes a request that changes nothing and decodes its answer.
func (f *fileSystem) get(ctx context.Context, route string, q url.Values, out any) error {
	return f.in(ctx, false, func(p *place) error {
		return f.b.json(ctx, through(p, call{method: "GET", path: at(f.vol, route), query: q, again: true}), nil, out)
	})
}

// change makes a request that changes something.
func (f *fileSystem) change(ctx context.Context, c call) error {
	c.path, c.once = at(f.vol, c.path), true
	return f.in(ctx, true, func(p *place) error { return f.b.do(ctx, through(p, c)) })
}

func (f *fileSystem) stat(ctx context.Context, path string, follow bool) (driver.Entry, error) {
	var out api.Entry
	q := url.Values{"path": {path}}
	setFlags(q, map[string]bool{"follow": follow})
	if err := f.get(ctx, "stat", q, &out); err != nil {
		return driver.Entry{}, err
	}
	e := out.Driver()
	e.Name = pathpkg.Base(path) // as it was asked for, whatever the server calls it
	return e, nil
}

func (f *fileSystem) Stat(ctx context.Context, path string) (driver.Entry, error) {
	return f.stat(ctx, path, true)
}

func (f *fileSystem) Lstat(ctx context.Context, path string) (driver.Entry, error) {
	return f.stat(ctx, path, false)
}

func (f *fileSystem) Readlink(ctx context.Context, path string) (string, error) {
	b, err := f.bytes(ctx, "readlink", url.Values{"path": {path}}, driver.MaxPathLen+1)
	if err == nil && (len(b) == 0 || len(b) > driver.MaxPathLen || bytes.IndexByte(b, 0) >= 0) {
		return "", driver.Errorf(driver.ErrCorrupt, "the server's target of the link is empty, longer than %d bytes, or has a NUL byte", driver.MaxPathLen)
	}
	return string(b), err
}

// bytes makes a request whose answer is a few bytes.
func (f *fileSystem) bytes(ctx context.Context, route string, q url.Values, most int) (b []byte, err error) {
	err = f.in(ctx, false, func(p *place) error {
		buf := make([]byte, most)
		n, err := f.b.bytes(ctx, through(p, call{method: "GET", path: at(f.vol, route), query: q, again: true}), buf)
		b = buf[:n]
		return err
	})
	return b, err
}

func modeParam(q url.Values, mode fs.FileMode) url.Values {
	q.Set("mode", api.FormatMode(mode))
	return q
}

func (f *fileSystem) Mkdir(ctx context.Context, path string, mode fs.FileMode) error {
	return f.change(ctx, call{method: "POST", path: "mkdir", query: modeParam(url.Values{"path": {path}}, mode)})
}

func (f *fileSystem) MkdirAll(ctx context.Context, path string, mode fs.FileMode) error {
	q := modeParam(url.Values{"path": {path}, "parents": {"true"}}, mode)
	return f.change(ctx, call{method: "POST", path: "mkdir", query: q, again: true})
}

func (f *fileSystem) Remove(ctx context.Context, path string) error {
	return f.change(ctx, call{method: "DELETE", path: "files", query: url.Values{"path": {path}}})
}

func (f *fileSystem) RemoveAll(ctx context.Context, path string) error {
	return f.change(ctx, call{method: "DELETE", path: "files", query: url.Values{"path": {path}, "recursive": {"true"}}, again: true, slow: true})
}

func (f *fileSystem) Rename(ctx context.Context, from, to string, opts driver.RenameOptions) error {
	q := url.Values{"path": {from}, "to": {to}}
	setFlags(q, map[string]bool{"no_replace": opts.NoReplace})
	return f.change(ctx, call{method: "POST", path: "rename", query: q})
}

func (f *fileSystem) Copy(ctx context.Context, from, to string, opts driver.CopyOptions) error {
	q := url.Values{"path": {from}, "to": {to}}
	setFlags(q, map[string]bool{"no_replace": opts.NoReplace})
	return f.change(ctx, call{method: "POST", path: "copy", query: q, slow: true})
}

func (f *fileSystem) Link(ctx context.Context, target, path string) error {
	return f.change(ctx, call{method: "POST", path: "link", query: url.Values{"path": {path}, "target": {target}}})
}

func (f *fileSystem) Symlink(ctx context.Context, target, path string) error {
	return f.change(ctx, call{method: "POST", path: "symlink", query: url.Values{"path": {path}, "target": {target}}})
}

func (f *fileSystem) Mknod(ctx context.Context, path string, mode fs.FileMode, rdev uint64) error {
	kind := api.TypeOf(mode)
	if kind == "" {
		return driver.Errorf(driver.ErrInvalid, "mode %v: not the type of a node", mode)
	}
	q := modeParam(url.Values{"path": {path}, "type": {string(kind)}, "rdev": {strconv.FormatUint(rdev, 10)}}, mode)
	return f.change(ctx, call{method: "POST", path: "mknod", query: q})
}

func (f *fileSystem) Chmod(ctx context.Context, path string, mode fs.FileMode) error {
	return f.change(ctx, call{method: "POST", path: "chmod", query: modeParam(url.Values{"path": {path}}, mode), again: true})
}

func (f *fileSystem) Chown(ctx context.Context, path string, uid, gid int) error {
	q := url.Values{"path": {path}}
	if uid >= 0 {
		q.Set("uid", strconv.Itoa(uid))
	}
	if gid >= 0 {
		q.Set("gid", strconv.Itoa(gid))
	}
	return f.change(ctx, call{method: "POST", path: "chown", query: q, again: true})
}

func (f *fileSystem) Chtimes(ctx context.Context, path string, atime, mtime time.Time) error {
	q := url.Values{"path": {path}}
	for name, t := range map[string]time.Time{"atime": atime, "mtime": mtime} {
		if !t.IsZero() {
			q.Set(name, t.UTC().Format(time.RFC3339Nano))
		}
	}
	return f.change(ctx, call{method: "POST", path: "chtimes", query: q, again: true})
}

func (f *fileSystem) Truncate(ctx context.Context, path string, size int64) error {
	q := url.Values{"path": {path}, "size": {strconv.FormatInt(size, 10)}}
	return f.change(ctx, call{method: "POST", path: "truncate", query: q, again: true})
}

func (f *fileSystem) Getxattr(ctx context.Context, path, name string) ([]byte, error) {
	return f.bytes(ctx, "xattr", url.Values{"path": {path}, "name": {name}}, driver.MaxXattrLen)
}

func (f *fileSystem) Setxattr(ctx context.Context, path, name string, value []byte) error {
	return f.change(ctx, call{method: "PUT", path: "xattr", query: url.Values{"path": {path}, "name": {name}}, body: append([]byte{}, value...), again: true})
}

func (f *fileSystem) Removexattr(ctx context.Context, path, name string) error {
	return f.change(ctx, call{method: "DELETE", path: "xattr", query: url.Values{"path": {path}, "name": {name}}})
}

func (f *fileSystem) Listxattr(ctx context.Context, path string) ([]string, error) {
	var out api.XattrNames
	err := f.get(ctx, "xattrs", url.Values{"path": {path}}, &out)
	return out.Names, err
}

func (f *fileSystem) Statfs(ctx context.Context) (driver.Statfs, error) {
	var out api.Usage
	err := f.get(ctx, "usage", nil, &out)
	return out.Driver(), err
}

// Sync implements driver.FS.
func (f *fileSystem) Sync(ctx context.Context) error {
	if err := f.usable(ctx, false); err != nil {
		return err
	}
	if f.opts.ReadOnly {
		return nil
	}
	if f.plain {
		return f.syncFiles(ctx)
	}
	upTo := f.unsynced.begin()
	err := f.in(ctx, false, func(p *place) error {
		return f.b.do(ctx, through(p, call{method: "POST", path: at(f.vol, "sync"), again: true, slow: true}))
	})
	if err != nil {
		return err
	}
	return f.unsynced.saved(upTo)
}

// syncFiles makes durable what was written to files that are open.
func (f *fileSystem) syncFiles(ctx context.Context) error {
	var list []*file
	f.b.mu.Lock()
	for x := range f.b.files {
		if x.f == f {
			list = append(list, x)
		}
	}
	f.b.mu.Unlock()
	for _, x := range list {
		if !x.unsynced.pending() {
			continue
		}
		if err := x.Sync(ctx); err != nil && !errors.Is(err, driver.ErrClosed) {
			return err
		}
	}
	// A volume that is gone says so.
	_, err := f.b.Get(ctx, driver.ByID(f.vol))
	return err
}

// Close implements driver.FS.
func (f *fileSystem) Close() error {
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
	p := f.at
	f.mu.Unlock()
	if ended || p == nil {
		return nil
	}
	err := f.b.doClosing(call{method: "DELETE", path: "/filesystems/" + p.id, at: p.s.base, again: true, once: true, slow: true})
	if errors.Is(err, errLost) {
		err = nil
		f.unsynced.lose()
	}
	if err != nil {
		return err
	}
	return f.unsynced.saved(0)
}
