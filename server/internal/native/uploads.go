package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"path"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/internal/filemode"
	"github.com/volehq/vole/internal/periodic"
	"github.com/volehq/vole/server/internal/accounts"
	"github.com/volehq/vole/server/internal/core"
)

const (
	uploadTTL  = 24 * time.Hour
	smallPiece = 64 << 10 // bytes written at once
	largePiece = 1 << 20  // the same, after a first small piece
)

// uploadRoutes are the routes of resumable uploads: start, send pieces, finish or cancel. The
// bytes go to a staging file beside the target, which finish renames; the record in the accounts
// database lets any server continue and the sweep clean up.
func (a *API) uploadRoutes() []*core.Route {
	const u = api.Prefix + "/uploads/{upload}"
	put := changeRoute("PUT", u, "continueUpload", writeScope, a.continueUpload)
	// Not idempotent by key: the offset tells a repeated piece from a new one.
	put.Stream, put.MaxBody, put.Idempotent = true, -1, false
	finish := changeRoute("POST", u+"/finish", "finishUpload", writeScope, a.finishUpload)
	finish.Stream = true // computing the digest may take long
	return []*core.Route{
		changeRoute("POST", volumesPath+"/{volume}/uploads", "startUpload", writeScope, a.startUpload),
		readRoute(u, "getUpload", writeScope, a.getUpload),
		put, finish,
		changeRoute("DELETE", u, "cancelUpload", writeScope, a.cancelUpload),
	}
}

// startUpload records an upload and makes its staging file.
func (a *API) startUpload(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	p := q.Required("path")
	perm, err := queryMode(q, 0)
	// The id is checked as a name is, which begins with a letter; a token may not.
	up := accounts.Upload{ID: "u" + core.NewToken(), Org: r.Caller.Org, KeyID: r.Caller.KeyID, Path: p, Mode: filemode.Perm(perm), Exclusive: q.Bool("exclusive"),
		Size: q.Int("size", -1, 0, math.MaxInt64), Created: time.Now(), Expires: time.Now().Add(uploadTTL)}
	if err := errors.Join(err, q.Err()); err != nil {
		return err
	}
	r.Audit.Path = p
	clean, err := driver.CleanPath(p)
	if err != nil {
		return err
	}
	if clean == "." {
		return vole.ErrIsDir
	}
	if err := a.core.CheckFileSize(max(0, up.Size)); err != nil {
		return err
	}
	v, err := r.VisibleVolume(r.PathValue("volume"))
	if err != nil {
		return err
	}
	up.Volume = v.ID()
	base := path.Base(clean)
	// In the directory of the target: finishUpload renames it, which is atomic only within a
	// volume. The id keeps concurrent uploads of one path apart.
	up.Staging = path.Join(path.Dir(clean), fmt.Sprintf(".%s.%s.upload", base[:min(len(base), 200)], up.ID))
	err = r.WithFS(up.Volume, false, func(f *vole.FS) error {
		// Refused now rather than after all bytes have come; finishUpload checks again.
		switch e, err := f.Lstat(r.Context(), clean); {
		case err == nil && e.IsDir():
			return vole.ErrIsDir
		case err == nil && up.Exclusive:
			return vole.ErrExists
		}
		if err := f.MkdirAll(r.Context(), path.Dir(clean), 0o755); err != nil {
			return err
		}
		// Recorded first: a staging file without a record would never be removed.
		if err := a.core.Options().Accounts.CreateUpload(r.Context(), up); err != nil {
			return err
		}
		h, err := f.Open(r.Context(), up.Staging, vole.OpenOptions{Create: true, Exclusive: true, Mode: 0o600})
		if err != nil {
			// The file may exist in spite of the error, and only the record leads to it:
			// the record goes only if the error says that nothing was made.
			if errors.Is(err, vole.ErrQuota) || errors.Is(err, vole.ErrNotExist) || errors.Is(err, vole.ErrNotDir) {
				err = errors.Join(err, a.core.Options().Accounts.DeleteUpload(r.Context(), up.Org, up.ID))
			}
			return err
		}
		return h.Close()
	})
	return core.AnswerJSON(w, http.StatusCreated, toAPIUpload(up, 0), err)
}

// toAPIUpload returns the wire form of an upload.
func toAPIUpload(up accounts.Upload, offset int64) api.Upload {
	return api.Upload{ID: up.ID, Offset: offset, Size: max(0, up.Size), Expires: up.Expires}
}

