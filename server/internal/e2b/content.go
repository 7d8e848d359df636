package e2b

import (
	"context"
	"errors"
	"net/http"
	"path"

	"github.com/volehq/vole"
	"github.com/volehq/vole/server/internal/core"
)

// readContent answers with the content of a file, or with the ranges that the request asks for.
func readContent(w http.ResponseWriter, r *core.Request) error {
	return withPath(r, lenientQuery(r), true, func(f *vole.FS, path string) error {
		h, err := f.Open(r.Context(), path, vole.OpenOptions{})
		// SDKs expect status 400 for a directory.
		if errors.Is(err, vole.ErrIsDir) {
			return wrongTypeError("is_a_directory", "is a directory; only files can be read")
		}
		if err != nil {
			return notDirAsNotExist(err)
		}
		defer h.Close()
		return core.ServeFile(w, r, h, true)
	})
}

// writeContent replaces a file by the body, atomically; a new owner is set right after that. With
// force it replaces an existing file and makes missing parents, which get the same owner.
func writeContent(w http.ResponseWriter, r *core.Request) error {
	q := lenientQuery(r)
	force, m := q.Bool("force"), parseMetadata(q)
	return withPath(r, q, false, func(f *vole.FS, name string) error {
		missingParent, err := checkWritable(r.Context(), f, name, force)
		if err != nil {
			return err
		}
		if missingParent {
			if err := makeParentDirs(r.Context(), f, path.Dir(name), m); err != nil {
				return err
			}
		}
		_, err = f.WriteFrom(r.Context(), name, r.Body, vole.WriteOptions{Mode: m.modeOrDefault(0), Exclusive: !force, Size: max(0, r.ContentLength)})
		// Mode 0 asks WriteFrom for the usual one.
		if err == nil && (m.setsOwner() || m.Mode != nil && *m.Mode == 0) {
			err = m.applyToPath(r.Context(), f, name)
		}
		if err != nil {
			return err
		}
		return answerEntry(w, r, f, http.StatusCreated, name)
	})
}

// makeParentDirs makes the parents of a file, with the default mode and the owner of the file.
func makeParentDirs(ctx context.Context, f *vole.FS, dir string, m metadata) error {
	m.Mode = nil
	made, err := makeDirAll(ctx, f, dir, m)
	for _, d := range made {
		if err == nil {
			err = m.applyToPath(ctx, f, d)
		}
	}
	if errors.Is(err, vole.ErrExists) || errors.Is(err, vole.ErrNotDir) {
		return notDirAsNotExist(vole.ErrNotDir) // a concurrent request made a file there
	}
	return err
}

// checkWritable returns, before the body is read, the errors that WriteFrom would return after
// it. missingParent means that directories must be made, which only force allows.
func checkWritable(ctx context.Context, f *vole.FS, name string, force bool) (missingParent bool, err error) {
	e, err := f.Lstat(ctx, name)
	switch {
	case err == nil && e.Mode.IsDir():
		return false, vole.ErrIsDir
	case err == nil && !force:
		return false, vole.ErrExists
	case !errors.Is(err, vole.ErrNotExist):
		return false, notDirAsNotExist(err)
	}
	// Only a missing parent can be made; a file in its place cannot.
	parent := path.Dir(name)
	if parent == "." {
		return false, nil
	}
	_, err = f.Stat(ctx, parent)
	if force && errors.Is(err, vole.ErrNotExist) && !errors.Is(err, vole.ErrNotDir) {
		return true, nil
	}
	return false, notDirAsNotExist(err)
}
