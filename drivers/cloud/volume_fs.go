package cloud

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"net/url"
	pathpkg "path"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/internal/openset"
)

// volumeFS is the files of one open volume.
type volumeFS struct {
	b        *Backend
	volumeID string
	opts     driver.FSOptions
	// stateless: operations by path need nothing open at the server, so any server can serve
	// them. Disk volumes, batch mode and attachments need a remoteRef.
	stateless bool

	dirty dirtyChanges // in batch mode, by path and by handle
	life  openset.Life

	mu      sync.Mutex // guards what follows
	handles map[*handle]struct{}
	remote  *remoteRef // nil: none was needed yet
}

// OpenFS implements driver.Backend.
func (b *Backend) OpenFS(ctx context.Context, id string, opts driver.FSOptions) (driver.FS, error) {
	if err := b.checkOpen(ctx); err != nil {
		return nil, err
	}
	opts.ReadOnly = opts.ReadOnly || b.opts.ReadOnly
	f := &volumeFS{b: b, volumeID: id, opts: opts, handles: map[*handle]struct{}{}}
	info, err := b.Get(ctx, driver.ByID(id))
	if err != nil {
		return nil, err
	}
	f.stateless = info.Kind == driver.KindDir && !opts.Batch && opts.Attachment == ""
	if !f.stateless {
		if _, err := f.ensureRemoteRef(ctx, nil); err != nil {
			return nil, err
		}
	}
	if err := f.life.Begin(&b.open, f); err != nil {
		return nil, err
	}
	return f, nil
}

// enter begins an operation, which ends with f.life.Leave, unless the file system is closed, or
// read-only and change is set.
func (f *volumeFS) enter(ctx context.Context, change bool) error {
	if err := f.b.checkOpen(ctx); err != nil {
		return err
	}
	if err := f.life.Enter(ctx); err != nil {
		return err
	}
	if change && f.opts.ReadOnly {
		f.life.Leave()
		return driver.Errorf(driver.ErrReadOnly, "the volume is open for reading only")
	}
	return nil
}

// getVolumeJSON reads from a route of the volume and decodes the response into out.
func (f *volumeFS) getVolumeJSON(ctx context.Context, route string, q url.Values, out any) error {
	return f.withRefIfNeeded(ctx, false, func(ref *remoteRef) error {
		return f.b.sendJSON(ctx, callThrough(ref, call{method: "GET", path: volumePath(f.volumeID, route), query: q, repeatable: true}), nil, out)
	})
}

// sendVolumeChange makes a request that changes files. c.path is relative to the route of the volume.
func (f *volumeFS) sendVolumeChange(ctx context.Context, c call) error {
	c.path, c.keyed = volumePath(f.volumeID, c.path), true
	return f.withRefIfNeeded(ctx, true, func(ref *remoteRef) error { return f.b.sendDiscard(ctx, callThrough(ref, c)) })
}

func (f *volumeFS) statEntry(ctx context.Context, path string, follow bool) (driver.Entry, error) {
	var out api.Entry
	q := withParams(url.Values{"path": {path}}, "follow", formatFlag(follow))
	if err := f.getVolumeJSON(ctx, "stat", q, &out); err != nil {
		return driver.Entry{}, err
	}
	e := out.Driver()
	e.Name = pathpkg.Base(path) // a hostile server may send another name
	return e, nil
}

func (f *volumeFS) Stat(ctx context.Context, path string) (driver.Entry, error) {
	return f.statEntry(ctx, path, true)
}

func (f *volumeFS) Lstat(ctx context.Context, path string) (driver.Entry, error) {
	return f.statEntry(ctx, path, false)
}

func (f *volumeFS) Readlink(ctx context.Context, path string) (string, error) {
	b, err := f.getVolumeBytesUpTo(ctx, "readlink", url.Values{"path": {path}}, driver.MaxPathLen+1)
	if err == nil && (len(b) == 0 || len(b) > driver.MaxPathLen || bytes.IndexByte(b, 0) >= 0) {
		return "", driver.Errorf(driver.ErrCorrupt, "the server's target of the link is empty, longer than %d bytes, or has a NUL byte", driver.MaxPathLen)
	}
	return string(b), err
}

