package cloud

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
)

// remote is something that is open at a server: a session, or what lives in one.
type remote interface {
	// ownerSession returns the session whose end is also the end of the remote.
	ownerSession() *session
}

// maxReopens is how many remotes one operation tries before it gives up. One is stale after a
// server died; a second may be, if the next server dies as well.
const maxReopens = 3

// withRemote calls fn with the remote that open returns. It opens another one and calls fn
// again when the server does not know the first any more, or cannot be reached at the address
// that it advertised. It is the only loop that reopens: those for sessions, file systems and
// handles differ in open alone, which is told the remote that failed, at first stale.
//
// fn must be safe to call again after such an error.
func withRemote[R remote](stale R, open func(stale R) (R, error), fn func(R) error) error {
	for range maxReopens {
		current, err := open(stale)
		if err != nil {
			return err
		}
		err = fn(current)
		switch s := current.ownerSession(); {
		case s.isUnreachable(err):
			s.markStale() // the next one is begun wherever the URL of the options leads
		case !errors.Is(err, api.ErrStale):
			return err
		}
		stale = current
	}
	return driver.Errorf(driver.ErrUnavailable, "the server forgets what it has opened for this client at once; try again, or look at the server's log")
}

// remoteRef is a file system that is open at the server, in one session.
type remoteRef struct {
	session *session
	id      string
}

func (r *remoteRef) ownerSession() *session { return r.session }

// callThrough returns the call c as one that acts through the file system ref: the header
// names it, and the request goes to the server that has it. A nil ref leaves c as it is.
func callThrough(ref *remoteRef, c call) call {
	if ref == nil {
		return c
	}
	header := http.Header{}
	for name, values := range c.header {
		header[name] = values
	}
	header.Set(api.HeaderFilesystem, ref.id)
	c.header, c.server = header, ref.session.server
	return c
}

// ensureRemoteRef returns the open file system. It opens another one if there is none yet, if its
// session has ended, or if it is stale, which the server does not know any more.
func (f *volumeFS) ensureRemoteRef(ctx context.Context, stale *remoteRef) (*remoteRef, error) {
	if err := f.life.Enter(ctx); err != nil { // closed since the operation began
		return nil, err
	}
	defer f.life.Leave()
	f.mu.Lock()
	current := f.remote
	f.mu.Unlock()
	if current != nil && current != stale && !current.session.isStale() {
		return current, nil
	}
	query := withParams(url.Values{"volume": {f.volumeID}}, "read_only", formatFlag(f.opts.ReadOnly), "batch", formatFlag(f.opts.Batch), "attachment", f.opts.Attachment)
	var opened *remoteRef
	err := f.b.withSession(ctx, func(s *session) error {
		var out api.Filesystem
		err := f.b.sendJSON(ctx, call{method: "POST", path: "/sessions/" + s.id + "/filesystems", query: query, server: s.server, repeatable: true}, nil, &out)
		opened = &remoteRef{s, out.ID}
		return err
	})
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.remote != current && f.remote != nil {
		return f.remote, nil // another goroutine was quicker; the spare one ends with the session
	}
	// Changes in batch mode that the lost file system had acknowledged may be lost with it.
	f.dirty.markLost()
	f.remote = opened
	return opened, nil
}

// withRemoteRef runs fn with the open file system, reopened if need be. change: fn changes
// something, which a Sync has to make durable in batch mode.
func (f *volumeFS) withRemoteRef(ctx context.Context, change bool, fn func(ref *remoteRef) error) error {
	if err := f.enter(ctx, change); err != nil {
		return err
	}
	defer f.life.Leave()
	open := func(stale *remoteRef) (*remoteRef, error) { return f.ensureRemoteRef(ctx, stale) }
	return f.b.preferErrClosed(ctx, withRemote(nil, open, func(ref *remoteRef) error {
		err := fn(ref)
		if err == nil && change {
			f.recordBatchChange(ref)
		}
		return err
	}))
}

