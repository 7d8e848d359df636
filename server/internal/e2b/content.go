package e2b

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"

	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/core"
)

// readFile answers with a file's bytes, or the ranges of them that are asked for.
func readFile(w http.ResponseWriter, r *core.Request) error {
	path, err := pathOf(r, query(r))
	if err != nil {
		return err
	}
	return use(r, true, func(f *vole.FS) error {
		h, err := f.Open(r.Context(), path, vole.OpenOptions{})
		if errors.Is(err, vole.ErrIsDir) {
			return wrongType("is_a_directory", "is a directory; only files are read")
		}
		if err != nil {
			return missing(err)
		}
		defer h.Close()
		e, err := h.Stat(r.Context())
		if err != nil {
			return err
		}
		head := w.Header()
		head.Set("Etag", fmt.Sprintf("\"%x-%x-%x-%x\"", e.Inode, e.Size, e.Mtime.UnixNano(), e.Ctime.UnixNano()))
		head.Set("Content-Type", api.TypeBytes)
		head.Set("X-Content-Type-Options", "nosniff")
		head.Set("Content-Disposition", "attachment")
		return core.NewSource(r.Context(), h, e.Size).Serve(w, r, e.Mtime)
	})
}

// writeFile makes a file of the body. Others see the old file or the new one, whole; a
// new owner is set right after that.
func writeFile(w http.ResponseWriter, r *core.Request) error {
	q := query(r)
	force, m := q.Bool("force"), metadataOf(q)
	path, err := pathOf(r, q)
	if err != nil {
		return err
	}
	return use(r, false, func(f *vole.FS) error {
		if err := writable(r.Context(), f, path, force); err != nil {
			return err
		}
		_, err := f.WriteFrom(r.Context(), path, r.Body, vole.WriteOptions{Mode: m.perm(0), Exclusive: !force, Size: max(0, r.ContentLength)})
		// Mode 0 asks WriteFrom for the usual one.
		if err == nil && (m.owned() || m.Mode != nil && *m.Mode == 0) {
			err = m.set(r.Context(), f, path)
		}
		if err != nil {
			return err
		}
		return answer(w, r, f, http.StatusCreated, path)
	})
}

// writable says before the body is read what would keep it from being written: WriteFrom
// looks at the end, and makes missing parents, which nobody asked for here.
func writable(ctx context.Context, f *vole.FS, name string, force bool) error {
	e, err := f.Lstat(ctx, name)
	switch {
	case err == nil && e.Mode.IsDir():
		return vole.ErrIsDir
	case err == nil && !force:
		return vole.ErrExists
	case !errors.Is(err, vole.ErrNotExist):
		return missing(err)
	}
	if parent := path.Dir(name); parent != "." {
		_, err := f.Stat(ctx, parent)
		return missing(err)
	}
	return nil
}
