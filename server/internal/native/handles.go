package native

import (
	"cmp"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"sync"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/core"
)

func (a *API) handleRoutes() []*core.Route {
	const h = api.Prefix + "/handles/{handle}"
	open := changeRoute("POST", api.Prefix+"/filesystems/{filesystem}/handles", "openFile", readScope, a.openFile)
	open.Changes = false
	appendTo := changeRoute("POST", h+"/data", "appendHandle", writeScope, a.appendHandle)
	appendTo.MaxBody, appendTo.OwnsBuffer, appendTo.Changes = api.MaxIO, true, false
	list := []*core.Route{
		open, appendTo,
		readRoute(h, "statHandle", readScope, a.statHandle),
		readRoute(h+"/data", "readHandle", readScope, a.readHandle),
		readRoute(h+"/extent", "nextData", readScope, a.nextData),
		{Method: "DELETE", Path: h, Name: "closeHandle", Scope: readScope, Stream: true, Idempotent: true, Handle: a.closeHandle},
		{Method: "PUT", Path: h + "/data", Name: "writeHandle", Scope: writeScope, Idempotent: true, MaxBody: api.MaxIO, OwnsBuffer: true, Handle: a.writeHandle},
		{Method: "POST", Path: h + "/truncate", Name: "truncateHandle", Scope: writeScope, Idempotent: true, Handle: a.truncateHandle},
		{Method: "POST", Path: h + "/punch", Name: "punchHole", Scope: writeScope, Idempotent: true, Handle: a.punchHole},
		{Method: "POST", Path: h + "/sync", Name: "syncHandle", Scope: readScope, Stream: true, Handle: a.syncHandle},
	}
	return list
}

