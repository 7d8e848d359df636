package msb

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/filemode"
	"github.com/volehq/vole/server/internal/core"
)

const (
	headerPath      = "X-Msb-File-Path"
	headerRecursive = "X-Msb-File-Recursive"
)

// wireFile is a file or directory in answers.
type wireFile struct {
	Path       string     `json:"path"` // from the volume's root, with a leading slash
	Kind       string     `json:"kind"`
	Size       int64      `json:"size"`
	Mode       uint32     `json:"mode"` // of stat(2), with the type bits
	UID        uint32     `json:"uid"`
	GID        uint32     `json:"gid"`
	Readonly   bool       `json:"readonly"`
	AccessedAt *time.Time `json:"accessed_at,omitempty"`
	ModifiedAt *time.Time `json:"modified_at,omitempty"`
}

// toWireFile returns the wire form of an entry at a path.
func toWireFile(at string, e vole.Entry) wireFile {
	perm := filemode.Perm(e.Mode)
	f := wireFile{Path: driver.RootedPath(at), Kind: "file", Size: e.Size, Mode: filemode.File | perm, UID: e.UID, GID: e.GID,
		Readonly: perm&0o222 == 0, AccessedAt: optionalTime(e.Atime), ModifiedAt: optionalTime(e.Mtime)}
	if e.IsDir() {
		f.Kind, f.Mode = "directory", filemode.Dir|perm
	}
	return f
}

// optionalTime returns a time in UTC, nil for an unknown one.
func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// followLink returns the entry that a symbolic link leads to, and any other entry as it is. A
// broken link stays a file of size 0, as this dialect has no links.
func followLink(ctx context.Context, f *vole.FS, at string, e vole.Entry) (vole.Entry, error) {
	if e.Mode.Type() != fs.ModeSymlink {
		return e, nil
	}
	to, err := f.Stat(ctx, at)
	switch {
	case err == nil:
		return to, nil
	case errors.Is(err, vole.ErrNotExist), errors.Is(err, vole.ErrNotDir), errors.Is(err, vole.ErrLoop), errors.Is(err, vole.ErrPathEscape):
		e.Size = 0 // there is nothing to read
		return e, nil
	}
	return e, err
}

// invalidPathError returns the dialect's error for a path.
func invalidPathError(err error) error {
	_, _, message := core.Describe(err)
	return &core.Error{Status: http.StatusBadRequest, Code: codePath, Message: message}
}

// cleanClientPath checks and cleans a path from a client.
func cleanClientPath(p string) (string, error) {
	if !utf8.ValidString(p) {
		return "", invalidPathError(invalidRequest("the path is not UTF-8"))
	}
	clean, err := driver.CleanPath(p)
	if err != nil {
		return "", invalidPathError(err)
	}
	return clean, nil
}

// decodeHeaderPath decodes a path from base64url without padding. Only the canonical encoding is
// accepted, so each path has one spelling.
func decodeHeaderPath(header string) (string, error) {
	if len(header) > base64.RawURLEncoding.EncodedLen(driver.MaxPathLen) {
		return "", invalidPathError(invalidRequest("the path is longer than %d bytes", driver.MaxPathLen))
	}
	b, err := base64.RawURLEncoding.DecodeString(header)
	if err != nil || base64.RawURLEncoding.EncodeToString(b) != header {
		return "", invalidPathError(invalidRequest("the header %s is not base64url without padding", headerPath))
	}
	return cleanClientPath(string(b))
}

// pathFromHeader returns the path in the request's header and notes it for the audit log. An empty
// header is the root.
func pathFromHeader(r *core.Request) (string, error) {
	values := r.Header.Values(headerPath)
	if len(values) != 1 {
		return "", invalidRequest("send the path in one header %s, as base64url without padding", headerPath)
	}
	p, err := decodeHeaderPath(values[0])
	r.Audit.Path = p
	return p, err
}

// withVolumeFS calls fn with the files of the volume in the URL.
func (a *api) withVolumeFS(r *core.Request, readOnly bool, fn func(ctx context.Context, f *vole.FS) error) error {
	id, err := a.resolveVolumeID(r)
	if err != nil {
		return err
	}
	return r.WithFS(id, readOnly, func(f *vole.FS) error {
		if f.Volume().ID() != id {
			return vole.ErrNotFound // its name looks like an id
		}
		return fn(r.Context(), f)
	})
}

// withPathOfHeader is withVolumeFS for requests that act on the path in the header.
func (a *api) withPathOfHeader(r *core.Request, readOnly bool, fn func(ctx context.Context, f *vole.FS, at string) error) error {
	p, err := pathFromHeader(r)
	if err != nil {
		return err
	}
	return a.withVolumeFS(r, readOnly, func(ctx context.Context, f *vole.FS) error { return fn(ctx, f, p) })
}