// withUpload calls fn with an upload of the caller's organisation and its open staging file of
// that size. Uploads of volumes that the caller may not see do not exist.
func (a *API) withUpload(r *core.Request, fn func(up accounts.Upload, f *vole.FS, h *vole.File, size int64) error) error {
	up, err := a.core.Options().Accounts.Upload(r.Context(), r.Caller.Org, r.PathValue("upload"))
	if errors.Is(err, vole.ErrNotExist) {
		return errNoUpload
	}
	if err != nil {
		return err
	}
	r.Audit.Path = up.Path
	if r.CheckVisible(up.Volume, "") != nil {
		return errNoUpload
	}
	return r.WithFS(up.Volume, false, func(f *vole.FS) error {
		h, err := f.Open(r.Context(), up.Staging, vole.OpenOptions{Write: true, NoFollow: true})
		if errors.Is(err, vole.ErrNotExist) {
			return errNoUpload
		}
		if err != nil {
			return err
		}
		defer h.Close()
		e, err := h.Stat(r.Context())
		if err != nil {
			return err
		}
		return fn(up, f, h, e.Size)
	})
}

var errNoUpload = core.NotFound("no such upload: it was finished or cancelled, or has expired after a day")

// getUpload answers with how much of an upload has arrived.
func (a *API) getUpload(w http.ResponseWriter, r *core.Request) error {
	return a.withUpload(r, func(up accounts.Upload, _ *vole.FS, _ *vole.File, size int64) error {
		return core.WriteJSON(w, http.StatusOK, toAPIUpload(up, size))
	})
}

// continueUpload appends the body to an upload, at the offset where it ends. What arrived stays
// even if the connection breaks: the client asks for the offset and continues.
func (a *API) continueUpload(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	off := q.RequiredInt("offset", math.MaxInt64)
	if err := q.Err(); err != nil {
		return err
	}
	return a.withUpload(r, func(up accounts.Upload, _ *vole.FS, h *vole.File, size int64) error {
		// The file itself is the record of progress: pieces neither overlap nor leave gaps.
		if off != size {
			return &core.Error{Code: api.CodeWrongOffset, Message: fmt.Sprintf("the upload has %d bytes, not %d; continue there", size, off)}
		}
		end, err := receiveBody(r.Context(), h, off, up.Size, r.Body, r.TryReserveMemory)
		// What arrived is kept, even if the client has disconnected.
		late, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), a.core.Options().Timeout)
		defer cancel()
		return core.AnswerJSON(w, http.StatusOK, toAPIUpload(up, end), errors.Join(err, h.Sync(late)))
	})
}

// receiveBody writes a body to a file from off on, up to size if that is known, and returns
// where it ended. It switches to large pieces if tryReserve has memory for them.
func receiveBody(ctx context.Context, h *vole.File, off, size int64, body io.Reader, tryReserve func(n int64) bool) (int64, error) {
	buf := make([]byte, smallPiece)
	for {
		n, err := fillBuffer(body, buf)
		if size >= 0 && int64(n) > size-off {
			return off, driver.Errorf(vole.ErrInvalid, "the body is longer than the %d bytes announced", size)
		}
		// Written even if the client has disconnected: the next request continues after it.
		if n > 0 {
			if _, werr := h.WriteAt(context.WithoutCancel(ctx), buf[:n], off); werr != nil {
				return off, werr
			}
			off += int64(n)
		}
		if errors.Is(err, io.EOF) {
			return off, nil
		}
		if err != nil {
			return off, err
		}
		if len(buf) == smallPiece && tryReserve(largePiece) {
			buf = make([]byte, largePiece)
		}
	}
}