func (a *API) openFile(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path := q.Required("path")
	perm, err := queryMode(q, 0)
	opts := vole.OpenOptions{Write: q.Bool("write"), Append: q.Bool("append"), Create: q.Bool("create"), Exclusive: q.Bool("exclusive"),
		Truncate: q.Bool("truncate"), NoFollow: q.Bool("no_follow"), Mode: perm}
	inode := q.String("inode")
	if err := errors.Join(err, q.Err()); err != nil {
		return err
	}
	if inode != "" && (opts.Create || opts.Exclusive || opts.Truncate) {
		return driver.Errorf(vole.ErrInvalid, "inode is for opening a file again; leave out create, exclusive and truncate, which act before it is compared")
	}
	changes := opts.Write || opts.Append || opts.Create || opts.Truncate
	if changes && !r.Caller.Scopes.Has(writeScope) {
		return core.NeedsScope(writeScope)
	}
	f, err := a.findFilesystem(r, r.PathValue("filesystem"))
	if err != nil {
		return err
	}
	// What is written by handle is not recorded piece by piece, but that it can be is.
	r.Changes, r.Audit.Path = changes, path
	file, err := f.fs.Open(r.Context(), path, opts)
	if err != nil {
		return err
	}
	e, err := file.Stat(r.Context())
	if err == nil && inode != "" && inode != strconv.FormatUint(e.Inode, 10) {
		err = driver.Errorf(vole.ErrClosed, "%s is another file by now", path)
	}
	h := &sessionHandle{id: core.NewToken(), session: f.session, volume: f.volume, name: f.name, file: file}
	if err == nil {
		err = a.registerOpen(f.session, func() { a.handles[h.id] = h })
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	return core.WriteJSON(w, http.StatusCreated, api.Handle{ID: h.id, Entry: api.FromEntry(e)})
}

// findHandle returns a file that the caller has open.
func (a *API) findHandle(r *core.Request) (*sessionHandle, error) {
	a.mu.Lock()
	h := a.handles[r.PathValue("handle")]
	a.mu.Unlock()
	if h == nil || !h.session.ownedBy(r) {
		return nil, errNoSession
	}
	return h, r.CheckVisible(h.volume, h.name)
}

// withHandle checks the query and runs fn on the open file.
func (a *API) withHandle(r *core.Request, q *core.Query, fn func(f *vole.File) error) error {
	if err := q.Err(); err != nil {
		return err
	}
	h, err := a.findHandle(r)
	if err != nil {
		return err
	}
	return fn(h.file)
}

func (a *API) statHandle(w http.ResponseWriter, r *core.Request) error {
	return a.withHandle(r, r.Query(), func(f *vole.File) error {
		e, err := f.Stat(r.Context())
		if err != nil {
			return err
		}
		return core.WriteJSON(w, http.StatusOK, api.FromEntry(e))
	})
}

func (a *API) closeHandle(w http.ResponseWriter, r *core.Request) error {
	h, err := a.findHandle(r)
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.removeHandle(h)
	a.mu.Unlock()
	if err := h.file.Close(); err != nil {
		return err
	}
	return writeNoContent(w)
}

func queryOffset(q *core.Query) int64 {
	q.Required("offset")
	return q.Int("offset", 0, 0, math.MaxInt64)
}

func (a *API) readHandle(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	off := queryOffset(q)
	q.Required("length")
	n := q.Int("length", 0, 0, api.MaxIO)
	return a.withHandle(r, q, func(f *vole.File) error {
		if err := r.ReserveMemory(n); err != nil {
			return err
		}
		buf := readBuffers.Get().(*[]byte)
		defer readBuffers.Put(buf)
		if int64(cap(*buf)) < n {
			*buf = make([]byte, n)
		}
		got, err := f.ReadAt(r.Context(), (*buf)[:n], off)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return writeBytes(w, (*buf)[:got], err)
	})
}

// readBuffers are buffers that are read into. New ones of this size for each request would be
// most of what a server that streams files has in memory.
var readBuffers = sync.Pool{New: func() any { return new([]byte) }}

// readWholeBody reads a request's body into memory. A client that has sent little holds
// little; one that has sent a piece gets room for all that it announced, so that of many
// none waits in the middle for the others.
func readWholeBody(r *core.Request) ([]byte, error) {
	size := r.ContentLength
	if size > api.MaxIO {
		return nil, &http.MaxBytesError{Limit: api.MaxIO}
	}
	var b []byte
	for next := min(int64(firstBodyPiece), cmp.Or(max(size, 0), firstBodyPiece)); ; {
		if err := r.ReserveMemory(next - int64(len(b))); err != nil {
			return nil, err
		}
		have := len(b)
		b = append(make([]byte, 0, next), b...)[:next]
		n, err := fillBuffer(r.Body, b[have:])
		b = b[:have+n]
		switch {
		case errors.Is(err, io.EOF):
			return b, nil
		case err != nil:
			return nil, err
		case int64(len(b)) == size:
			return b, nil
		case size > 0:
			next = size
		default:
			next = 4 * next // MaxBody ends it
		}
	}
}

// firstBodyPiece is how much of a body is read before the rest of it gets room.
const firstBodyPiece = 64 << 10

func (a *API) writeHandle(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	off := queryOffset(q)
	return a.withHandle(r, q, func(f *vole.File) error {
		b, err := readWholeBody(r)
		if err != nil {
			return err
		}
		if _, err := f.WriteAt(r.Context(), b, off); err != nil {
			return err
		}
		return writeNoContent(w)
	})
}

func (a *API) appendHandle(w http.ResponseWriter, r *core.Request) error {
	return a.withHandle(r, r.Query(), func(f *vole.File) error {
		b, err := readWholeBody(r)
		if err != nil {
			return err
		}
		off, err := f.Append(r.Context(), b)
		if err != nil {
			return err
		}
		return core.WriteJSON(w, http.StatusOK, api.Appended{Offset: off})
	})
}

func (a *API) nextData(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	off := queryOffset(q)
	return a.withHandle(r, q, func(f *vole.File) error {
		start, end, err := f.NextData(r.Context(), off)
		if errors.Is(err, io.EOF) {
			return writeNoContent(w)
		}
		if err != nil {
			return err
		}
		return core.WriteJSON(w, http.StatusOK, api.Extent{Start: start, End: end})
	})
}

func (a *API) truncateHandle(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	q.Required("size")
	size := q.Int("size", 0, 0, math.MaxInt64)
	return a.changeHandle(w, r, q, func(f *vole.File) error { return f.Truncate(r.Context(), size) })
}

func (a *API) punchHole(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	off := queryOffset(q)
	q.Required("length")
	n := q.Int("length", 0, 0, math.MaxInt64)
	return a.changeHandle(w, r, q, func(f *vole.File) error { return f.PunchHole(r.Context(), off, n) })
}

func (a *API) syncHandle(w http.ResponseWriter, r *core.Request) error {
	return a.changeHandle(w, r, r.Query(), func(f *vole.File) error { return f.Sync(r.Context()) })
}

func (a *API) changeHandle(w http.ResponseWriter, r *core.Request, q *core.Query, fn func(f *vole.File) error) error {
	return a.withHandle(r, q, func(f *vole.File) error {
		if err := fn(f); err != nil {
			return err
		}
		return writeNoContent(w)
	})
}