// withRefIfNeeded runs fn, which makes a request by path. Where the volume needs nothing open at
// the server, ref is nil and any server will do.
func (f *volumeFS) withRefIfNeeded(ctx context.Context, change bool, fn func(ref *remoteRef) error) error {
	if !f.stateless {
		return f.withRemoteRef(ctx, change, fn)
	}
	if err := f.enter(ctx, change); err != nil {
		return err
	}
	defer f.life.Leave()
	return f.b.preferErrClosed(ctx, fn(nil))
}

// recordBatchChange notes a change that the server acknowledged through ref. Without batch mode,
// changes by path are durable once acknowledged, and handles keep their own account.
func (f *volumeFS) recordBatchChange(ref *remoteRef) {
	if !f.opts.Batch {
		return
	}
	f.mu.Lock()
	lost := f.remote != ref
	f.mu.Unlock()
	f.dirty.recordChange(lost)
}

// remoteHandle is a file that is open at the server.
type remoteHandle struct {
	ref   *remoteRef
	id    string
	inode uint64       // which must be the same when the file is reopened by its path
	entry driver.Entry // of the file as it was opened
}

func (r *remoteHandle) ownerSession() *session { return r.ref.session }

// newHandleCall returns a call of one of the routes of the handle.
func (r *remoteHandle) newHandleCall(method, route string, query url.Values) call {
	return call{method: method, path: "/handles/" + r.id + route, query: query, server: r.ref.session.server, repeatable: true}
}

// ensureRemoteHandle returns the remote handle. It reopens the file by its path if the session has
// ended, or if the remote is stale, which the server does not know any more. What was written
// and not synced counts as lost then.
func (h *handle) ensureRemoteHandle(ctx context.Context, stale *remoteHandle) (*remoteHandle, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.life.Enter(ctx); err != nil { // closed since the operation began
		return nil, err
	}
	defer h.life.Leave()
	before := h.remote
	if before != stale && !before.ref.session.isStale() {
		return before, nil
	}
	opts := h.opts
	opts.Create, opts.Exclusive, opts.Truncate = false, false, false
	opts.Write = opts.Write || h.opts.Create
	open := func(stale *remoteRef) (*remoteRef, error) { return h.fs.ensureRemoteRef(ctx, stale) }
	var reopened *remoteHandle
	err := withRemote(before.ref, open, func(ref *remoteRef) (err error) {
		reopened, err = h.openRemoteHandle(ctx, ref, opts, before.inode)
		return err
	})
	switch {
	case errors.Is(err, driver.ErrNotExist), errors.Is(err, driver.ErrClosed):
		return nil, driver.Errorf(driver.ErrClosed, "the server ended, and the file is not at its path any more: %v", err)
	case err != nil:
		return nil, err
	}
	h.remote = reopened
	h.dirty.markLost()
	return reopened, nil
}

// withHandle runs fn with the remote handle, reopened if need be. change: fn changes
// something, which a Sync has to make durable.
func (h *handle) withHandle(ctx context.Context, change bool, fn func(r *remoteHandle) error) error {
	if err := h.enter(ctx, change); err != nil {
		return err
	}
	defer h.life.Leave()
	open := func(stale *remoteHandle) (*remoteHandle, error) { return h.ensureRemoteHandle(ctx, stale) }
	return h.fs.b.preferErrClosed(ctx, withRemote(nil, open, func(r *remoteHandle) error {
		err := fn(r)
		if err == nil && change {
			h.recordChange(r)
		}
		return err
	}))
}

// recordChange notes a change that the server acknowledged for r. If the handle was reopened
// since, the server that has the change is lost.
func (h *handle) recordChange(r *remoteHandle) {
	h.mu.Lock()
	lost := h.remote != r
	h.mu.Unlock()
	h.dirty.recordChange(lost)
	h.fs.recordBatchChange(r.ref)
}