// fillBuffer reads until buf is full. Unlike io.ReadFull it keeps the difference between the end
// of the body (io.EOF) and a broken one.
func fillBuffer(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

// finishUpload checks size and digest and renames the staging file to its target. Without a mode
// it keeps that of the file that it replaces.
func (a *API) finishUpload(w http.ResponseWriter, r *core.Request) error {
	// The digest is of the whole file, so it is computed from the staging file.
	sum, want, err := parseReprDigest(r.Header.Values(api.HeaderDigest))
	if err != nil {
		return err
	}
	return a.withUpload(r, func(up accounts.Upload, f *vole.FS, h *vole.File, size int64) error {
		if up.Size >= 0 && size != up.Size {
			return &core.Error{Code: api.CodeWrongOffset, Message: fmt.Sprintf("%d bytes have arrived, and %d were announced; send the rest first", size, up.Size)}
		}
		if sum != nil {
			s := core.NewFileSource(r.Context(), h, size)
			if _, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{s}, make([]byte, smallPiece)); err != nil {
				return err
			}
			if string(sum.Sum(nil)) != string(want) {
				return errDigest
			}
		}
		// Mode 0 keeps that of the file that is replaced; a new file gets 0644.
		perm := filemode.Go(up.Mode)
		if old, err := f.Lstat(r.Context(), up.Path); perm == 0 && err == nil && old.Mode.IsRegular() {
			perm = old.Mode & (filemode.Go(0o7777))
		} else if perm == 0 {
			perm = 0o644
		}
		if err := f.Chmod(r.Context(), up.Staging, perm); err != nil {
			return err
		}
		if err := f.Rename(r.Context(), up.Staging, up.Path, vole.RenameOptions{NoReplace: up.Exclusive}); err != nil {
			return err
		}
		if err := a.core.Options().Accounts.DeleteUpload(r.Context(), up.Org, up.ID); err != nil {
			a.core.Options().Log.Warn("upload: its record stays until it expires", "upload", up.ID, "error", err)
		}
		return core.WriteJSON(w, http.StatusOK, api.Written{Size: size})
	})
}

// cancelUpload removes an upload. Cancelling one that does not exist succeeds.
func (a *API) cancelUpload(w http.ResponseWriter, r *core.Request) error {
	err := a.withUpload(r, func(up accounts.Upload, f *vole.FS, _ *vole.File, _ int64) error {
		return a.removeUpload(r.Context(), up, f)
	})
	return core.AnswerNoContent(w, ignoreErrors(err, errNoUpload))
}

// removeUpload removes the staging file and then the record: without the record nobody would
// find the file.
func (a *API) removeUpload(ctx context.Context, up accounts.Upload, f *vole.FS) error {
	if err := f.Remove(ctx, up.Staging); err != nil && !errors.Is(err, vole.ErrNotExist) && !errors.Is(err, vole.ErrNotDir) {
		return err
	}
	return a.core.Options().Accounts.DeleteUpload(ctx, up.Org, up.ID)
}

// sweepLoop runs a sweep every sweepInterval until the server ends.
func (a *API) sweepLoop() {
	for range periodic.Ticks(a.core.Lifetime(), sweepInterval) {
		if err := a.sweepExpired(a.core.Lifetime()); err != nil && a.core.Lifetime().Err() == nil {
			a.core.Options().Log.Warn("uploads: cannot remove expired ones", "error", err)
		}
	}
}

const (
	sweepInterval = 10 * time.Minute
	sweepBatch    = 1000
)

// sweepExpired removes expired uploads, and old records of idempotency keys and audit.
func (a *API) sweepExpired(ctx context.Context) error {
	// Records of idempotency keys outlive any retry by far after a day.
	acc := a.core.Options().Accounts
	if err := acc.PruneIdempotent(ctx, time.Now().Add(-24*time.Hour)); err != nil {
		return err
	}
	if keep := a.opts.KeepAudit; keep > 0 {
		if err := acc.PruneAudit(ctx, time.Now().Add(-keep)); err != nil {
			return err
		}
	}
	late, err := acc.ExpiredUploads(ctx, sweepBatch)
	if err != nil {
		return err
	}
	var errs []error
	for _, up := range late {
		errs = append(errs, a.sweepUpload(ctx, up))
	}
	return errors.Join(errs...)
}

// sweepUpload removes one expired upload, whatever organisation has it.
func (a *API) sweepUpload(ctx context.Context, up accounts.Upload) error {
	store, err := a.core.Org(ctx, up.Org)
	if err != nil {
		return err
	}
	// The staging file is gone with its volume.
	v, err := store.Get(ctx, up.Volume)
	if errors.Is(err, vole.ErrNotFound) {
		return a.core.Options().Accounts.DeleteUpload(ctx, up.Org, up.ID)
	}
	if err != nil {
		return err
	}
	f, err := v.FS(ctx)
	if err != nil {
		return err
	}
	return errors.Join(a.removeUpload(ctx, up, f), f.Close())
}
