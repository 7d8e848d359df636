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
	open := change("POST", api.Prefix+"/filesystems/{filesystem}/handles", "openFile", read, a.openFile)
	open.Changes = false
	appendTo := change("POST", h+"/data", "appendHandle", write, a.appendHandle)
	appendTo.MaxBody, appendTo.OwnBuffer, appendTo.Changes = api.MaxIO, true, false
	list := []*core.Route{
		open, appendTo,
		get(h, "statHandle", read, a.statHandle),
		get(h+"/data", "readHandle", read, a.readHandle),
		get(h+"/extent", "nextData", read, a.nextData),
		{Method: "DELETE", Path: h, Name: "closeHandle", Scope: read, Stream: true, Once: true, Do: a.closeHandle},
		{Method: "PUT", Path: h + "/data", Name: "writeHandle", Scope: write, Once: true, MaxBody: api.MaxIO, OwnBuffer: true, Do: a.writeHandle},
		{Method: "POST", Path: h + "/truncate", Name: "truncateHandle", Scope: write, Once: true, Do: a.truncateHandle},
		{Method: "POST", Path: h + "/punch", Name: "punchHole", Scope: write, Once: true, Do: a.punchHole},
		{Method: "POST", Path: h + "/sync", Name: "syncHandle", Scope: read, Stream: true, Do: a.syncHandle},
	}
	return list
}

func (a *API) openFile(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path := q.Required("path")
	perm, err := mode(q, 0)
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
	if changes && !r.Who.Scopes.Has(write) {
		return core.NeedsScope(write)
	}
	f, err := a.filesystem(r, r.PathValue("filesystem"))
	if err != nil {
		return err
	}
	// What is written by handle is not recorded piece by piece, but that it can be is.
	r.Changes, r.Record.Path = changes, path
	file, err := f.fs.Open(r.Context(), path, opts)
	if err != nil {
		return err
	}
	e, err := file.Stat(r.Context())
	if err == nil && inode != "" && inode != strconv.FormatUint(e.Inode, 10) {
		err = driver.Errorf(vole.ErrClosed, "%s is another file by now", path)
	}
	h := &handle{id: core.NewToken(), sess: f.sess, volume: f.volume, name: f.name, file: file}
	if err == nil {
		err = a.add(f.sess, func() { a.handles[h.id] = h })
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	return core.WriteJSON(w, http.StatusCreated, api.Handle{ID: h.id, Entry: api.FromEntry(e)})
}

// handle returns a file that the caller has open.
func (a *API) handle(r *core.Request) (*handle, error) {
	a.mu.Lock()
	h := a.handles[r.PathValue("handle")]
	a.mu.Unlock()
	if h == nil || !h.sess.of(r) {
		return nil, errNoSession
	}
	return h, r.See(h.volume, h.name)
}

// onHandle checks the query and runs fn on the open file.
func (a *API) onHandle(r *core.Request, q *core.Query, fn func(f *vole.File) error) error {
	if err := q.Err(); err != nil {
		return err
	}
	h, err := a.handle(r)
	if err != nil {
		return err
	}
	return fn(h.file)
}

func (a *API) statHandle(w http.ResponseWriter, r *core.Request) error {
	return a.onHandle(r, r.Query(), func(f *vole.File) error {
		e, err := f.Stat(r.Context())
		if err != nil {
			return err
		}
		return core.WriteJSON(w, http.StatusOK, api.FromEntry(e))
	})
}

func (a *API) closeHandle(w http.ResponseWriter, r *core.Request) error {
	h, err := a.handle(r)
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.dropHandle(h)
	a.mu.Unlock()
	if err := h.file.Close(); err != nil {
		return err
	}
	return noContent(w)
}

func offset(q *core.Query) int64 {
	q.Required("offset")
	return q.Int("offset", 0, 0, math.MaxInt64)
}

func (a *API) readHandle(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	off := offset(q)
	q.Required("length")
	n := q.Int("length", 0, 0, api.MaxIO)
	return a.onHandle(r, q, func(f *vole.File) error {
		if err := r.Hold(n); err != nil {
			return err
		}
		buf := pieces.Get().(*[]byte)
		defer pieces.Put(buf)
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

// pieces are buffers that are read into. New ones of this size for each request would be
// most of what a server that streams files has in memory.
var pieces = sync.Pool{New: func() any { return new([]byte) }}

// readBody reads a request's body into memory. A client that has sent little holds
// little; one that has sent a piece gets room for all that it announced, so that of many
// none waits in the middle for the others.
func readBody(r *core.Request) ([]byte, error) {
	size := r.ContentLength
	if size > api.MaxIO {
		return nil, &http.MaxBytesError{Limit: api.MaxIO}
	}
	var b []byte
	for next := min(int64(bodyPiece), cmp.Or(max(size, 0), bodyPiece)); ; {
		if err := r.Hold(next - int64(len(b))); err != nil {
			return nil, err
		}
		have := len(b)
		b = append(make([]byte, 0, next), b...)[:next]
		n, err := readPiece(r.Body, b[have:])
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

// bodyPiece is how much of a body is read before the rest of it gets room.
const bodyPiece = 64 << 10

func (a *API) writeHandle(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	off := offset(q)
	return a.onHandle(r, q, func(f *vole.File) error {
		b, err := readBody(r)
		if err != nil {
			return err
		}
		if _, err := f.WriteAt(r.Context(), b, off); err != nil {
			return err
		}
		return noContent(w)
	})
}

func (a *API) appendHandle(w http.ResponseWriter, r *core.Request) error {
	return a.onHandle(r, r.Query(), func(f *vole.File) error {
		b, err := readBody(r)
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
	off := offset(q)
	return a.onHandle(r, q, func(f *vole.File) error {
		start, end, err := f.NextData(r.Context(), off)
		if errors.Is(err, io.EOF) {
			return noContent(w)
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
	return a.doHandle(w, r, q, func(f *vole.File) error { return f.Truncate(r.Context(), size) })
}

func (a *API) punchHole(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	off := offset(q)
	q.Required("length")
	n := q.Int("length", 0, 0, math.MaxInt64)
	return a.doHandle(w, r, q, func(f *vole.File) error { return f.PunchHole(r.Context(), off, n) })
}

func (a *API) syncHandle(w http.ResponseWriter, r *core.Request) error {
	return a.doHandle(w, r, r.Query(), func(f *vole.File) error { return f.Sync(r.Context()) })
}

func (a *API) doHandle(w http.ResponseWriter, r *core.Request, q *core.Query, fn func(f *vole.File) error) error {
	return a.onHandle(r, q, func(f *vole.File) error {
		if err := fn(f); err != nil {
			return err
		}
		return noContent(w)
	})
}
