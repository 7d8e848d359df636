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

// handleRoutes are the routes of open files. Writes by handle get no audit record each; that a
// file was opened for writing does.
func (a *API) handleRoutes() []*core.Route {
	const h = api.Prefix + "/handles/{handle}"
	open := changeRoute("POST", api.Prefix+"/filesystems/{filesystem}/handles", "openFile", readScope, a.openFile)
	open.Changes = false
	// Not in the audit log: see openFile.
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

// openFile opens a file for a session. With inode it reopens a file after a change of servers,
// and fails if the path is another file now.
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
		return driver.Errorf(vole.ErrInvalid, "inode reopens a file; leave out create, exclusive and truncate, which act before it is compared")
	}
	// The scope depends on the options, so the route itself only requires read.
	changes := opts.Write || opts.Append || opts.Create || opts.Truncate
	if changes && !r.Caller.Scopes.Has(writeScope) {
		return core.NeedsScope(writeScope)
	}
	f, err := a.findFilesystem(r, r.PathValue("filesystem"))
	if err != nil {
		return err
	}
	// The audit log records the opening for changes, not each write.
	r.Changes, r.Audit.Path = changes, path
	file, err := f.fs.Open(r.Context(), path, opts)
	if err != nil {
		return err
	}
	// Compared after opening: the path may lead to another file at any time before that.
	e, err := file.Stat(r.Context())
	if err == nil && inode != "" && inode != strconv.FormatUint(e.Inode, 10) {
		err = driver.Errorf(vole.ErrClosed, "%s is a different file now", path)
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	h := &opened{id: core.NewToken(), session: f.session, volume: f.volume, name: f.name, fs: f.fs, file: file}
	return core.AnswerJSON(w, http.StatusCreated, api.Handle{ID: h.id, Entry: api.FromEntry(e)}, a.registerOpened(h))
}

// findHandle returns the open file that the URL names.
func (a *API) findHandle(r *core.Request) (*opened, error) {
	return a.findOpened(r, r.PathValue("handle"), true)
}

// withHandle checks the query and calls fn with the open file of the request. All parameters
// must have been read from q before.
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

// statHandle answers with the metadata of an open file.
func (a *API) statHandle(w http.ResponseWriter, r *core.Request) error {
	return a.withHandle(r, r.Query(), func(f *vole.File) error {
		e, err := f.Stat(r.Context())
		return core.AnswerJSON(w, http.StatusOK, api.FromEntry(e), err)
	})
}

// closeHandle closes an open file.
func (a *API) closeHandle(w http.ResponseWriter, r *core.Request) error {
	h, err := a.findHandle(r)
	return a.closeOpened(w, h, err)
}

// readHandle answers with up to length bytes from offset, fewer at the end of the file.
func (a *API) readHandle(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	off, n := q.RequiredInt("offset", math.MaxInt64), q.RequiredInt("length", api.MaxIO)
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
		// A short answer tells the client of the end.
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return writeBytes(w, (*buf)[:got], err)
	})
}

// readBuffers are buffers for reads. A new one for each request would be most of the memory of a
// server that streams files.
var readBuffers = sync.Pool{New: func() any { return new([]byte) }}

// readWholeBody reads a body into memory that it accounts for. A client that has sent little
// holds little; one that has sent its first piece gets memory for all that it announced at once,
// so that many large bodies do not block one another halfway.
func readWholeBody(r *core.Request) ([]byte, error) {
	// Checked before reading; MaxBody ends a body of unknown length.
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

// firstBodyPiece is how much of a body is read before memory is taken for the rest.
const firstBodyPiece = 64 << 10

// writeHandle writes the body at offset.
func (a *API) writeHandle(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	off := q.RequiredInt("offset", math.MaxInt64)
	return a.withHandle(r, q, func(f *vole.File) error {
		b, err := readWholeBody(r)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(r.Context(), b, off)
		return core.AnswerNoContent(w, err)
	})
}

// appendHandle appends the body and answers with the offset that it got.
func (a *API) appendHandle(w http.ResponseWriter, r *core.Request) error {
	return a.withHandle(r, r.Query(), func(f *vole.File) error {
		b, err := readWholeBody(r)
		if err != nil {
			return err
		}
		off, err := f.Append(r.Context(), b)
		return core.AnswerJSON(w, http.StatusOK, api.Appended{Offset: off}, err)
	})
}

// nextData answers with the first range of data at or after offset, 204 if there is none.
func (a *API) nextData(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	off := q.RequiredInt("offset", math.MaxInt64)
	return a.withHandle(r, q, func(f *vole.File) error {
		start, end, err := f.NextData(r.Context(), off)
		if errors.Is(err, io.EOF) {
			return core.AnswerNoContent(w, nil)
		}
		return core.AnswerJSON(w, http.StatusOK, api.Extent{Start: start, End: end}, err)
	})
}

// truncateHandle sets the size of an open file.
func (a *API) truncateHandle(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	size := q.RequiredInt("size", math.MaxInt64)
	return a.changeHandle(w, r, q, func(f *vole.File) error { return f.Truncate(r.Context(), size) })
}

// punchHole deallocates a range of an open file.
func (a *API) punchHole(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	off, n := q.RequiredInt("offset", math.MaxInt64), q.RequiredInt("length", math.MaxInt64)
	return a.changeHandle(w, r, q, func(f *vole.File) error { return f.PunchHole(r.Context(), off, n) })
}

// syncHandle makes the writes to an open file durable.
func (a *API) syncHandle(w http.ResponseWriter, r *core.Request) error {
	return a.changeHandle(w, r, r.Query(), func(f *vole.File) error { return f.Sync(r.Context()) })
}

// changeHandle runs fn on the open file and answers without content.
func (a *API) changeHandle(w http.ResponseWriter, r *core.Request, q *core.Query, fn func(f *vole.File) error) error {
	return a.withHandle(r, q, func(f *vole.File) error { return core.AnswerNoContent(w, fn(f)) })
}
