package native

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math"
	"net/http"
	"strconv"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/core"
)

func (a *API) fileRoutes() []*core.Route {
	const v = volumes + "/{volume}"
	content := get(v+"/content", "readFile", read, a.readFile)
	content.Stream = true
	put := change("PUT", v+"/content", "writeFile", write, a.writeFile)
	put.Stream, put.MaxBody = true, -1
	copy := change("POST", v+"/copy", "copy", write, a.two("to", func(ctx context.Context, f *vole.FS, q *core.Query, from, to string) error {
		return f.Copy(ctx, from, to, vole.CopyOptions{NoReplace: q.Bool("no_replace")})
	}))
	remove := change("DELETE", v+"/files", "removeFile", write, a.removeFile)
	copy.Stream, remove.Stream = true, true // trees take their time
	return []*core.Route{
		content, put, copy, remove,
		get(v+"/stat", "stat", read, a.stat),
		{Method: "POST", Path: v + "/stat", Name: "statMany", Scope: read, MaxBody: 8 << 20, Do: a.statMany},
		get(v+"/entries", "listEntries", read, a.listEntries),
		{Method: "DELETE", Path: v + "/entries", Name: "endListing", Scope: read, Do: a.endListing},
		get(v+"/readlink", "readlink", read, a.readlink),
		change("POST", v+"/mkdir", "mkdir", write, a.mkdir),
		change("POST", v+"/rename", "rename", write, a.two("to", func(ctx context.Context, f *vole.FS, q *core.Query, from, to string) error {
			return f.Rename(ctx, from, to, vole.RenameOptions{NoReplace: q.Bool("no_replace")})
		})),
		change("POST", v+"/link", "link", write, a.two("target", func(ctx context.Context, f *vole.FS, _ *core.Query, path, target string) error {
			return f.Link(ctx, target, path)
		})),
		change("POST", v+"/symlink", "symlink", write, a.two("target", func(ctx context.Context, f *vole.FS, _ *core.Query, path, target string) error {
			return f.Symlink(ctx, target, path)
		})),
		change("POST", v+"/mknod", "mknod", write, a.mknod),
		change("POST", v+"/chmod", "chmod", write, a.chmod),
		change("POST", v+"/chown", "chown", write, a.chown),
		change("POST", v+"/chtimes", "chtimes", write, a.chtimes),
		change("POST", v+"/truncate", "truncate", write, a.truncate),
		change("POST", v+"/sync", "syncVolume", write, a.sync),
		get(v+"/xattrs", "listXattrs", read, a.listXattrs),
		get(v+"/xattr", "getXattr", read, a.getXattr),
		change("PUT", v+"/xattr", "setXattr", write, a.setXattr),
		change("DELETE", v+"/xattr", "removeXattr", write, a.removeXattr),
	}
}

// open returns the files of the volume that the request names: those that its session
// has open, or those that requests share.
func (a *API) open(r *core.Request, readOnly bool) (fsys *vole.FS, done func(error), err error) {
	id := r.Header.Get(api.HeaderFilesystem)
	if id == "" {
		return r.Open(r.PathValue("volume"), readOnly)
	}
	s, err := a.filesystem(r, id)
	if err != nil {
		return nil, nil, err
	}
	if s.volume != r.PathValue("volume") {
		return nil, nil, driver.Errorf(vole.ErrInvalid, "the open file system is of the volume %s", s.volume)
	}
	r.Record.Volume, r.Record.VolumeName = s.volume, s.name
	return s.fs, func(error) {}, nil
}

func (a *API) use(r *core.Request, readOnly bool, fn func(*vole.FS) error) error {
	fsys, done, err := a.open(r, readOnly)
	if err != nil {
		return err
	}
	err = fn(fsys)
	done(err)
	return err
}

// change runs fn, a change at the path of the query. All parameters must have been read
// from q before.
func (a *API) change(w http.ResponseWriter, r *core.Request, q *core.Query, path string, fn func(f *vole.FS) error) error {
	r.Record.Path = path
	if err := q.Err(); err != nil {
		return err
	}
	if err := a.use(r, false, fn); err != nil {
		return err
	}
	return noContent(w)
}

// two handles a change that has two paths, the second in the parameter other.
func (a *API) two(other string, fn func(ctx context.Context, f *vole.FS, q *core.Query, path, other string) error) func(w http.ResponseWriter, r *core.Request) error {
	return func(w http.ResponseWriter, r *core.Request) error {
		q := r.Query()
		path, second := q.Required("path"), q.Required(other)
		if other == "to" {
			q.Bool("no_replace")
		}
		r.Record.Detail = other + " " + second
		return a.change(w, r, q, path, func(f *vole.FS) error { return fn(r.Context(), f, q, path, second) })
	}
}

func entry(e vole.Entry) api.Entry {
	out := api.FromEntry(e)
	if e.Mode.IsRegular() {
		out.Etag = etag(e)
	}
	return out
}

func (a *API) stat(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path, follow := q.Required("path"), q.Bool("follow")
	if err := q.Err(); err != nil {
		return err
	}
	return a.use(r, true, func(f *vole.FS) error {
		e, err := stat(r.Context(), f, path, follow)
		if err != nil {
			return err
		}
		return core.WriteJSON(w, http.StatusOK, entry(e))
	})
}

func stat(ctx context.Context, f *vole.FS, path string, follow bool) (vole.Entry, error) {
	if follow {
		return f.Stat(ctx, path)
	}
	return f.Lstat(ctx, path)
}

