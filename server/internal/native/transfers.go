package native

import (
	"errors"
	"io"
	"net/http"
	"path"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/core"
	"github.com/volehq/vole/transfer"
)

// transferRoutes are the routes that move whole trees or files beyond one request: archives,
// resumable uploads, direct transfers.
func (a *API) transferRoutes() []*core.Route {
	const v = volumesPath + "/{volume}"
	down := readRoute(v+"/archive", "readArchive", readScope, a.readArchive)
	down.Stream = true
	up := changeRoute("PUT", v+"/archive", "writeArchive", writeScope, a.writeArchive)
	up.Stream, up.MaxBody, up.DecodesBody = true, -1, true
	return append(append(a.uploadRoutes(), a.directRoutes()...), down, up)
}

// archiveBuffer is the memory that package transfer takes for one archive, in bytes.
const archiveBuffer = 256 << 10

// archivePath returns the parameter path, empty for the root.
func archivePath(r *core.Request) (string, error) {
	q := r.Query()
	p := q.String("path")
	return p, q.Err()
}

// readArchive answers with a tree as a tar archive. An error in the middle can only break the
// connection off.
func (a *API) readArchive(w http.ResponseWriter, r *core.Request) error {
	p, err := archivePath(r)
	if err != nil {
		return err
	}
	if err := r.ReserveMemory(archiveBuffer); err != nil {
		return err
	}
	return a.withFS(r, true, func(f *vole.FS) error {
		name := path.Base(path.Clean("/" + p))
		if name == "/" {
			name = "."
		}
		w.Header().Set("Content-Type", api.TypeTar)
		_, err := transfer.ToTar(r.Context(), w, f, p, name, transfer.Options{Owner: true})
		return err
	})
}

// writeArchive unpacks a tar archive, perhaps compressed, into a directory. What was unpacked
// before an error stays. Errors of the archive itself are the client's.
func (a *API) writeArchive(w http.ResponseWriter, r *core.Request) error {
	p, err := archivePath(r)
	if err != nil {
		return err
	}
	r.Audit.Path = p
	if err := r.ReserveMemory(archiveBuffer); err != nil {
		return err
	}
	f, done, err := a.openBatchFS(r)
	if err != nil {
		return err
	}
	stats, err := transfer.FromTar(r.Context(), transfer.Volume(f), p, r.Body, transfer.Options{Owner: true, Op: "unpack"})
	if cerr := done(); err == nil {
		err = cerr
	}
	// What is wrong with the stream is the client's mistake, unless it is an error that has a
	// kind of its own, such as a full quota.
	if bad := (*transfer.StreamError)(nil); errors.As(err, &bad) && (isInternalError(err) || errors.Is(err, vole.ErrCorrupt) || errors.Is(err, io.ErrUnexpectedEOF)) {
		err = driver.Errorf(vole.ErrInvalid, "%v", err)
	}
	return core.AnswerJSON(w, http.StatusOK, api.Unpacked{Files: stats.Files, Directories: stats.Directories, Links: stats.Links,
		Others: stats.Others, Bytes: stats.Bytes, Skipped: stats.Skipped, Lost: stats.Lost}, err)
}

// isInternalError reports whether a client would see err as an internal error.
func isInternalError(err error) bool {
	_, code, _ := core.Describe(err)
	return code == api.CodeInternal
}

// openBatchFS opens the volume of the request so that many changes become durable together.
// closeFS syncs; on a session's file system it does nothing, since its client syncs.
func (a *API) openBatchFS(r *core.Request) (f *vole.FS, closeFS func() error, err error) {
	if r.Header.Get(api.HeaderFilesystem) != "" {
		f, end, err := a.acquireFS(r, false)
		return f, func() error { end(nil); return nil }, err
	}
	v, err := r.VisibleVolume(r.PathValue("volume"))
	if err != nil {
		return nil, nil, err
	}
	r.EvictVolume(v.ID())
	f, err = v.OpenFS(r.Context(), vole.FSOptions{Batch: true})
	if err != nil {
		return nil, nil, err
	}
	return f, f.Close, nil
}
