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
	"github.com/volehq/vole/server/internal/accounts"
	"github.com/volehq/vole/server/internal/core"
)

const (
	uploadTTL  = 24 * time.Hour
	smallPiece = 64 << 10 // bytes that are written at once
	largePiece = 1 << 20  // the same, once one such piece came
)

func (a *API) uploadRoutes() []*core.Route {
	const u = api.Prefix + "/uploads/{upload}"
	put := changeRoute("PUT", u, "continueUpload", writeScope, a.continueUpload)
	put.Stream, put.MaxBody, put.Idempotent = true, -1, false
	finish := changeRoute("POST", u+"/finish", "finishUpload", writeScope, a.finishUpload)
	finish.Stream = true // the digest may take its time
	return []*core.Route{
		changeRoute("POST", volumesPath+"/{volume}/uploads", "startUpload", writeScope, a.startUpload),
		readRoute(u, "getUpload", writeScope, a.getUpload),
		put, finish,
		changeRoute("DELETE", u, "cancelUpload", writeScope, a.cancelUpload),
	}
}

// startUpload makes the file beside its target that takes the bytes.
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
	up.Staging = path.Join(path.Dir(clean), fmt.Sprintf(".%s.%s.upload", base[:min(len(base), 200)], up.ID))
	err = r.WithFS(up.Volume, false, func(f *vole.FS) error {
		switch e, err := f.Lstat(r.Context(), clean); {
		case err == nil && e.IsDir():
			return vole.ErrIsDir
		case err == nil && up.Exclusive:
			return vole.ErrExists
		}
		if err := f.MkdirAll(r.Context(), path.Dir(clean), 0o755); err != nil {
			return err
		}
		// Recorded first: what has no record would stay for ever.
		if err := a.core.Options().Accounts.CreateUpload(r.Context(), up); err != nil {
			return err
		}
		h, err := f.Open(r.Context(), up.Staging, vole.OpenOptions{Create: true, Exclusive: true, Mode: 0o600})
		if err != nil {
			// Made or not, the file is not to be found without the record: only an error
			// that says that nothing was made ends it.
			if errors.Is(err, vole.ErrQuota) || errors.Is(err, vole.ErrNotExist) || errors.Is(err, vole.ErrNotDir) {
				err = errors.Join(err, a.core.Options().Accounts.DeleteUpload(r.Context(), up.Org, up.ID))
			}
			return err
		}
		return h.Close()
	})
	if err != nil {
		return err
	}
	return core.WriteJSON(w, http.StatusCreated, toAPIUpload(up, 0))
}

func toAPIUpload(up accounts.Upload, offset int64) api.Upload {
	return api.Upload{ID: up.ID, Offset: offset, Size: max(0, up.Size), Expires: up.Expires}
}

// withUpload calls fn with an upload of the caller's organisation and its file.
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

var errNoUpload = core.NotFound("there is no such upload: it was finished, given up, or took longer than a day")

func (a *API) getUpload(w http.ResponseWriter, r *core.Request) error {
	return a.withUpload(r, func(up accounts.Upload, _ *vole.FS, _ *vole.File, size int64) error {
		return core.WriteJSON(w, http.StatusOK, toAPIUpload(up, size))
	})
}

func (a *API) continueUpload(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	off := queryOffset(q)
	if err := q.Err(); err != nil {
		return err
	}
	return a.withUpload(r, func(up accounts.Upload, _ *vole.FS, h *vole.File, size int64) error {
		if off != size {
			return &core.Error{Code: api.CodeWrongOffset, Message: fmt.Sprintf("the upload has come to %d, not %d; go on there", size, off)}
		}
		end, err := receiveBody(r.Context(), h, off, up.Size, r.Body, r.TryReserveMemory)
		// What arrived stays, even if the client is gone.
		late, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), a.core.Options().Timeout)
		defer cancel()
		if err := errors.Join(err, h.Sync(late)); err != nil {
			return err
		}
		return core.WriteJSON(w, http.StatusOK, toAPIUpload(up, end))
	})
}

// receiveBody writes a body to a file from off on, up to size if that is known, and
// returns where it ended. Larger pieces are written if try says that there is memory for
// them.
func receiveBody(ctx context.Context, h *vole.File, off, size int64, body io.Reader, try func(n int64) bool) (int64, error) {
	buf := make([]byte, smallPiece)
	for {
		n, err := fillBuffer(body, buf)
		if size >= 0 && int64(n) > size-off {
			return off, driver.Errorf(vole.ErrInvalid, "more bytes came than the %d that were announced", size)
		}
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
		if len(buf) == smallPiece && try(largePiece) {
			buf = make([]byte, largePiece)
		}
	}
}

// fillBuffer fills buf as far as r goes. Other than io.ReadFull it tells an end, io.EOF,
// from a body that was broken off.
func fillBuffer(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

func (a *API) finishUpload(w http.ResponseWriter, r *core.Request) error {
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

func (a *API) cancelUpload(w http.ResponseWriter, r *core.Request) error {
	err := a.withUpload(r, func(up accounts.Upload, f *vole.FS, _ *vole.File, _ int64) error {
		return a.removeUpload(r.Context(), up, f)
	})
	if err != nil && !errors.Is(err, errNoUpload) {
		return err
	}
	return writeNoContent(w)
}

func (a *API) removeUpload(ctx context.Context, up accounts.Upload, f *vole.FS) error {
	if err := f.Remove(ctx, up.Staging); err != nil && !errors.Is(err, vole.ErrNotExist) && !errors.Is(err, vole.ErrNotDir) {
		return err
	}
	return a.core.Options().Accounts.DeleteUpload(ctx, up.Org, up.ID)
}

// sweepLoop removes what uploads have left that nobody finished, and records that have
// served their time.
func (a *API) sweepLoop() {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-a.core.Lifetime().Done():
			return
		case <-tick.C:
		}
		if err := a.sweepExpired(a.core.Lifetime()); err != nil && a.core.Lifetime().Err() == nil {
			a.core.Options().Log.Warn("uploads: removing those that nobody finished", "error", err)
		}
	}
}

const (
	sweepInterval = 10 * time.Minute
	sweepBatch    = 1000
)

func (a *API) sweepExpired(ctx context.Context) error {
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

func (a *API) sweepUpload(ctx context.Context, up accounts.Upload) error {
	store, err := a.core.Org(ctx, up.Org)
	if err != nil {
		return err
	}
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