// statFile answers with the metadata of a path.
func (a *api) statFile(w http.ResponseWriter, r *core.Request) error {
	return a.withPathOfHeader(r, true, func(ctx context.Context, f *vole.FS, at string) error {
		e, err := f.Lstat(ctx, at)
		if err == nil {
			e, err = followLink(ctx, f, at, e)
		}
		return core.AnswerJSON(w, http.StatusOK, map[string]wireFile{"metadata": toWireFile(at, e)}, err)
	})
}

// fileExists answers whether a path exists.
func (a *api) fileExists(w http.ResponseWriter, r *core.Request) error {
	return a.withPathOfHeader(r, true, func(ctx context.Context, f *vole.FS, at string) error {
		exists, err := f.Exists(ctx, at)
		return core.AnswerJSON(w, http.StatusOK, map[string]bool{"exists": exists}, err)
	})
}

// listFiles streams the entries of a directory, so that memory does not grow with their number.
func (a *api) listFiles(w http.ResponseWriter, r *core.Request) error {
	return a.withPathOfHeader(r, true, func(ctx context.Context, f *vole.FS, at string) error {
		d, err := f.OpenDir(ctx, at, vole.DirOptions{Sorted: true})
		if err != nil {
			return err
		}
		defer d.Close()
		out := core.NewJSONArray(w, `{"entries":[`, "]}")
		for {
			entries, err := d.Read(ctx, listBatch)
			if errors.Is(err, io.EOF) {
				return out.Close()
			}
			if err != nil {
				return err
			}
			for _, e := range entries {
				name := path.Join(at, e.Name)
				if e, err = followLink(ctx, f, name, e); err != nil {
					return err
				}
				if err := out.Add(toWireFile(name, e)); err != nil {
					return err
				}
			}
		}
	})
}

// listBatch is how many entries are read at a time.
const listBatch = 512

// makeDir makes a directory and missing parents.
func (a *api) makeDir(w http.ResponseWriter, r *core.Request) error {
	var in struct {
		Path *string `json:"path"`
	}
	if err := r.ReadJSON(&in, false); err != nil {
		return err
	}
	if in.Path == nil {
		return invalidRequest("the body needs \"path\"")
	}
	p, err := cleanClientPath(*in.Path)
	if err != nil {
		return err
	}
	r.Audit.Path = p
	return core.AnswerNoContent(w, a.withVolumeFS(r, false, func(ctx context.Context, f *vole.FS) error { return f.MkdirAll(ctx, p, 0o755) }))
}

// removeFile removes a file or an empty directory, or with the header a tree. Removing what does
// not exist is an error either way.
func (a *api) removeFile(w http.ResponseWriter, r *core.Request) error {
	recursive := false
	switch v := strings.ToLower(r.Header.Get(headerRecursive)); v {
	case "true":
		recursive = true
	case "", "false":
	default:
		return invalidRequest("the header %s: write true or false", headerRecursive)
	}
	return core.AnswerNoContent(w, a.withPathOfHeader(r, false, func(ctx context.Context, f *vole.FS, at string) error {
		if !recursive {
			return f.Remove(ctx, at)
		}
		// RemoveAll succeeds for a missing path; this dialect does not.
		if _, err := f.Lstat(ctx, at); err != nil {
			return err
		}
		return f.RemoveAll(ctx, at)
	}))
}

// copyFile copies a file or tree.
func (a *api) copyFile(w http.ResponseWriter, r *core.Request) error {
	return a.twoPathChange(w, r, func(ctx context.Context, f *vole.FS, from, to string) error {
		return f.Copy(ctx, from, to, vole.CopyOptions{})
	})
}

// renameFile renames a file or directory.
func (a *api) renameFile(w http.ResponseWriter, r *core.Request) error {
	return a.twoPathChange(w, r, func(ctx context.Context, f *vole.FS, from, to string) error {
		return f.Rename(ctx, from, to, vole.RenameOptions{})
	})
}

// twoPathChange runs a change that has two paths, from and to, in the body.
func (a *api) twoPathChange(w http.ResponseWriter, r *core.Request, fn func(ctx context.Context, f *vole.FS, from, to string) error) error {
	var in struct {
		From *string `json:"from"`
		To   *string `json:"to"`
	}
	if err := r.ReadJSON(&in, false); err != nil {
		return err
	}
	if in.From == nil || in.To == nil {
		return invalidRequest("the body needs \"from\" and \"to\"")
	}
	from, err := cleanClientPath(*in.From)
	if err != nil {
		return err
	}
	to, err := cleanClientPath(*in.To)
	if err != nil {
		return err
	}
	r.Audit.Path, r.Audit.Detail = from, "to "+to
	return core.AnswerNoContent(w, a.withVolumeFS(r, false, func(ctx context.Context, f *vole.FS) error { return fn(ctx, f, from, to) }))
}