// getVolumeBytesUpTo returns at most the first most bytes of the response of a route of the
// volume: callers ask for one more than is valid, to see what is too long.
func (f *volumeFS) getVolumeBytesUpTo(ctx context.Context, route string, q url.Values, most int) (b []byte, err error) {
	err = f.withRefIfNeeded(ctx, false, func(ref *remoteRef) error {
		buf := make([]byte, most)
		n, err := f.b.readResponseBytes(ctx, callThrough(ref, call{method: "GET", path: volumePath(f.volumeID, route), query: q, repeatable: true}), buf)
		b = buf[:n]
		return err
	})
	return b, err
}

func (f *volumeFS) Mkdir(ctx context.Context, path string, mode fs.FileMode) error {
	return f.sendVolumeChange(ctx, call{method: "POST", path: "mkdir", query: url.Values{"path": {path}, "mode": {api.FormatMode(mode)}}})
}

func (f *volumeFS) MkdirAll(ctx context.Context, path string, mode fs.FileMode) error {
	q := url.Values{"path": {path}, "parents": {"true"}, "mode": {api.FormatMode(mode)}}
	return f.sendVolumeChange(ctx, call{method: "POST", path: "mkdir", query: q, repeatable: true})
}

func (f *volumeFS) Remove(ctx context.Context, path string) error {
	return f.sendVolumeChange(ctx, call{method: "DELETE", path: "files", query: url.Values{"path": {path}}})
}

func (f *volumeFS) RemoveAll(ctx context.Context, path string) error {
	return f.sendVolumeChange(ctx, call{method: "DELETE", path: "files", query: url.Values{"path": {path}, "recursive": {"true"}}, repeatable: true, longRunning: true})
}

func (f *volumeFS) Rename(ctx context.Context, from, to string, opts driver.RenameOptions) error {
	q := withParams(url.Values{"path": {from}, "to": {to}}, "no_replace", formatFlag(opts.NoReplace))
	return f.sendVolumeChange(ctx, call{method: "POST", path: "rename", query: q})
}

func (f *volumeFS) Copy(ctx context.Context, from, to string, opts driver.CopyOptions) error {
	q := withParams(url.Values{"path": {from}, "to": {to}}, "no_replace", formatFlag(opts.NoReplace))
	return f.sendVolumeChange(ctx, call{method: "POST", path: "copy", query: q, longRunning: true})
}

func (f *volumeFS) Link(ctx context.Context, target, path string) error {
	return f.sendVolumeChange(ctx, call{method: "POST", path: "link", query: url.Values{"path": {path}, "target": {target}}})
}

func (f *volumeFS) Symlink(ctx context.Context, target, path string) error {
	return f.sendVolumeChange(ctx, call{method: "POST", path: "symlink", query: url.Values{"path": {path}, "target": {target}}})
}

func (f *volumeFS) Mknod(ctx context.Context, path string, mode fs.FileMode, rdev uint64) error {
	kind := api.TypeOf(mode)
	if kind == "" {
		return driver.Errorf(driver.ErrInvalid, "mode %v: not the type of a node", mode)
	}
	q := url.Values{"path": {path}, "type": {string(kind)}, "rdev": {strconv.FormatUint(rdev, 10)}, "mode": {api.FormatMode(mode)}}
	return f.sendVolumeChange(ctx, call{method: "POST", path: "mknod", query: q})
}

func (f *volumeFS) Chmod(ctx context.Context, path string, mode fs.FileMode) error {
	return f.sendVolumeChange(ctx, call{method: "POST", path: "chmod", query: url.Values{"path": {path}, "mode": {api.FormatMode(mode)}}, repeatable: true})
}

func (f *volumeFS) Chown(ctx context.Context, path string, uid, gid int) error {
	q := withParams(url.Values{"path": {path}}, "uid", formatFrom(0, uid), "gid", formatFrom(0, gid))
	return f.sendVolumeChange(ctx, call{method: "POST", path: "chown", query: q, repeatable: true})
}