func (a *API) statMany(w http.ResponseWriter, r *core.Request) error {
	var in api.StatMany
	if err := r.ReadJSON(&in, false); err != nil {
		return err
	}
	if len(in.Paths) > 1000 {
		return driver.Errorf(vole.ErrInvalid, "%d paths; at most 1000 are described at once", len(in.Paths))
	}
	if err := r.Hold(int64(len(in.Paths) * entrySize)); err != nil {
		return err
	}
	out := api.StatResults{Results: make([]api.StatResult, len(in.Paths))}
	err := a.use(r, true, func(f *vole.FS) error {
		for i, path := range in.Paths {
			e, err := stat(r.Context(), f, path, in.Follow)
			switch status, code, message := core.Describe(err); {
			case err == nil:
				x := entry(e)
				out.Results[i].Entry = &x
			case errors.Is(err, vole.ErrNotFound) || status >= http.StatusInternalServerError || r.Context().Err() != nil:
				return err
			default:
				out.Results[i].Error = &api.Error{Code: code, Message: message}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return core.WriteJSON(w, http.StatusOK, out)
}

func (a *API) readlink(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path := q.Required("path")
	if err := q.Err(); err != nil {
		return err
	}
	return a.use(r, true, func(f *vole.FS) error {
		target, err := f.Readlink(r.Context(), path)
		return writeBytes(w, []byte(target), err)
	})
}

func writeBytes(w http.ResponseWriter, b []byte, err error) error {
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", api.TypeBytes)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, err = w.Write(b)
	return err
}

func (a *API) removeFile(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path, recursive := q.Required("path"), q.Bool("recursive")
	return a.change(w, r, q, path, func(f *vole.FS) error {
		if recursive {
			return f.RemoveAll(r.Context(), path)
		}
		return f.Remove(r.Context(), path)
	})
}

// mode returns the permission bits that the query has, or def.
func mode(q *core.Query, def fs.FileMode) (fs.FileMode, error) {
	s := q.String("mode")
	if !q.Has("mode") {
		return def, nil
	}
	return api.ParseMode(s)
}

func (a *API) mkdir(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path, parents := q.Required("path"), q.Bool("parents")
	perm, err := mode(q, 0o755)
	if err != nil {
		return err
	}
	return a.change(w, r, q, path, func(f *vole.FS) error {
		if parents {
			return f.MkdirAll(r.Context(), path, perm)
		}
		return f.Mkdir(r.Context(), path, perm)
	})
}

func (a *API) mknod(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path, kind, rdev := q.Required("path"), q.Required("type"), q.Int("rdev", 0, 0, math.MaxInt64)
	perm, err := mode(q, 0o644)
	if err != nil {
		return err
	}
	bits, ok := api.EntryType(kind).TypeBits()
	if !ok {
		return driver.Errorf(vole.ErrInvalid, "unknown type %q", kind)
	}
	return a.change(w, r, q, path, func(f *vole.FS) error { return f.Mknod(r.Context(), path, bits|perm, uint64(rdev)) })
}

func (a *API) chmod(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path := q.Required("path")
	perm, err := api.ParseMode(q.Required("mode"))
	if err := errors.Join(q.Err(), err); err != nil {
		return err
	}
	return a.change(w, r, q, path, func(f *vole.FS) error { return f.Chmod(r.Context(), path, perm) })
}

func (a *API) chown(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path := q.Required("path")
	uid, gid := q.Int("uid", -1, 0, math.MaxUint32-1), q.Int("gid", -1, 0, math.MaxUint32-1)
	return a.change(w, r, q, path, func(f *vole.FS) error { return f.Chown(r.Context(), path, int(uid), int(gid)) })
}

func (a *API) chtimes(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path, atime, mtime := q.Required("path"), q.Time("atime"), q.Time("mtime")
	return a.change(w, r, q, path, func(f *vole.FS) error { return f.Chtimes(r.Context(), path, atime, mtime) })
}

func (a *API) truncate(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path := q.Required("path")
	q.Required("size")
	size := q.Int("size", 0, 0, math.MaxInt64)
	return a.change(w, r, q, path, func(f *vole.FS) error { return f.Truncate(r.Context(), path, size) })
}

func (a *API) sync(w http.ResponseWriter, r *core.Request) error {
	return a.change(w, r, r.Query(), "", func(f *vole.FS) error { return f.Sync(r.Context()) })
}

func (a *API) listXattrs(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path := q.Required("path")
	if err := q.Err(); err != nil {
		return err
	}
	return a.use(r, true, func(f *vole.FS) error {
		names, err := f.Listxattr(r.Context(), path)
		if err != nil {
			return err
		}
		return core.WriteJSON(w, http.StatusOK, api.XattrNames{Names: append([]string{}, names...)})
	})
}

func (a *API) getXattr(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path, name := q.Required("path"), q.Required("name")
	if err := q.Err(); err != nil {
		return err
	}
	return a.use(r, true, func(f *vole.FS) error {
		value, err := f.Getxattr(r.Context(), path, name)
		return writeBytes(w, value, err)
	})
}

func (a *API) setXattr(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path, name := q.Required("path"), q.Required("name")
	value, err := io.ReadAll(http.MaxBytesReader(w, r.Body, driver.MaxXattrLen))
	if err != nil {
		return err
	}
	r.Record.Detail = name
	return a.change(w, r, q, path, func(f *vole.FS) error { return f.Setxattr(r.Context(), path, name, value) })
}

func (a *API) removeXattr(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path, name := q.Required("path"), q.Required("name")
	r.Record.Detail = name
	return a.change(w, r, q, path, func(f *vole.FS) error { return f.Removexattr(r.Context(), path, name) })
}