func (f *volumeFS) Chtimes(ctx context.Context, path string, atime, mtime time.Time) error {
	q := withParams(url.Values{"path": {path}}, "atime", formatTime(atime), "mtime", formatTime(mtime))
	return f.sendVolumeChange(ctx, call{method: "POST", path: "chtimes", query: q, repeatable: true})
}

func (f *volumeFS) Truncate(ctx context.Context, path string, size int64) error {
	q := url.Values{"path": {path}, "size": {strconv.FormatInt(size, 10)}}
	return f.sendVolumeChange(ctx, call{method: "POST", path: "truncate", query: q, repeatable: true})
}

func (f *volumeFS) Getxattr(ctx context.Context, path, name string) ([]byte, error) {
	value, err := f.getVolumeBytesUpTo(ctx, "xattr", url.Values{"path": {path}, "name": {name}}, driver.MaxXattrLen+1)
	if err == nil && len(value) > driver.MaxXattrLen {
		return nil, driver.Errorf(driver.ErrCorrupt, "the server's value of the attribute is longer than %d bytes", driver.MaxXattrLen)
	}
	return value, err
}

func (f *volumeFS) Setxattr(ctx context.Context, path, name string, value []byte) error {
	return f.sendVolumeChange(ctx, call{method: "PUT", path: "xattr", query: url.Values{"path": {path}, "name": {name}}, body: append([]byte{}, value...), repeatable: true})
}

func (f *volumeFS) Removexattr(ctx context.Context, path, name string) error {
	return f.sendVolumeChange(ctx, call{method: "DELETE", path: "xattr", query: url.Values{"path": {path}, "name": {name}}})
}

func (f *volumeFS) Listxattr(ctx context.Context, path string) ([]string, error) {
	var out api.XattrNames
	err := f.getVolumeJSON(ctx, "xattrs", url.Values{"path": {path}}, &out)
	return out.Names, err
}

func (f *volumeFS) Statfs(ctx context.Context) (driver.Statfs, error) {
	var out api.Usage
	err := f.getVolumeJSON(ctx, "usage", nil, &out)
	return out.Driver(), err
}

// Sync implements driver.FS.
func (f *volumeFS) Sync(ctx context.Context) error {
	if err := f.enter(ctx, false); err != nil {
		return err
	}
	defer f.life.Leave()
	if f.opts.ReadOnly {
		return nil
	}
	if f.stateless {
		return f.syncHandlesAndCheckVolume(ctx)
	}
	upTo := f.dirty.beginSync()
	err := f.withRefIfNeeded(ctx, false, func(ref *remoteRef) error {
		return f.b.sendDiscard(ctx, callThrough(ref, call{method: "POST", path: volumePath(f.volumeID, "sync"), repeatable: true, longRunning: true}))
	})
	if err != nil {
		return err
	}
	return f.dirty.endSync(upTo)
}

// syncHandlesAndCheckVolume syncs the dirty handles of the volume, and fails if that has been
// removed. Changes by path are durable already.
func (f *volumeFS) syncHandlesAndCheckVolume(ctx context.Context) error {
	f.mu.Lock()
	list := slices.Collect(maps.Keys(f.handles))
	f.mu.Unlock()
	for _, h := range list {
		if !h.dirty.isDirty() {
			continue
		}
		if err := h.Sync(ctx); err != nil && !errors.Is(err, driver.ErrClosed) {
			return err
		}
	}
	// Report a volume that was removed.
	_, err := f.b.Get(ctx, driver.ByID(f.volumeID))
	return err
}

// Close implements driver.FS.
func (f *volumeFS) Close() error { return f.life.Close(context.Background()) }

// Free implements openset.Member: this process holds nothing of the volume.
func (f *volumeFS) Free(context.Context) error { return nil }

// Finish implements openset.Member. It closes the remote file system, and reports changes in batch
// mode that were lost.
func (f *volumeFS) Finish(context.Context) error {
	f.mu.Lock()
	ref := f.remote
	f.mu.Unlock()
	if ref == nil || f.b.isClosed() { // Backend.Close ends the session, and the file system with it
		return nil
	}
	err := f.b.sendClosing(call{method: "DELETE", path: "/filesystems/" + ref.id, server: ref.session.server, repeatable: true, keyed: true, longRunning: true})
	return f.dirty.endClosing(err)
}
